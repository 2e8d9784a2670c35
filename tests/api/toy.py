"""A toy plane over a dict: every kind of route that the framework knows, and credentials for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import msgspec

from nubila.access import principal, tokens
from nubila.access.authenticate import Authenticator, Peer, TokenRow
from nubila.api.app import App, Refused, build
from nubila.api.route import BYTES, TEXT, Answer, Call, Route
from nubila.errors import Conflict, NotFound, PreconditionFailed
from nubila.model import ids
from nubila.model.catalog import Plane
from nubila.model.fields import NEVER, OPERATOR, Cores, Labels, Name
from nubila.represent import etag, page

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
REGION = "toy.region"
PROJECT, ACCOUNT, NODE_ID = ids.uuid7(1, 1), ids.uuid7(1, 2), ids.uuid7(1, 3)
CANARY = "canary-6a0f"  # text that must never come out


class Nested(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    size: Cores = 1


class Create(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: Name
    cores: Cores = 1
    labels: Labels = {}
    nested: Nested = Nested()
    anything: dict[str, Any] = {}
    count: int = 0


class Stop(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    mode: str = "clean"


class Things(msgspec.Struct, frozen=True):
    name: str | None = None
    size: int | None = None
    label: list[str] = []


class Thing(msgspec.Struct, frozen=True):
    id: str
    name: str
    node: Annotated[str, OPERATOR] = "n1"
    secret: Annotated[str, NEVER] = CANARY


class Report(msgspec.Struct, frozen=True):
    session: int
    more: list[Nested] = []


@dataclass
class World:
    happened: asyncio.Event = field(default_factory=asyncio.Event)
    things: dict[str, Thing] = field(default_factory=dict)
    refused: list[Refused] = field(default_factory=list)
    uploaded: int = 0
    calls: list[Call[Any, Any, Any]] = field(default_factory=list)


async def create(call: Call[World, Any, Create]) -> Answer:
    """Make a thing."""
    call.context.calls.append(call)
    if call.body.name == "taken":
        raise Conflict("That is taken.", users=["thing-1"])
    if call.body.name == "broken":
        raise RuntimeError(CANARY)
    thing = Thing("thing-1", call.body.name)
    if not call.plan:
        call.context.things[thing.name] = thing
    return Answer(body={"thing": thing, "plan": call.plan}, etag=etag.of(1, 0))


async def show(call: Call[World, Any, Any]) -> Answer:
    """Show a thing."""
    name = call.params["thing"]
    if name not in call.context.things:
        raise NotFound(f"There is no thing '{name}'.")
    if not etag.matches(call.if_match, "1.0"):
        raise PreconditionFailed()
    return Answer(body=call.context.things[name], etag="1.0")


async def listing(call: Call[World, Things, Any]) -> Answer:
    """List things."""
    call.context.calls.append(call)
    items = [visible for visible in call.context.things.values()][: call.page.limit]
    link = page.next_link(call.path, call.query_text, ("thing-1",))
    return Answer(body={"items": items, "next": link, "asked": call.query.label})


async def stop(call: Call[World, Any, Stop]) -> Answer:
    """Stop a thing."""
    return Answer(body={"mode": call.body.mode, "id": str(call.ids["thing"]), "wait": call.wait_s})


async def remove(call: Call[World, Any, Any]) -> Answer:
    """Remove a thing."""
    return Answer()


async def console(call: Call[World, Any, Any]) -> Answer:
    """A thing's console."""
    return Answer(body="line\n")


