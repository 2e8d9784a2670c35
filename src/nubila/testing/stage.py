"""Virtual time, and threads that take turns in it. Everything of one schedule runs on one stage, in one thread of the system.

It decides what happens next: of all that is due, what was put there first. So a schedule is a function of its seed. The
product's threads become fibres (greenlets): each goes on until it waits, and is woken by the loop, at its time. A `Process`
is one life of one program: once it has died nothing of it goes on, and while it is frozen all that comes to it waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import Callable
from typing import Any

from greenlet import getcurrent, greenlet

EPOCH_S = 1_767_225_600.0  # the wall clock at the beginning: 2026-01-01
BOOTED_S = 1_000.0  # the monotonic clock then: to the agent's looks, 0 means 'now'


class Idle(Exception):
    """Nothing will ever happen any more: everybody waits for somebody."""


class Died(BaseException):
    """The process ends here and now; raised in its event loop's turn."""


class _Clock:
    """In place of a selector: waiting for a file lets the time pass."""

    def __init__(self, loop: VirtualLoop):
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise Idle
        if timeout > 0:
            self._loop.now_s += timeout
        return []

    def close(self) -> None: ...


class _Future(asyncio.Future[Any]):
    """In a set, futures stand in the order in which they were made, and not in that of their addresses."""

    def __init__(self, *, loop: VirtualLoop):
        super().__init__(loop=loop)
        self.number = next(loop.numbers)

    def __hash__(self) -> int:
        return self.number


class _Task(asyncio.Task[Any]):
    """Likewise."""

    def __init__(self, coro: Any, *, loop: VirtualLoop, **more: Any):
        self.number = next(loop.numbers)
        super().__init__(coro, loop=loop, **more)

    def __hash__(self) -> int:
        return self.number


class VirtualLoop(asyncio.BaseEventLoop):
    """asyncio's own loop over a clock that jumps to when the next thing is due."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = itertools.count()
        self.set_task_factory(lambda loop, coro, **more: _Task(coro, loop=loop, **more))
        self.now_s = BOOTED_S
        self._selector = _Clock(self)
        self._clock_resolution = 1e-6

    def time(self) -> float:
        return self.now_s

    def create_future(self) -> asyncio.Future[Any]:
        return _Future(loop=self)

    def _process_events(self, event_list: list[Any]) -> None: ...

    def _write_to_self(self) -> None: ...


class Timer:
    """What `call_soon` and `call_later` of a process give back."""

    __slots__ = ("cancelled", "due")

    def __init__(self) -> None:
        self.cancelled = False
        self.due: asyncio.Handle | None = None

    def cancel(self) -> None:
        self.cancelled = True
        if self.due is not None:
            self.due.cancel()


class Process:
    """One life of one program. To the program it is the event loop."""

    def __init__(self, stage: Stage, name: str):
        self.stage, self.name = stage, name
        self.alive, self.frozen = True, False
        self.disk: dict[str, Any] = {}  # where its files are: the machine's, which outlives it
        self.wall_off_s = 0.0
        self._held: list[tuple[Timer, Callable[..., None], tuple[Any, ...]]] = []

    def call_soon(self, call: Callable[..., None], *args: Any, context: Any = None) -> Timer:
        timer = Timer()
        timer.due = self.stage.loop.call_soon(self._turn, timer, call, args)
        return timer

    call_soon_threadsafe = call_soon

    def call_later(self, delay_s: float, call: Callable[..., None], *args: Any, context: Any = None) -> Timer:
        timer = Timer()
        timer.due = self.stage.loop.call_later(delay_s, self._turn, timer, call, args)
        return timer

    def die(self) -> None:
        """Nothing more of it happens. Called from inside of it, does not come back."""
        self.alive = False
        self._held.clear()
        if self.stage.process is self:
            if self.stage.in_fibre():
                self.stage.hub.switch()
            raise Died

    def freeze(self) -> None:
        self.frozen = True

    def thaw(self) -> None:
        self.frozen = False
        held, self._held = self._held, []
        for timer, call, args in held:
            timer.due = self.stage.loop.call_soon(self._turn, timer, call, args)

    def _turn(self, timer: Timer, call: Callable[..., None], args: tuple[Any, ...]) -> None:
        if timer.cancelled or not self.alive:
            return
        if self.frozen:
            self._held.append((timer, call, args))
            return
        stage = self.stage
        before, stage.process = stage.process, self
        try:
            call(*args)
        except Died:
            pass
        finally:
            stage.process = before


class Waiter:
    """A fibre that waits. Woken once; whoever comes later is too late."""

    __slots__ = ("fibre", "over", "process")

    def __init__(self, stage: Stage):
        assert stage.process is not None
        assert stage.in_fibre(), "only a fibre can wait"
        self.process, self.fibre, self.over = stage.process, getcurrent(), False

    def wake(self, value: Any = None) -> None:
        if not self.over:
            self.over = True
            self.process.call_soon(self.fibre.switch, value)

    def wait(self) -> Any:
        return self.process.stage.hub.switch()


class Stage:
    def __init__(self, seed: int):
        self.random = random.Random(seed)  # noqa: S311
        self.loop = VirtualLoop()
        self.hub = getcurrent()
        self.process: Process | None = None  # whose turn it is
        self.wall_off_s = 0.0  # of the database's clock
        self.fibres: list[greenlet] = []  # kept, so that no fibre of the dead is unwound and acts once more
        self.over = False

    @property
    def now_s(self) -> float:
        return self.loop.now_s - BOOTED_S

    def monotonic(self) -> float:
        return self.loop.now_s

    def wall_s(self) -> float:
        """As the machine sees it whose turn it is."""
        off_s = self.wall_off_s if self.process is None else self.process.wall_off_s
        return EPOCH_S + self.now_s + off_s

    def in_fibre(self) -> bool:
        return getcurrent() is not self.hub

    def spawn(self, run: Callable[[], None]) -> None:
        """Begin a fibre of the process whose turn it is."""
        assert self.process is not None
        fibre = greenlet(run, parent=self.hub)
        self.fibres.append(fibre)
        self.process.call_soon(fibre.switch)

    def sleep(self, delay_s: float) -> None:
        waiter = Waiter(self)
        waiter.process.call_later(delay_s, waiter.wake)
        waiter.wait()

    def close(self) -> None:
        """End everything that still waits, without letting any of it act."""
        self.over = True
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        for fibre in self.fibres:
            if not fibre.dead:
                _end(fibre)
        self.fibres.clear()
        self.loop.close()


def _end(fibre: greenlet) -> None:
    """Unwind it. What it does on its way out is done to a world that nobody looks at any more."""
    for _ in range(8):
        with contextlib.suppress(BaseException):  # whatever it is, it is over
            fibre.throw()
        if fibre.dead:
            return
