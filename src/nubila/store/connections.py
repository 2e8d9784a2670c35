"""The open connections of a process, handed out last in, first out. Called by Database, for every statement.

The pool of asyncpg opens them, and again those that broke; it takes as long to hand one out and to take it back as a
statement takes (measured: 95 of 190 us of this process's CPU), so they are kept here between statements.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Any

import asyncpg

USES_MAX = 50_000  # then the pool replaces it: PostgreSQL's process keeps whatever it planned


class Held:
    """One connection and how often it was used."""

    __slots__ = ("connection", "uses")

    def __init__(self, connection: Any):
        self.connection: asyncpg.Connection = connection
        self.uses = 0

    def sound(self) -> bool:
        """Open, and without anything that an earlier use left under way."""
        try:
            return not (self.connection.is_closed() or self.connection.is_in_transaction())
        except asyncpg.InterfaceError:  # it broke, and the pool took it back
            return False


class Connections:
    def __init__(self, pool: asyncpg.Pool, size: int):
        self._pool, self.size = pool, size
        self._idle: list[Held] = []
        self._waiting: deque[asyncio.Future[Held | None]] = deque()
        self._out = 0  # of the pool: idle here, in use, or being opened
        self._going: set[asyncio.Task[None]] = set()
        self._closed = False

    async def take(self, timeout_s: float) -> Held:
        """One that nobody uses. Raises TimeoutError, and what opening one raises."""
        while True:
            if self._idle:
                held = self._idle.pop()
                if held.sound():
                    return held
                self._drop(held)
            elif self._out < self.size:
                return await self._open(timeout_s)
            else:
                given = await self._wait(timeout_s)
                if given is not None:
                    return given

    def give_back(self, held: Held) -> None:
        held.uses += 1
        if self._closed or held.uses >= USES_MAX or not held.sound():
            self._drop(held)
        elif not self._hand(held):
            self._idle.append(held)

    async def close(self, timeout_s: float) -> None:
        """Waits for those in use; what is not over by then is broken off."""
        self._closed = True
        while self._idle:
            self._drop(self._idle.pop())
        try:
            await asyncio.wait_for(self._pool.close(), timeout_s)
        except TimeoutError:
            self._pool.terminate()

    async def _open(self, timeout_s: float) -> Held:
        self._out += 1
        try:
            return Held(await self._pool.acquire(timeout=timeout_s))
        except BaseException:
            self._out -= 1
            self._hand(None)  # whoever waits may try itself
            raise

    async def _wait(self, timeout_s: float) -> Held | None:
        future: asyncio.Future[Held | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except BaseException:
            if future.done() and not future.cancelled() and (given := future.result()) is not None:
                self.give_back(given)
            raise

    def _hand(self, held: Held | None) -> bool:
        """To the one that has waited longest; None says that there is room for another one."""
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(held)
                return True
        return False

    def _drop(self, held: Held) -> None:
        if not held.sound():
            with contextlib.suppress(asyncpg.InterfaceError):
                held.connection.terminate()
        task = asyncio.ensure_future(self._release(held))
        self._going.add(task)
        task.add_done_callback(self._going.discard)

    async def _release(self, held: Held) -> None:
        try:
            await self._pool.release(held.connection, timeout=5)
        finally:
            self._out -= 1
            self._hand(None)
