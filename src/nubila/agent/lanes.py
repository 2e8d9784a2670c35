"""One lane per vm: plan, have the steps done, learn from it, plan again. Called by the core, in the event loop's
thread only.

It decides when a vm is planned and what its failures mean: a lane has at most one job, so a vm that hangs or fails
delays no other; a failure is reported and retried with backoff; a call over its deadline makes the vm 'unresponsive'.
Invariant: only this thread writes lanes; workers hand back finished jobs.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import msgspec

from nubila.agent import account, effects
from nubila.agent import steps as p
from nubila.agent.hands import ASKS, Cancelled, Hands, Job
from nubila.agent.images import Images
from nubila.agent.known import Ask, Facts, Record, Trail
from nubila.agent.plan import backoff_s, plan, until_noted
from nubila.agent.pool import Call, Pool
from nubila.agent.right import Right
from nubila.agent.wish import Wishes
from nubila.drivers import DriverError
from nubila.drivers.hypervisor.base import Found
from nubila.protocol import Vm, VmReport
from nubila.telemetry import log

LOG = log.get(part="agent")
HOPELESS_BACKOFF_S = 60.0
ASK_LOST_S = 120.0  # an ask that did not come back by then counts as a lost thread
SHOWN_AFTER_S = 0.1  # a step shorter than this is not worth a report
INLINE: frozenset[type[p.Step]] = frozenset({p.Note, p.Rebooted, p.Wait, p.Blocked, p.Image})


class Lane:
    __slots__ = (
        "again", "asks", "blocked", "confirmed", "done_steps", "facts", "failures", "image", "job", "record", "timer",
        "touched_s", "trail", "trouble", "wanted",
    )  # fmt: skip

    def __init__(self, wanted: Vm, record: Record, facts: Facts):
        self.wanted, self.record, self.facts = wanted, record, facts
        self.trail = Trail()
        self.confirmed = False  # by an answer of this session
        self.job: Job | None = None
        self.asks: Job | None = None  # let go of, and still waiting for the guest
        self.again = False  # something changed while the job ran
        self.failures = 0
        self.trouble: str | None = None
        self.blocked: str | None = None
        self.image: str | None = None  # waited for
        self.timer: asyncio.TimerHandle | None = None
        self.touched_s = 0.0  # when a job of it last ended
        self.done_steps: list[p.Step] | None = None


class Changed(Protocol):
    def __call__(self, vm_id: str, *, soft: bool = False) -> None: ...


class Lanes:
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        wishes: Wishes,
        hands: Hands,
        images: Images,
        pool: Pool,
        node: Facts,
        changed: Changed,
        learnt: Callable[[Job], None],
    ):
        """`node` holds what is known of the whole node; every lane's facts share its tables."""
        self._loop, self._wishes, self._hands, self._images, self._pool = loop, wishes, hands, images, pool
        self._node, self.changed, self._learnt = node, changed, learnt
        self.right = Right(time.monotonic())
        self.lanes: dict[str, Lane] = {}
        self.domains: dict[str, Found] = {}  # as last observed
        self.active = 0  # jobs that run
        self.elsewhere: Callable[[Call, float], bool] = lambda call, now_s: False  # a call that is no vm's
        self.idle: Callable[[], None] = lambda: None  # called when the last of them ended
        self._finished: deque[Job] = deque()
        self._woken = False
        self._writing = False

    # --- what the core tells

    def add(self, vm: Vm, record: Record) -> Lane:
        node = self._node
        facts = Facts(
            seen=node.seen,
            domain=self.domains.get(vm.vm_id),
            volumes=node.volumes,
            images=node.images,
            bridges=node.bridges,
            taps=node.taps,
            nics=node.nics,
        )
        lane = self.lanes[vm.vm_id] = Lane(vm, record, facts)
        return lane

    def wish(self, vm: Vm) -> None:
        """A confirmed wish, new or as it was."""
        lane = self.lanes.get(vm.vm_id)
        if lane is None:
            lane = self.add(vm, self._wishes.entries[vm.vm_id].record)
        elif lane.wanted != vm:
            lane.wanted = vm
            lane.failures, lane.trouble, lane.done_steps = 0, None, None
            if lane.job is not None:
                lane.job.cancelled = True
        lane.confirmed = True
        self.changed(vm.vm_id)
        self.kick(lane)

    def observe(self, lane: Lane, found: Found | None, begun_s: float) -> None:
        """What the hypervisor showed of it, unless a job of it ran since that look began."""
        if lane.job is not None or lane.touched_s >= begun_s:
            return
        news, notes = effects.observed(lane.facts, lane.trail, lane.record, found, time.monotonic())
        if news:
            self.note(lane, **notes)
            self.changed(lane.wanted.vm_id, soft=not notes)
            self.kick(lane)

    def forget(self, vm_id: str) -> None:
        """The control plane knows that it is gone, or knows nothing of it."""
        lane = self.lanes.pop(vm_id, None)
        if lane is not None:
            self._cancel_timer(lane)
            if lane.job is not None:
                lane.job.cancelled = True

    def kick_all(self) -> None:
        for lane in list(self.lanes.values()):
            self.kick(lane)

    def kick(self, lane: Lane) -> None:
        """Plan this vm: now, or when its job ends."""
        if lane.job is not None:
            lane.again = True
        elif lane.failures == 0:
            self._step(lane)

    def ready(self, vm_id: str) -> bool:
        """Whether there is something to tell now: a short job is told of once, when it is done."""
        lane = self.lanes.get(vm_id)
        job = None if lane is None else lane.job
        return job is None or time.monotonic() - job.begun_s >= SHOWN_AFTER_S

    def report(self, vm_id: str) -> VmReport | None:
        lane = self.lanes.get(vm_id)
        if lane is None:
            return None
        job, doing, progress = lane.job, None, None
        if lane.image is not None:
            doing, progress = p.DOING[p.Image], self._images.progress(lane.image)
        elif job is not None and time.monotonic() - job.begun_s >= SHOWN_AFTER_S:
            doing = job.label
        work = account.Work(doing=doing, progress=progress, trouble=lane.trouble or lane.blocked)
        return account.report(lane.wanted, lane.facts, lane.record, lane.trail, work)

    def note(self, lane: Lane, **changes: object) -> int:
        """Change the record; returns the number that makes it durable."""
        record = msgspec.structs.replace(lane.record, **changes)
        if record == lane.record:
            return 0
        lane.record = record
        self._write_soon()
        return self._wishes.note(lane.wanted.vm_id, record)

    def tick(self, now_s: float) -> None:
        """Look for calls over their deadline, and show what takes long."""
        for call in self._pool.overdue(now_s):
            job = call.owner
            if self.elsewhere(call, now_s):
                continue
            if not isinstance(job, Job):
                self._pool.abandon(job)
            elif type(job.steps[0]) in ASKS and not job.detached:
                call.deadline_s = ASK_LOST_S
                self._let_go(job, call.begun_s)
            else:
                self._pool.abandon(job)
                self._unresponsive(job, call.label, now_s - call.begun_s)
        for vm_id, lane in self.lanes.items():
            if lane.image is not None or (lane.job is not None and now_s - lane.job.begun_s >= SHOWN_AFTER_S):
                self.changed(vm_id)

    # --- planning

    def _step(self, lane: Lane) -> None:
        self._cancel_timer(lane)
        now_s = time.monotonic()
        effects.withdrawn(lane.wanted, lane.trail, lane.record, now_s)
        fresh, alone = lane.confirmed and self.right.fresh(now_s), self.right.alone(now_s)
        try:
            steps = plan(lane.wanted, lane.facts, lane.record, lane.trail, now_s, fresh=fresh, alone=alone)
            self._carry_out(lane, steps, fresh)
        except Exception as e:  # one poisoned vm stops no other
            LOG.exception("vm.unplannable", vm_id=lane.wanted.vm_id)
            self._fail(lane, f"internal error in the agent: {type(e).__name__}", backoff_s(lane.failures + 1))

    def _carry_out(self, lane: Lane, steps: list[p.Step], fresh: bool) -> None:
        """Notes are taken here, before the job that they license; images are fetched for the whole node at once."""
        blocked, lane.blocked = lane.blocked, None
        gate = 0
        while steps and type(steps[0]) in INLINE:
            step = steps.pop(0)
            if isinstance(step, p.Note):
                gate = self._note(lane, step)
            elif isinstance(step, p.Rebooted):
                lane.trail.reboot = None
                self.changed(lane.wanted.vm_id)
            elif isinstance(step, p.Wait):
                self._later(lane, step.until_s - time.monotonic())
            elif isinstance(step, p.Blocked):
                lane.blocked = step.reason
            elif isinstance(step, p.Image):
                return self._await_image(lane, step)
        if blocked != lane.blocked:
            self.changed(lane.wanted.vm_id)
        if steps:
            self._submit(lane, until_noted(steps), gate)
            return
        lane.done_steps = None
        if fresh and lane.failures and lane.timer is None and lane.asks is None and lane.blocked is None:
            # What failed had its effect all the same, or nobody wishes it any more.
            lane.failures, lane.trouble = 0, None
            self.changed(lane.wanted.vm_id)

    def _submit(self, lane: Lane, steps: list[p.Step], gate: int) -> None:
        if steps == lane.done_steps:
            self._fail(lane, f"{p.DOING.get(type(steps[0]), 'a step')} had no effect", backoff_s(lane.failures + 1))
            return
        body = [s for s in steps if type(s) not in INLINE]
        if isinstance(body[0], p.AskReboot):  # from now on it is under way, and not reported as done
            lane.trail.reboot = Ask(body[0].how, time.monotonic())
        if isinstance(body[0], p.Reset):
            lane.trail.reset = Ask("reset", time.monotonic())
        lane.done_steps = steps
        lane.again = False
        lane.job = Job(lane.wanted, lane.facts, body, gate, self._handed_back)
        self.active += 1
        self._hands.submit(lane.job)

    def _note(self, lane: Lane, note: p.Note) -> int:
        record = p.apply_note(lane.record, note)
        if record != lane.record:
            lane.record = record
            self.changed(lane.wanted.vm_id)
            self._write_soon()
        return self._wishes.note(lane.wanted.vm_id, record)

    def _await_image(self, lane: Lane, step: p.Image) -> None:
        """The lane stays free meanwhile, should the wish change."""
        if lane.image == step.sha256:
            return
        lane.image = step.sha256

        def fetched(error: DriverError | None) -> None:
            if lane.image == step.sha256:
                lane.image = None
            if self.lanes.get(lane.wanted.vm_id) is not lane:
                return
            if lane.job is not None:
                lane.again = True
            elif error is not None:
                self._fail(lane, error.reason, _retry_s(lane, error))
            else:
                lane.failures, lane.trouble = 0, None
                self._step(lane)

        self._images.want(step, fetched)

    # --- jobs that come back

    def _handed_back(self, job: Job) -> None:
        """Called by workers: at most one wake-up of the loop for any number of jobs."""
        self._finished.append(job)
        if not self._woken:
            self._woken = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: the agent ends
                self._loop.call_soon_threadsafe(self._collect)

    def _collect(self) -> None:
        self._woken = False
        while self._finished:
            job = self._finished.popleft()
            lane = self.lanes.get(job.wanted.vm_id)
            if not job.detached:
                self.active -= 1
            if lane is None:
                continue
            if lane.job is job or lane.asks is job:
                self._learn(lane, job)
        if self.active == 0:
            self.idle()

    def _learn(self, lane: Lane, job: Job) -> None:
        if lane.job is job:
            lane.job = None
        if lane.asks is job:
            lane.asks = None
        lane.touched_s = time.monotonic()
        self._learnt(job)
        notes = effects.learn(lane.facts, lane.trail, lane.record, job)
        if notes:
            self.note(lane, **notes)
        self.changed(lane.wanted.vm_id)
        error = job.error
        if error is None or isinstance(error, Cancelled):
            lane.failures, lane.trouble = 0, None
            if error is not None:
                lane.done_steps = None
            if lane.job is None:
                self._after(lane)
        elif lane.wanted != job.wanted:
            self._step(lane)
        elif isinstance(error, DriverError):
            self._fail(lane, error.reason, _retry_s(lane, error))
        else:
            LOG.error("vm.step-failed", vm_id=lane.wanted.vm_id, exc_info=error)
            self._fail(lane, f"internal error in the agent: {type(error).__name__}", backoff_s(lane.failures + 1))

    def _after(self, lane: Lane) -> None:
        """What the plan had after the job, then the next plan."""
        for step in (lane.done_steps or [])[::-1]:
            if not isinstance(step, p.Note):
                break
            self._note(lane, step)
        self._step(lane)

    def _fail(self, lane: Lane, reason: str, retry_s: float) -> None:
        lane.failures += 1
        lane.trouble = reason
        lane.done_steps = None
        self.changed(lane.wanted.vm_id)
        self._cancel_timer(lane)
        self._later(lane, retry_s)

    def _let_go(self, job: Job, begun_s: float) -> None:
        """The guest takes its time to answer: the lane goes on without, and learns the answer when it comes."""
        lane = self.lanes.get(job.wanted.vm_id)
        job.detached = True
        self.active -= 1
        if lane is None or lane.job is not job:
            return
        lane.job, lane.asks = None, job
        step = job.steps[0]
        if isinstance(step, p.AskStop):
            lane.trail.asks = (*lane.trail.asks, Ask(step.how, begun_s))
        elif isinstance(step, p.AskReboot):
            lane.trail.reboot = Ask(step.how, begun_s)
        lane.done_steps = None
        self.changed(lane.wanted.vm_id)
        self._step(lane)

    def _unresponsive(self, job: Job, label: str, waited_s: float) -> None:
        lane = self.lanes.get(job.wanted.vm_id)
        if lane is not None and lane.job is job:
            lane.trouble = f"unresponsive: {label} has not come back for {waited_s:.0f} s"
            LOG.error("vm.unresponsive", vm_id=job.wanted.vm_id, reason=lane.trouble)
            self.changed(job.wanted.vm_id)

    # --- timers and the disk

    def _later(self, lane: Lane, delay_s: float) -> None:
        lane.timer = self._loop.call_later(max(0.0, delay_s), self._due, lane)

    def _due(self, lane: Lane) -> None:
        lane.timer = None
        if lane.job is None and self.lanes.get(lane.wanted.vm_id) is lane:
            self._step(lane)

    def _cancel_timer(self, lane: Lane) -> None:
        if lane.timer is not None:
            lane.timer.cancel()
            lane.timer = None

    def _write_soon(self) -> None:
        """Notes survive the agent's own end as soon as the loop has a moment; `durable` is for those that must wait."""
        if not self._writing:
            self._writing = True
            self._loop.call_soon(self._write)

    def _write(self) -> None:
        self._writing = False
        self._wishes.write()


def _retry_s(lane: Lane, error: DriverError) -> float:
    return backoff_s(lane.failures + 1) if error.again else HOPELESS_BACKOFF_S
