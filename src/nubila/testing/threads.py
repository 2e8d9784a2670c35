"""What the product's threads, locks, queues and clocks are while a schedule runs: the same words, over fibres and virtual time.

A module of the product names `time`, `threading`, `random` or `SimpleQueue`; `acting` gives it these in their place, and puts
the real ones back. What they decide on is left alone: the code that runs is the product's.
"""

from __future__ import annotations

import contextlib
import queue
import random as real_random
import sys
import threading as real_threading
import time as real_time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from nubila.agent import journal
from nubila.testing.files import MemoryJournal
from nubila.testing.stage import Stage, Waiter

# Modules whose clocks and threads are the stage's: the agents', the drivers they have here, and what waits in the control plane.
ACTORS = ("nubila.agent.", "nubila.drivers.", "nubila.api.", "nubila.fleet.", "nubila.intent.", "nubila.reconcile.")


class Threads:
    """In place of `threading`."""

    def __init__(self, stage: Stage):
        class Event(_Event):
            on = stage

        class Lock(_Lock):
            on = stage

        class Thread(_Thread):
            on = stage
            over = Event

        class Queue(_Queue):
            on = stage

        self.Event, self.Lock, self.Thread, self.SimpleQueue = Event, Lock, Thread, Queue


class Time:
    """In place of `time`."""

    def __init__(self, stage: Stage):
        self.monotonic, self.sleep, self.time = stage.monotonic, stage.sleep, stage.wall_s
        self.perf_counter = stage.monotonic
        self.strftime = real_time.strftime
        self._stage = stage

    def gmtime(self, seconds: float | None = None) -> real_time.struct_time:
        return real_time.gmtime(self._stage.wall_s() if seconds is None else seconds)

    def time_ns(self) -> int:
        return int(self._stage.wall_s() * 1e9)


class _Event:
    on: Stage

    def __init__(self) -> None:
        self._set = False
        self._waiting: list[Waiter] = []

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.wake()

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        if self._set:
            return True
        waiter = Waiter(self.on)
        self._waiting.append(waiter)
        timer = None if timeout is None else waiter.process.call_later(timeout, waiter.wake)
        waiter.wait()
        if timer is not None:
            timer.cancel()
        if waiter in self._waiting:
            self._waiting.remove(waiter)
        return self._set


class _Lock:
    on: Stage

    def __init__(self) -> None:
        self._held = False
        self._waiting: deque[Waiter] = deque()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if not self._held:
            self._held = True
            return True
        if not blocking:
            return False
        waiter = Waiter(self.on)
        self._waiting.append(waiter)
        timer = None if timeout < 0 else waiter.process.call_later(timeout, waiter.wake, False)
        got = bool(waiter.wait())
        if timer is not None:
            timer.cancel()
        if not got and waiter in self._waiting:
            self._waiting.remove(waiter)
        return got

    def release(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.over:
                waiter.wake(True)  # handed over
                return
        self._held = False

    def locked(self) -> bool:
        return self._held

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc: object) -> None:
        self.release()


class _Thread:
    on: Stage
    over: type[_Event]

    def __init__(
        self, target: Callable[..., None] | None = None, name: str = "", daemon: bool = True, args: tuple[Any, ...] = ()
    ):
        self._target, self._args, self.name = target, args, name
        self.ident: int | None = None
        self._over = self.over()

    def start(self) -> None:
        self.ident = id(self)
        self.on.spawn(self._run)

    def join(self, timeout: float | None = None) -> None:
        self._over.wait(timeout)

    def _run(self) -> None:
        if self._target is not None:
            self._target(*self._args)
        self._over.set()


class _Queue:
    on: Stage

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._waiting: deque[Waiter] = deque()

    def put(self, item: Any) -> None:
        self._items.append(item)
        if self._waiting:
            self._waiting.popleft().wake()

    def get(self) -> Any:
        while not self._items:
            waiter = Waiter(self.on)
            self._waiting.append(waiter)
            waiter.wait()
        return self._items.popleft()

    def qsize(self) -> int:
        return len(self._items)


@contextlib.contextmanager
def acting(stage: Stage) -> Iterator[None]:
    """Until it is left, the product's clocks and threads are this stage's."""
    threads = Threads(stage)
    instead: dict[int, object] = {
        id(real_time): Time(stage),
        id(real_threading): threads,
        id(real_threading.Thread): threads.Thread,
        id(real_threading.Event): threads.Event,
        id(queue.SimpleQueue): threads.SimpleQueue,
        id(real_random): stage.random,
        id(journal.Journal): MemoryJournal,
    }
    before: list[tuple[Any, str, object]] = []
    for name, module in list(sys.modules.items()):
        if module is not None and name.startswith(ACTORS) and module is not journal:
            for word, value in list(vars(module).items()):
                if id(value) in instead:
                    before.append((module, word, value))
                    setattr(module, word, instead[id(value)])
    MemoryJournal.on = stage
    try:
        yield
    finally:
        for module, word, value in before:
            setattr(module, word, value)
