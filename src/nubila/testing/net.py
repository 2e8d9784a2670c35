"""The wires between agents and the control plane: they delay, lose, repeat, and can be cut one way.

Called by the agents' own link in its fibres; hands requests to whichever control-plane process is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol
from uuid import UUID

import msgspec

from nubila.client.answers import ConnectionFailed, Response, TimedOut
from nubila.testing.stage import Stage, Waiter

DELAY_S = (0.0005, 0.02)
AGAIN_S = (0.0, 0.05)  # until a report comes that the link sent once more, on a new connection
URL = "https://control"


class Request(msgspec.Struct, frozen=True):
    """What an agent asks."""

    node_id: UUID
    method: str
    path: str
    query: dict[str, Any]
    body: bytes


class Server(Protocol):
    """A control-plane process."""

    name: str
    alive: bool

    def serve(self, request: Request) -> Awaitable[Response]: ...


class Line(msgspec.Struct):
    """One host's way to the control plane and back."""

    cut_to: bool = False
    cut_from: bool = False
    loss: float = 0.0
    repeat: float = 0.0
    slow_s: float = 0.0


class Net:
    def __init__(self, stage: Stage):
        self.stage = stage
        self.servers: list[Server] = []
        self.lines: dict[str, Line] = {}
        self.on_wanted: Callable[[str], None] = lambda host: None  # an answer with wishes reaches this host
        self._under_way: set[asyncio.Future[Any]] = set()

    def line(self, host: str) -> Line:
        return self.lines.setdefault(host, Line())

    def send(self, host: str, request: Request, waiter: Waiter, timeout_s: float) -> None:
        draw, line, loop = self.stage.random, self.line(host), self.stage.loop
        timer = loop.call_later(timeout_s, waiter.wake, TimedOut(URL, f"no answer in {timeout_s:.0f} s"))
        alive = [s for s in self.servers if s.alive]
        if not alive:
            loop.call_later(0.002, waiter.wake, ConnectionFailed(URL, "connection refused", may_have_arrived=False))
            return
        server = draw.choice(alive)
        if line.cut_to or draw.random() < line.loss:
            return
        delay_s = self._delay(line)
        if request.path.endswith("/reports") and draw.random() < line.repeat:
            loop.call_later(delay_s, self._arrive, host, server, request, None, None)
            delay_s += draw.uniform(*AGAIN_S)
        loop.call_later(delay_s, self._arrive, host, server, request, waiter, timer)

    def _delay(self, line: Line) -> float:
        return self.stage.random.uniform(*DELAY_S) + line.slow_s * self.stage.random.random()

    def _arrive(
        self, host: str, server: Server, request: Request, waiter: Waiter | None, timer: asyncio.TimerHandle | None
    ) -> None:
        task = asyncio.ensure_future(server.serve(request))
        self._under_way.add(task)
        wanted = request.path.endswith("/wanted")
        task.add_done_callback(lambda done: self._answered(host, done, waiter, timer, wanted))

    def _answered(
        self,
        host: str,
        done: asyncio.Future[Response],
        waiter: Waiter | None,
        timer: asyncio.TimerHandle | None,
        wanted: bool,
    ) -> None:
        self._under_way.discard(done)
        answer: Any = ConnectionFailed(URL, "the connection was reset") if done.cancelled() else done.result()
        line = self.line(host)
        if waiter is None or line.cut_from or self.stage.random.random() < line.loss:
            return
        if timer is not None:
            timer.cancel()
        if wanted:
            self.on_wanted(host)
        self.stage.loop.call_later(self._delay(line), waiter.wake, answer)


class Wire:
    """As `client.transport.Transport`, for one agent."""

    def __init__(self, stage: Stage, net: Net, host: str, node_id: UUID):
        self._stage, self._net, self._host, self._node_id = stage, net, host, node_id

    def request(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, object] | None = None,
        body: bytes | None = None,
        timeout_s: float | None = None,
    ) -> Response:
        waiter = Waiter(self._stage)
        asked = Request(self._node_id, method, path, dict(query or {}), body or b"")
        self._net.send(self._host, asked, waiter, timeout_s or 30.0)
        answer = waiter.wait()
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, Response)
        return answer

    def stream(self, method: str, path: str, *, timeout_s: float | None = None) -> AbstractContextManager[Any]:
        raise ConnectionFailed(URL, "images are there already")

    def upload(
        self,
        method: str,
        path: str,
        source: Iterable[bytes],
        *,
        length: int,
        query: dict[str, object] | None = None,
        timeout_s: float | None = None,
    ) -> Response:
        raise ConnectionFailed(URL, "no image is sent here")

    def close(self) -> None: ...