async def content(call: Call[World, Any, Any]) -> Answer:
    """A thing's content."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            await asyncio.sleep(0)
            yield b"x" * 1000

    return Answer(body=pieces(), length=3000)


async def upload(call: Call[World, Any, Any]) -> Answer:
    """Take content."""
    async for piece in call.stream():
        call.context.uploaded += len(piece)
    return Answer(body={"bytes": call.context.uploaded})


async def held(call: Call[World, Any, Any]) -> Answer:
    """Wait for what happens."""
    return Answer(body={"happened": await call.until(call.context.happened.wait(), call.wait_s)})


async def slow(call: Call[World, Any, Any]) -> Answer:
    """Take a while."""
    await asyncio.sleep(0.3)
    return Answer(body={"done": True})


async def late(call: Call[World, Any, Any]) -> Answer:
    """Take far too long."""
    await asyncio.sleep(60)
    return Answer()


async def whoami(call: Call[World, Any, Any]) -> Answer:
    """Who asks."""
    p = call.principal
    return Answer(body={"actor": p.actor, "role": p.role, "project": str(p.project_id)})


async def report(call: Call[World, Any, Report]) -> Answer:
    """Take a report."""
    return Answer(body={"session": call.body.session, "actor": call.principal.actor})


ROUTES: tuple[Route, ...] = (
    Route("POST", "/v1/things", "vm.create", create, body=Create, status=201, errors=(Conflict,)),
    Route("GET", "/v1/things", "vm.read", listing, query=Things, listing=True),
    Route("GET", "/v1/things/{thing}", "vm.read", show, answer=Thing),
    Route("POST", "/v1/things/{thing:vm}/stop", "vm.stop", stop, body=Stop, status=202),
    Route("DELETE", "/v1/things/{thing}", "vm.remove", remove),
    Route("GET", "/v1/things/{thing}/console", "vm.console", console, media=(TEXT,)),
    Route("GET", "/v1/things/{thing}/content", "vm.read", content, media=(BYTES,)),
    Route("GET", "/v1/held", "vm.read", held, held=True),
    Route("GET", "/v1/slow", "vm.read", slow),
    Route("GET", "/v1/late", "vm.read", late),
    Route("GET", "/v1/me", "me.read", whoami),
)
OPERATOR_ROUTES: tuple[Route, ...] = (
    Route("GET", "/v1/me", "me.read", whoami),
    Route("GET", "/v1/things/{thing}", "vm.read", show, answer=Thing),
    Route("PUT", "/v1/images/{image}/content", "image.upload", upload, upload=True, max_bytes=1 << 30),
)
INTERNAL_ROUTES: tuple[Route, ...] = (
    Route("GET", "/internal/v1/ca", "ca.read", whoami),
    Route("POST", "/internal/v1/reports", "report.write", report, body=Report),
    Route("GET", "/internal/v1/wanted", "wanted.read", held, held=True),
)


class Credentials:
    """The port, over dicts."""

    def __init__(self) -> None:
        self.rows: dict[UUID, TokenRow] = {}
        self.nodes = {NODE_ID: principal.NODE}
        self._n = 100

    async def token(self, token_id: UUID) -> TokenRow | None:
        return self.rows.get(token_id)

    async def node(self, node_id: UUID) -> str | None:
        return self.nodes.get(node_id)

    def issue(self, plane: Plane = Plane.USER, role: str = "owner", **changes: Any) -> str:
        self._n += 1
        token_id = ids.uuid7(1, self._n)
        kind = tokens.Kind.USER if plane is Plane.USER else tokens.Kind.OPERATOR
        text, sha = tokens.make(kind, token_id, self._n.to_bytes(32, "big"))
        row = TokenRow(
            token_id=token_id,
            secret_sha256=sha,
            plane=plane,
            account_kind=str(plane),
            account_id=ACCOUNT,
            role=role if plane is Plane.USER else "operator",
            project_id=PROJECT if plane is Plane.USER else None,
            expires_at=NOW + timedelta(hours=1),
        )
        self.rows[token_id] = msgspec.structs.replace(row, **changes)
        return text


@dataclass
class Toy:
    world: World
    credentials: Credentials
    user: App
    operator: App
    internal: App
    token: str
    peer: Peer


def make(clock: Any = lambda: NOW, parallel_max: int = 256) -> Toy:
    world, credentials = World(), Credentials()

    async def refused(row: Refused) -> None:
        world.refused.append(row)

    def app(plane: Plane, routes: tuple[Route, ...]) -> App:
        authenticate = Authenticator(plane, credentials, clock, REGION)
        return build(plane, routes, world, authenticate=authenticate, refused=refused, parallel_max=parallel_max)

    peer = Peer((f"spiffe://{REGION}/node/{ids.text('node', NODE_ID)}",), NOW.timestamp() + 60)
    return Toy(
        world,
        credentials,
        app(Plane.USER, ROUTES),
        app(Plane.OPERATOR, OPERATOR_ROUTES),
        app(Plane.INTERNAL, INTERNAL_ROUTES),
        credentials.issue(),
        peer,
    )
