"""A control-plane process: the product's handlers, carrier and reconcile loop over the tables in memory.

Requests come in without HTTP: each becomes the `Call` that the framework would have made. It can be killed at any await.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any
from uuid import UUID

import msgspec

from nubila import protocol
from nubila.access.principal import Principal, node
from nubila.api.context import ApiCall, Context
from nubila.api.internal import enrol, report, wanted
from nubila.api.problem import MEDIA, problem
from nubila.api.route import Answer, Call, Gate
from nubila.client.answers import Response
from nubila.fleet.fleet import Fleet
from nubila.fleet.heard import Heard
from nubila.intent.carry import Carrier
from nubila.model.ids import Mint
from nubila.reconcile.loop import Loop
from nubila.represent.page import FIRST
from nubila.store.node import NodeStore
from nubila.store.notify import CHANGED, Hub, Notifier
from nubila.store.resource import AccountStore
from nubila.store.vm import VmStore
from nubila.store.volume import VolumeStore
from nubila.store.work import WorkStore
from nubila.telemetry import log
from nubila.testing.net import Request
from nubila.testing.stage import Stage
from nubila.testing.store import MemoryDatabase, MemoryResources, Tables

ROOT = "/internal/v1"
# method and path -> handler, type of the body
ROUTES: dict[tuple[str, str], tuple[Callable[[ApiCall], Awaitable[Answer]], type[Any] | None]] = {
    ("POST", f"{ROOT}/sessions"): (enrol.open_session, protocol.Hello),
    ("GET", f"{ROOT}/wanted"): (wanted.wanted, None),
    ("POST", f"{ROOT}/reports"): (report.report, protocol.Reports),
}


class Bus:
    """Hints between the processes: each may be lost."""

    def __init__(self, stage: Stage):
        self.stage = stage
        self.loss = 0.0
        self.hubs: list[Hub] = []

    def send(self, by: Hub, hints: list[str]) -> None:
        for hub in self.hubs:
            if hub is not by and self.stage.random.random() >= self.loss:
                self.stage.loop.call_later(self.stage.random.uniform(0.001, 0.004), _wake, hub, hints)


def _wake(hub: Hub, hints: list[str]) -> None:
    for hint in hints:
        hub.wake(hint)


class MemoryNotifier(Notifier):
    """The product's hints, over the bus of the schedule. On a cut bus not even the own process hears of them."""

    def __init__(self, hub: Hub, bus: Bus):
        self.hub, self._bus = hub, bus

    def tell(self, hints: Iterable[str]) -> None:
        told = [*hints, CHANGED]
        if self._bus.loss < 1.0:
            _wake(self.hub, told)
        self._bus.send(self.hub, told)


class Control:
    def __init__(self, stage: Stage, tables: Tables, bus: Bus, mint: Mint, name: str, region: str):
        self.name, self.stage, self.alive = name, stage, False
        self._tables, self._bus, self._mint, self._region = tables, bus, mint, region
        self._tasks: set[asyncio.Task[Any]] = set()
        self._life = 0
        self.failures: list[str] = []  # answers that are nobody's mistake but ours
        self.context: Context = self._made()

    def _made(self) -> Context:
        nothing: Any = None
        database, hub = MemoryDatabase(self._tables), Hub()
        nodes, seals = NodeStore(database), nothing
        notifier, fleet = MemoryNotifier(hub, self._bus), Fleet(nodes, self.stage.monotonic)
        return Context(
            settings=nothing,
            region=self._region,
            fabric_epoch=1,
            timeline=1,
            database=database,
            resources=MemoryResources(database, self._tables),
            accounts=AccountStore(database),
            vms=VmStore(database),
            volumes=VolumeStore(database),
            ports=nothing,
            nodes=nodes,
            fleet=fleet,
            heard=Heard(nodes, seals),
            hub=hub,
            feed=nothing,
            notifier=notifier,
            carrier=Carrier(database, notifier, fleet, self._mint),
            vault=nothing,
            authority=nothing,
            images=nothing,
            image_rows=nothing,
            work=WorkStore(database),
            random_bytes=self.stage.random.randbytes,
        )

    # --- its life

    def start(self) -> None:
        self._life += 1
        self.alive, self.context = True, self._made()
        self._bus.hubs.append(self.context.hub)
        loop = Loop(self.context.carrier, self.context.work, f"{self.name}.{self._life}")
        self._spawn(loop.run(asyncio.Event()))
        self._spawn(self.context.heard.run())

    def kill(self) -> None:
        """At whatever await each of its requests is."""
        self.alive = False
        self._bus.hubs.remove(self.context.hub)
        for task in list(self._tasks):
            task.cancel()

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self.stage.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # --- requests

    def serve(self, request: Request) -> asyncio.Task[Response]:
        """One of an agent's."""
        handler, kind = ROUTES[request.method, request.path]
        body = None if kind is None else msgspec.json.decode(request.body, type=kind)
        query = dict(request.query)
        wait_s = float(query.pop("wait", 0.0))
        asked = wanted.WantedQuery(**query) if query else None
        principal = node(request.node_id)
        call = self.call(principal, request.method, request.path, body=body, query=asked, wait_s=wait_s)
        return self._spawn(self._answer(handler, call))

    async def _answer(self, handler: Callable[[ApiCall], Awaitable[Answer]], call: ApiCall) -> Response:
        try:
            answer = await handler(call)
        except asyncio.CancelledError:
            raise
        except Exception as e:
            said = problem(e, call.request_id)
            if said.status == 500:
                self.failures.append(f"{call.method} {call.path}: {e!r} {getattr(e, 'inside', '')}")
                log.get().error("request.failed", path=call.path, exc_info=e)
            return Response(said.status, {"content-type": MEDIA, **said.headers}, said.body)
        body = b"" if answer.body is None else msgspec.json.encode(answer.body)
        return Response(answer.status or 200, {"content-type": "application/json"}, body)

    async def ask(self, handler: Callable[[ApiCall], Awaitable[Answer]], call: ApiCall) -> Response:
        """One of a user's."""
        answer: Response = await self._spawn(self._answer(handler, call))
        return answer

    def call(
        self, principal: Principal, method: str, path: str, *, body: Any = None, query: Any = None, **more: Any
    ) -> ApiCall:
        raw = b"" if body is None else msgspec.json.encode(body)
        values: dict[str, Any] = {
            "params": {}, "ids": {}, "request_id": f"req-{self._mint().hex[-12:]}", "query_text": "", "plan": False,
            "wait_s": 0.0, "page": FIRST, "idempotency_key": None, "if_match": None, "header_pairs": [],
            "chunks": None, "receive": _never, "gate": Gate(), **more,
        }  # fmt: skip
        return Call(
            context=self.context,
            principal=principal,
            query=query,
            body=body,
            raw=raw,
            method=method,
            path=path,
            **values,
        )


async def _never() -> dict[str, Any]:
    await asyncio.get_running_loop().create_future()
    raise AssertionError("unreachable")


def user(project_id: UUID, account_id: UUID) -> Principal:
    """Somebody who may do everything in a project."""
    from nubila.access.principal import account
    from nubila.model.catalog import Plane

    return account(Plane.USER, "user", account_id, "owner", project_id, account_id)
