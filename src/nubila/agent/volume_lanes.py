"""One lane per volume: plan, have the step done, learn from it, plan again. Called by the core, in the event loop's thread.

As the lanes of vms: at most one job each, failures are reported and tried again with backoff, a call over its deadline is
said so. What a vm does with its disks stands in the vm's lane; both meet at the volume's lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from nubila.agent import plan_volume as p
from nubila.agent import steps
from nubila.agent.images import Images
from nubila.agent.plan import backoff_s
from nubila.agent.pool import Call, Pool, Worker
from nubila.agent.right import Right
from nubila.agent.volume_hands import VolumeHands
from nubila.agent.wish import Wishes
from nubila.drivers import DriverError
from nubila.drivers.storage.base import Found
from nubila.protocol import Volume, VolumeReport
from nubila.telemetry import log

LOG = log.get(part="agent")
DEADLINE_S = 60.0
HOPELESS_BACKOFF_S = 60.0
SHOWN_AFTER_S = 0.1


class Lane:
    __slots__ = (
        "again", "begun_s", "blocked", "confirmed", "failures", "image", "since_s", "step", "timer", "trouble", "wanted",
    )  # fmt: skip

    def __init__(self, wanted: Volume):
        self.wanted = wanted
        self.since_s = time.monotonic()
        self.confirmed = False  # by an answer of this session
        self.step: p.Step | None = None  # under way
        self.begun_s = 0.0
        self.again = False
        self.failures = 0
        self.trouble: str | None = None
        self.blocked: str | None = None
        self.image: str | None = None
        self.timer: asyncio.TimerHandle | None = None


class VolumeLanes:
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        wishes: Wishes,
        hands: VolumeHands,
        images: Images,
        pool: Pool,
        right: Right,
        here: set[str],
        changed: Callable[[str], None],
        learnt: Callable[[str, Found | None], None],
        look: Callable[[], None],
    ):
        """`here`: the images of the node. `learnt` is told what a step made of a volume. `look`: see soon which volumes are
        here."""
        self._loop, self._wishes, self._hands, self._images, self._pool = loop, wishes, hands, images, pool
        self._right, self._here, self._changed, self._learnt, self._look = right, here, changed, learnt, look
        self.lanes: dict[str, Lane] = {}
        self.found: dict[str, Found] = {}  # of the whole node, as last observed or made
        self.seen = False
        self.looked_s = float("-inf")  # when the newest look that is over began

    # --- what the core tells

    def add(self, wanted: Volume) -> Lane:
        lane = self.lanes[wanted.volume_id] = Lane(wanted)
        return lane

    def wish(self, wanted: Volume) -> None:
        """A confirmed wish, new or as it was."""
        lane = self.lanes.get(wanted.volume_id) or self.add(wanted)
        if lane.wanted != wanted:
            lane.wanted = wanted
            lane.failures, lane.trouble = 0, None
        lane.confirmed = True
        self._changed(wanted.volume_id)
        self.kick(lane)

    def forget(self, volume_id: str) -> None:
        lane = self.lanes.pop(volume_id, None)
        if lane is not None and lane.timer is not None:
            lane.timer.cancel()

    def unconfirm(self) -> None:
        for lane in self.lanes.values():
            lane.confirmed = False

    def observe(self, found: dict[str, Found], begun_s: float) -> None:
        """All volumes of the node, unless a step of theirs ran since that look began."""
        busy = {v for v, lane in self.lanes.items() if lane.step is not None or lane.begun_s >= begun_s}
        before, self.found = self.found, {k: v for k, v in found.items() if k not in busy}
        self.found |= {k: v for k, v in before.items() if k in busy}
        first, self.seen = not self.seen, True
        asked, self.looked_s = self.looked_s, begun_s
        for volume_id, lane in list(self.lanes.items()):
            waited = self.found.get(volume_id) is None and lane.since_s > asked
            if first or waited or before.get(volume_id) != self.found.get(volume_id):
                self._changed(volume_id)
                self.kick(lane)

    def kick_all(self) -> None:
        for lane in list(self.lanes.values()):
            self.kick(lane)

    def kick(self, lane: Lane) -> None:
        if lane.step is not None:
            lane.again = True
        elif lane.failures == 0:
            self._plan(lane)

    def obstacle(self, volume_id: str, epoch: int) -> str | None:
        """Why a vm must not open the volume under that epoch, or None. Asked by workers under the volume's lock."""
        entry = self._wishes.volumes.get(volume_id)
        if self._wishes.floors.get(volume_id, 0) >= epoch:
            return f"the right of epoch {epoch} to write {volume_id} has ended"
        return None if entry is None else p.pending(entry.volume, entry.record)

    def tick(self, now_s: float) -> None:
        for volume_id, lane in self.lanes.items():
            if lane.image is not None or (lane.step is not None and now_s - lane.begun_s >= SHOWN_AFTER_S):
                self._changed(volume_id)

    def overdue(self, call: Call, now_s: float) -> bool:
        """A call over its deadline; True when it is one of ours."""
        lane = call.owner
        if not isinstance(lane, Lane):
            return False
        self._pool.abandon(lane)
        lane.trouble = f"unresponsive: {call.label} has not come back for {now_s - call.begun_s:.0f} s"
        self._changed(lane.wanted.volume_id)
        return True

    def report(self, volume_id: str) -> VolumeReport | None:
        lane = self.lanes.get(volume_id)
        if lane is None:
            return None
        wanted, found = lane.wanted, self.found.get(volume_id)
        record = self._wishes.volumes[volume_id].record
        left = p.plan(wanted, found, record, self._here, fresh=True, looked=self._looked(lane))
        if isinstance(left, p.Look):
            return None  # nothing is known that could be told
        trouble = lane.trouble or lane.blocked
        doing, progress = None, None
        if lane.image is not None:
            doing, progress = p.DOING[p.FetchImage], self._images.progress(lane.image)
        elif lane.step is not None and time.monotonic() - lane.begun_s >= SHOWN_AFTER_S:
            doing = p.DOING[type(lane.step)]
        return VolumeReport(
            volume_id=volume_id,
            epoch=wanted.epoch,
            generation=wanted.generation,
            ready=found is not None,
            gone=wanted.gone and record.gone,
            size_gib=None if found is None else found.size_gib,
            snapshots=() if found is None else found.snapshots,
            rollbacks=record.rollbacks,
            settled=self.seen and lane.step is None and left is None,
            doing=doing,
            progress=progress,
            reason=trouble,
            failing=trouble is not None,
        )

    # --- planning and doing

    def _plan(self, lane: Lane) -> None:
        if lane.timer is not None:
            lane.timer.cancel()
            lane.timer = None
        wanted = lane.wanted
        entry = self._wishes.volumes.get(wanted.volume_id)
        if not self.seen or entry is None or lane.image is not None:
            return
        fresh = lane.confirmed and self._right.fresh(time.monotonic())
        found = self.found.get(wanted.volume_id)
        step = p.plan(wanted, found, entry.record, self._here, fresh=fresh, looked=self._looked(lane))
        blocked, lane.blocked = lane.blocked, step.reason if isinstance(step, p.Blocked) else None
        if blocked != lane.blocked:
            self._changed(wanted.volume_id)
        if isinstance(step, p.Look):
            self._look()
        elif isinstance(step, p.FetchImage):
            self._fetch(lane, step)
        elif step is None:
            self._at_rest(lane, fresh)
        elif not isinstance(step, p.Blocked):
            self._submit(lane, step)

    def _at_rest(self, lane: Lane, fresh: bool) -> None:
        """What failed had its effect all the same, or nobody wishes it any more."""
        if fresh and lane.failures:
            lane.failures, lane.trouble = 0, None
            self._changed(lane.wanted.volume_id)

    def _looked(self, lane: Lane) -> bool:
        return self.looked_s >= lane.since_s

    def _fetch(self, lane: Lane, step: p.FetchImage) -> None:
        lane.image = step.sha256

        def fetched(error: DriverError | None) -> None:
            lane.image = None
            if self.lanes.get(lane.wanted.volume_id) is not lane:
                return
            if error is not None:
                self._fail(lane, error)
            else:
                self._plan(lane)

        self._images.want(steps.Image(step.image_id, step.sha256), fetched)

    def _submit(self, lane: Lane, step: p.Step) -> None:
        lane.step, lane.begun_s, lane.again = step, time.monotonic(), False
        wanted = lane.wanted

        def work(worker: Worker) -> None:
            worker.call = Call(lane, p.DOING[type(step)], p.DEADLINE_S.get(type(step), DEADLINE_S))
            error: BaseException | None = None
            found: Found | None = None
            try:
                found = self._hands.do(wanted, step)
            except BaseException as e:
                error = e
            worker.call = None
            with contextlib.suppress(RuntimeError):  # the loop is closed: the agent ends
                self._loop.call_soon_threadsafe(self._done, lane, step, found, error)

        # A copy takes as long as it takes: it takes no worker from others.
        (self._pool.aside if isinstance(step, p.Copy) else self._pool.submit)(work)

    def _done(self, lane: Lane, step: p.Step, found: Found | None, error: BaseException | None) -> None:
        volume_id = lane.wanted.volume_id
        lane.step, lane.begun_s = None, time.monotonic()
        entry = self._wishes.volumes.get(volume_id)
        if self.lanes.get(volume_id) is not lane or entry is None:
            return
        if error is None:
            lane.failures, lane.trouble = 0, None
            if found is None:
                self.found.pop(volume_id, None)
            else:
                self.found[volume_id] = found
            self._learnt(volume_id, found)
            self._wishes.note_volume(volume_id, p.learn(entry.record, step))
            self._wishes.write()
            self._changed(volume_id)
            self._plan(lane)
        else:
            self._fail(lane, error)

    def _fail(self, lane: Lane, error: BaseException) -> None:
        lane.failures += 1
        volume_id = lane.wanted.volume_id
        if isinstance(error, DriverError):
            lane.trouble, hopeless = error.reason, not error.again
        else:
            LOG.error("volume.step-failed", volume_id=volume_id, exc_info=error)
            lane.trouble, hopeless = f"internal error in the agent: {type(error).__name__}", False
        self._changed(volume_id)
        delay_s = HOPELESS_BACKOFF_S if hopeless else backoff_s(lane.failures)
        lane.timer = self._loop.call_later(0.0 if lane.again else delay_s, self._due, lane)

    def _due(self, lane: Lane) -> None:
        lane.timer = None
        if lane.step is None and self.lanes.get(lane.wanted.volume_id) is lane:
            self._plan(lane)
