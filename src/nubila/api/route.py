"""What a route is, what its handler gets (`Call`) and what it gives back (`Answer`).

A plane is a literal tuple of `Route`s; `app.build` makes an ASGI app of it. A handler is `async def x(call) -> Answer`:
it reads `call`, calls an intent or a store, and returns; every error it wants to show it raises from `nubila.errors`.
By the time it runs, the principal has the route's permission and path, query, headers and body are valid.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from uuid import UUID

import msgspec

from nubila.access.principal import Principal
from nubila.errors import NubilaError
from nubila.model.catalog import Plane
from nubila.model.fields import Visibility
from nubila.represent.page import Page
from nubila.store.tables import BY_NAME

C = TypeVar("C")
Q = TypeVar("Q")
B = TypeVar("B")

Receive = Callable[[], Awaitable[Mapping[str, Any]]]

JSON_MAX_BYTES = 1 << 20
JSON = "application/json"
TEXT = "text/plain"
BYTES = "application/octet-stream"
LOGGED = frozenset(name for name, t in BY_NAME.items() if t.logged)


class NoQuery(msgspec.Struct, frozen=True):
    """A route without query parameters of its own."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a handler gives back. `etag` answers If-None-Match with 304 by itself.

    body: Struct, dict or list (encoded as negotiated, fields hidden from the viewer dropped) | bytes (JSON already,
    unless `media` says otherwise) | str (text/plain) | async iterator of bytes (streamed) | None (204, or as `status`).
    """

    body: object = None
    status: int = 0  # 0: the route's
    headers: Mapping[str, str] = {}
    etag: str | None = None  # without quotes, as from represent.etag.of()
    media: str | None = None
    length: int | None = None  # of a streamed body, in bytes, when it is known


@dataclass(slots=True)
class Gate:
    """Shared by all calls of an app: what is held open, so that a stop can answer it at once."""

    stopping: bool = False
    held: set[asyncio.Future[None]] = field(default_factory=set)

    def stop(self) -> None:
        self.stopping = True
        for future in self.held:
            if not future.done():
                future.set_result(None)


@dataclass(slots=True)
class Call(Generic[C, Q, B]):
    """One request, checked. Alias it per plane: `UserCall = Call[UserContext, Q, B]`."""

    context: C  # given to build(): stores, settings, fleet...
    principal: Principal
    params: dict[str, str]  # path parameters as text: `{vm}` an id or a name, `{operation:operation}` a typed id
    ids: dict[str, UUID]  # those path parameters that were declared with a kind, parsed
    query: Q
    body: B
    raw: bytes  # the body as it came
    request_id: str
    method: str
    path: str
    query_text: str  # as it came, for `next` links
    plan: bool  # ?plan=1
    wait_s: float  # ?wait=, 0 when not given
    page: Page  # ?limit= and ?after= of a list
    idempotency_key: str | None
    if_match: tuple[str, ...] | None  # for represent.etag.matches(); None: not given
    header_pairs: list[tuple[bytes, bytes]]
    chunks: Callable[[], AsyncIterator[bytes]]
    receive: Receive
    gate: Gate
    again: Callable[[], Awaitable[Principal]] | None = None  # who the caller is by now; raises when nobody any more
    as_of: str | None = None  # ?as_of=: then `context` reads the past
    departed: bool = False  # the client was seen gone while it was waited for: who waits in a loop ends it

    @property
    def viewer(self) -> Visibility:
        return "tenant" if self.principal.plane is Plane.USER else "operator"

    @property
    def headers(self) -> dict[str, str]:
        """Names in lower case; the last one wins. Nothing about identity may be read from here."""
        return {k.decode("latin-1"): v.decode("latin-1") for k, v in self.header_pairs}

    @property
    def fingerprint(self) -> str:
        """The same for the same request: what an Idempotency-Key is bound to."""
        head = f"{self.method} {self.path}?{self.query_text}\n".encode()
        return hashlib.sha256(head + self.raw).hexdigest()

    def stream(self) -> AsyncIterator[bytes]:
        """The body of a route with `upload=True`, bounded by the route's `max_bytes`; raises when it breaks off."""
        return self.chunks()

    async def until(self, happened: Coroutine[Any, Any, object], timeout_s: float) -> bool:
        """Waits; true when `happened` ended. False at the timeout, when the client is gone, or when Nubila stops."""
        if self.gate.stopping or timeout_s <= 0:
            happened.close()
            return False
        stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        wanted = asyncio.ensure_future(happened)
        gone = asyncio.ensure_future(client_gone(self.receive))
        self.gate.held.add(stop)
        try:
            await asyncio.wait((wanted, gone, stop), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            self.departed = gone.done()
            if wanted.done():
                wanted.result()  # its error, if it has one, is the caller's
                return True
            return False
        finally:
            self.gate.held.discard(stop)
            wanted.cancel()
            gone.cancel()


async def client_gone(receive: Receive) -> None:
    """Ends when the client has ended its connection; only once its body has been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


Handler = Callable[[Call[Any, Any, Any]], Awaitable[Answer]]


H = TypeVar("H", bound=Handler)
_ANSWERS: dict[Handler, Any] = {}


def answers(kind: Any) -> Callable[[H], H]:
    """Says of a handler what it answers with, for the OpenAPI document; of one route alone its `answer` says so."""

    def said(handler: H) -> H:
        _ANSWERS[handler] = kind
        return handler

    return said


@dataclass(frozen=True, slots=True)
class Route:
    """One row of a plane's table.

    path: '/v1/vms/{vm}'; `{name}` is an id or a name, `{name:kind}` only a typed id of that kind (404 otherwise).
    body: a Struct; a body is required unless every field has a default. Unknown fields are refused on the user and
    operator planes and ignored on the internal one. query: a Struct; unknown parameters are refused on all planes.
    """

    method: str
    path: str
    permission: str  # a row of access/policy.py
    handler: Handler
    body: type[Any] | None = None
    query: type[Any] = NoQuery
    answer: Any = None  # the type of the answer's body, for the OpenAPI document
    status: int = 200
    statuses: tuple[int, ...] = ()  # that it may end with besides, for the OpenAPI document
    listing: bool = False  # takes ?limit= and ?after= -> call.page
    plans: bool = True  # a write that takes ?plan=1
    held: bool = False  # may be held open (?wait=): not counted against the limit of parallel requests
    upload: bool = False  # the body is read by the handler, as octets, with call.stream()
    max_bytes: int = JSON_MAX_BYTES
    media: tuple[str, ...] = (JSON,)  # what it can answer with, best first
    past: bool = True  # False: reads what is not in the change log, though its noun is
    errors: tuple[type[NubilaError], ...] = ()  # that it raises beyond the common ones, for the OpenAPI document

    @property
    def answered(self) -> Any:
        return _ANSWERS.get(self.handler) if self.answer is None else self.answer

    @property
    def writes(self) -> bool:
        return self.method not in ("GET", "HEAD")

    @property
    def has_past(self) -> bool:
        """Reads a resource, or what belongs to it, from tables that are in the change log: takes ?as_of=."""
        noun = self.permission.partition(".")[0]
        return self.past and self.method == "GET" and noun in LOGGED and self.media[0] == JSON

    @property
    def summary(self) -> str:
        return (self.handler.__doc__ or "").strip().split("\n")[0]
