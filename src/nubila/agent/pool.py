"""Worker threads for calls that block, some of which never come back. Called by the lanes.

It decides which thread runs what; a call over its deadline is abandoned: its thread is replaced at once and ends when
the call returns, so that a hung driver call costs a thread and never the others' turn. (A ThreadPoolExecutor cannot
do that.)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

from nubila.telemetry import log

LOG = log.get(part="agent")


class Call:
    """What a worker is inside of. `owner` is the job, of which several workers may run parts."""

    __slots__ = ("begun_s", "deadline_s", "label", "owner")

    def __init__(self, owner: object, label: str, deadline_s: float):
        self.owner, self.label, self.deadline_s = owner, label, deadline_s
        self.begun_s = time.monotonic()


class Worker:
    def __init__(self, pool: Pool, name: str, once: Work | None = None):
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.call: Call | None = None
        self.busy = False
        self.abandoned = False
        self._pool = pool
        self._once = once

    def _run(self) -> None:
        take = self._pool.queue.get
        if self._once is not None:
            self._work(self._once)
        while self._once is None and not self.abandoned:
            work = take()
            if work is None:
                return
            self.busy = True
            self._work(work)
            self.busy = False
        self._pool.returned(self)

    def _work(self, work: Work) -> None:
        try:
            work(self)
        except Exception:  # work looks after its own failures; a worker outlives them all
            LOG.exception("work.failed")
        self.call = None


Work = Callable[[Worker], None]


class Pool:
    """`submit` by any thread; `overdue` and `abandon` by one."""

    def __init__(self, size: int, name: str = "lane"):
        self.queue: SimpleQueue[Work | None] = SimpleQueue()
        self._name = name
        self._count = 0
        self._lock = threading.Lock()
        self._workers: list[Worker] = []
        self._aside: set[Worker] = set()
        self._lost: set[Worker] = set()
        for _ in range(size):
            self._add()

    @property
    def lost(self) -> int:
        """Threads inside calls that were given up."""
        return len(self._lost)

    def submit(self, work: Work) -> None:
        self.queue.put(work)

    def aside(self, work: Work) -> None:
        """In a thread of its own: for a call that waits for a guest, so that guests take no worker from others."""
        with self._lock:
            self._count += 1
            worker = Worker(self, f"{self._name}-{self._count}", work)
            self._aside.add(worker)
        worker.thread.start()

    def has_idle(self) -> bool:
        """About right, without a lock: it only decides whether work is split."""
        return sum(not w.busy for w in self._workers) > self.queue.qsize()

    def overdue(self, now_s: float) -> list[Call]:
        with self._lock:
            calls = [w.call for w in (*self._workers, *self._aside)]
        return [c for c in calls if c is not None and now_s - c.begun_s > c.deadline_s]

    def abandon(self, owner: object) -> None:
        """Give up every thread that works for this owner."""
        with self._lock:
            for worker in [w for w in self._workers if w.call is not None and w.call.owner is owner]:
                worker.abandoned = True
                self._workers.remove(worker)
                self._lost.add(worker)
                self._add()

    def returned(self, worker: Worker) -> None:
        with self._lock:
            self._lost.discard(worker)
            self._aside.discard(worker)

    def close(self, timeout_s: float) -> None:
        """Let running calls end, but not for longer than that."""
        for _ in self._workers:
            self.queue.put(None)
        due_s = time.monotonic() + timeout_s
        for worker in self._workers:
            worker.thread.join(max(0.0, due_s - time.monotonic()))

    def _add(self) -> None:
        self._count += 1
        worker = Worker(self, f"{self._name}-{self._count}")
        self._workers.append(worker)
        worker.thread.start()
