"""When and what is reported to the control plane. Called by the core in the event loop's thread.

At most one report is under way; all that changes meanwhile goes with the next. Only what differs from what was last
taken is sent, and everything after a new session. Without news an empty report is the heartbeat.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable

from nubila.protocol import Reported, VmReport, VolumeReport
from nubila.telemetry import log

LOG = log.get(part="agent")

HEARTBEAT_S = 10.0
SOFT_S = 1.0  # how long what the guest showed of itself may wait for more of it
SETTLE_S = 0.004  # how long a report waits for jobs that are about to end
BATCH = 500
RETRY_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

Report = VmReport | VolumeReport
Post = Callable[[tuple[Report, ...], Callable[[Reported | None], None]], None]


def key(report: Report) -> str:
    """The id of what it is about."""
    return report.vm_id if isinstance(report, VmReport) else report.volume_id


class Reporter:
    """`build` makes a vm's report, `post` sends a batch and calls back in this thread (None: it did not arrive)."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        build: Callable[[str], Report | None],
        post: Post,
        ready: Callable[[str], bool],
        busy: Callable[[], bool],
        taken: Callable[[Report], None],
    ):
        self._loop, self._build, self._post, self._on_taken = loop, build, post, taken
        self._ready, self._busy = ready, busy
        self._dirty: dict[str, None] = {}  # in order
        self._soft: set[str] = set()
        self._taken: dict[str, Report] = {}
        self._open = False  # a session is there
        self._under_way = False
        self._scheduled = False
        self._first_s = 0.0
        self._sent_s = 0.0
        self._failures = 0

    def session(self, vm_ids: Iterable[str]) -> None:
        """A new session knows nothing."""
        self._open = True
        self._failures = 0
        self._taken.clear()
        self._dirty = dict.fromkeys(vm_ids)
        self._sent_s = 0.0
        self._schedule()

    def changed(self, vm_id: str, *, soft: bool = False) -> None:
        """`soft`: what a guest showed of itself can wait a little, since more of it comes soon."""
        if soft:
            if not self._soft:
                self._loop.call_later(SOFT_S, self._harden)
            self._soft.add(vm_id)
            return
        if not self._dirty:
            self._first_s = time.monotonic()
        self._dirty[vm_id] = None
        if not (self._scheduled or self._under_way):
            self._schedule()

    def forget(self, vm_id: str) -> None:
        self._taken.pop(vm_id, None)
        self._dirty.pop(vm_id, None)

    def tick(self, now_s: float) -> None:
        if self._open and not self._under_way and not self._failures and now_s - self._sent_s >= HEARTBEAT_S:
            self._send(empty=True)

    def say(self) -> None:
        """Something beside the vms is to be told; it goes with the next report, and that one goes now."""
        if self._open and not self._under_way and not self._failures:
            self._send(empty=True)

    def flush(self) -> None:
        """The last job has ended: nothing more is about to come."""
        if self._dirty and not self._under_way and not self._failures:
            self._send()

    def _harden(self) -> None:
        soft, self._soft = self._soft, set()
        for vm_id in soft:
            self.changed(vm_id)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._due)

    def _due(self) -> None:
        self._scheduled = False
        if self._under_way or self._failures:
            return
        if self._busy():
            left_s = self._first_s + SETTLE_S - time.monotonic()
            if left_s > 0:
                self._scheduled = True
                self._loop.call_later(left_s, self._due)
                return
        self._send()

    def _send(self, *, empty: bool = False) -> None:
        if not self._open:
            return
        batch: list[Report] = []
        for vm_id in list(self._dirty):
            if len(batch) >= BATCH:
                break
            if not self._ready(vm_id):  # it is about to have more to say
                continue
            del self._dirty[vm_id]
            report = self._built(vm_id)
            if report is not None and report != self._taken.get(vm_id):
                batch.append(report)
        if batch or empty:
            self._under_way = True
            self._sent_s = time.monotonic()
            self._post(tuple(batch), lambda answer: self._answered(batch, answer))

    def _built(self, vm_id: str) -> Report | None:
        try:
            return self._build(vm_id)
        except Exception:  # one poisoned vm keeps no other's report back
            LOG.exception("vm.unreportable", vm_id=vm_id)
            return None

    def _answered(self, batch: list[Report], answer: Reported | None) -> None:
        self._under_way = False
        if answer is None:
            for report in batch:
                self._dirty.setdefault(key(report))
            delay_s = RETRY_S[min(self._failures, len(RETRY_S) - 1)] * random.uniform(0.7, 1.3)  # noqa: S311
            self._failures += 1
            self._loop.call_later(delay_s, self._retry)
            return
        self._failures = 0
        refused = set(answer.refused)
        for report in batch:
            self._taken[key(report)] = report  # also a refused one: a newer wish is on its way, and brings a new report
            if key(report) not in refused:
                self._on_taken(report)
        if any(self._ready(i) for i in self._dirty):
            self._first_s = time.monotonic()
            self._schedule()

    def _retry(self) -> None:
        if self._failures and not self._under_way:
            self._send(empty=True)
