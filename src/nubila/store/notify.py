"""Wake-ups: hints that something changed, between processes by NOTIFY and inside a process at once.

A hint is a short text ('node:UUID', 'op:UUID'). It may be lost, repeated or late: whoever waits for one also looks by the
clock. A lost LISTEN connection wakes every waiter (`resync`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import asyncpg

from nubila.store.database import LOST

CHANNEL = "nubila"
CHANGED = "change"  # there may be something new in the change log
PAYLOAD_MAX = 7900
SPACING_S = 0.001
HEARTBEAT_S = 5.0
AWAY = (*LOST, asyncpg.PostgresError)  # whatever it is, the loops below go on


class Hub:
    """Who waits for which hint in this process."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._always: list[Callable[[str], None]] = []

    def on_every(self, listener: Callable[[str], None]) -> None:
        self._always.append(listener)

    def wake(self, hint: str) -> None:
        for future in self._waiting.pop(hint, ()):
            if not future.done():
                future.set_result(None)
        for listener in self._always:
            listener(hint)

    def resync(self) -> None:
        for hint in list(self._waiting):
            self.wake(hint)
        for listener in self._always:
            listener("resync")

    def expect(self, *hints: str) -> Expected:
        """Start listening before looking, so that nothing between the look and the wait is missed."""
        return Expected(self._waiting, hints)


class Expected:
    def __init__(self, waiting: dict[str, set[asyncio.Future[None]]], hints: tuple[str, ...]):
        self._waiting = waiting
        self._hints = hints
        self._future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for h in hints:
            waiting.setdefault(h, set()).add(self._future)

    async def wait(self, timeout_s: float) -> bool:
        """True when a hint came. The expectation is over either way."""
        try:
            if timeout_s > 0:
                await asyncio.wait({self._future}, timeout=timeout_s)
            return self._future.done()
        finally:
            self.close()

    def close(self) -> None:
        for h in self._hints:
            futures = self._waiting.get(h)
            if futures is not None:
                futures.discard(self._future)
                if not futures:
                    self._waiting.pop(h, None)


class Notifier:
    """Sends and receives hints over two connections of its own; at most one NOTIFY per millisecond."""

    def __init__(self, hub: Hub, connect: dict[str, Any], *, enabled: bool = True):
        self.hub = hub
        self._connect = connect
        self._pending: dict[str, None] = {}
        self._some = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.enabled = enabled  # False: the bus is cut, in fault tests

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._send()), asyncio.create_task(self._listen())]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def tell(self, hints: Iterable[str]) -> None:
        """After a commit: wake this process at once and the others within about a millisecond."""
        if not self.enabled:
            return
        for hint in hints:
            self.hub.wake(hint)
            self._pending[hint] = None
        self.hub.wake(CHANGED)
        self._pending[CHANGED] = None
        self._some.set()

    async def _send(self) -> None:
        connection: asyncpg.Connection | None = None
        while True:
            await self._some.wait()
            self._some.clear()
            hints, self._pending = list(self._pending), {}
            try:
                if connection is None or connection.is_closed():
                    connection = await asyncpg.connect(**self._connect, server_settings={"synchronous_commit": "off"})
                for payload in chunks(hints):
                    await connection.execute("select pg_notify($1, $2)", CHANNEL, payload)
            except AWAY:
                # A lost hint is made good by the clock.
                connection = None
                await asyncio.sleep(0.2)
            await asyncio.sleep(SPACING_S)

    async def _listen(self) -> None:
        while True:
            connection: asyncpg.Connection | None = None
            try:
                connection = await asyncpg.connect(**self._connect)
                await self._listen_on(connection)
            except AWAY:
                if connection is not None:
                    connection.terminate()
                await asyncio.sleep(0.5)
                self.hub.resync()

    async def _listen_on(self, connection: asyncpg.Connection) -> None:
        """Until the connection is lost, which raises: noticed at once, or by the heartbeat when nobody says so."""
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _: lost.set())
        await connection.add_listener(CHANNEL, self._heard)
        self.hub.resync()
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(lost.wait(), HEARTBEAT_S)
            await asyncio.wait_for(connection.execute("select 1"), HEARTBEAT_S)

    def _heard(self, _connection: Any, _pid: int, _channel: str, payload: str) -> None:
        if self.enabled:
            for hint in payload.split(" "):
                self.hub.wake(hint)


def chunks(hints: list[str]) -> Iterable[str]:
    """Payloads under PostgreSQL's limit."""
    line: list[str] = []
    length = 0
    for hint in hints:
        if length + len(hint) + 1 > PAYLOAD_MAX:
            yield " ".join(line)
            line, length = [], 0
        line.append(hint)
        length += len(hint) + 1
    if line:
        yield " ".join(line)
