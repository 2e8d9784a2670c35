"""The ASGI app of a plane: finds the route, the principal and the permission, reads, answers, logs one line.

Order matters: nothing of a request but its address and its credential is looked at before the policy has allowed it.
`build` is called by the composition root, once per plane; `stop` by the server when the process is to end.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from itertools import count
from typing import Any, Protocol
from urllib.parse import quote

import msgspec

from nubila.access import policy, principal
from nubila.access.authenticate import PEER, Peer
from nubila.access.principal import Principal
from nubila.api import problem, read, table
from nubila.api.deliver import Send, deliver, represented
from nubila.api.meta import meta_routes
from nubila.api.past import past_answer
from nubila.api.read import Intake, Pairs
from nubila.api.route import Answer, Call, Gate, Receive, Route
from nubila.api.table import Bound
from nubila.errors import BadRequest, Busy, MethodNotAllowed, Transient, UnsupportedMediaType
from nubila.model import ids
from nubila.model.catalog import Plane
from nubila.represent import etag, negotiate, page
from nubila.telemetry import log

PARALLEL_MAX = 256

# Everything that may carry a decision is read from these headers, and nothing about identity but the first.
READ = frozenset(
    {
        b"authorization",
        b"content-type",
        b"content-length",
        b"content-encoding",
        b"transfer-encoding",
        b"accept",
        b"if-match",
        b"if-none-match",
        b"idempotency-key",
    }
)
SINGLE = READ - {b"accept", b"if-match", b"if-none-match"}


class Authenticate(Protocol):
    async def __call__(self, authorization: str | None, peer: Peer | None) -> Principal: ...


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """A call that was not carried out, for the audit. Without its body: that may hold secrets."""

    request_id: str
    principal: Principal | None  # None: nobody could be recognised
    permission: str
    method: str
    path: str
    status: int
    slug: str


class Seen:
    """What is known of a request so far, for its log line and the audit."""

    __slots__ = ("bound", "counted", "expects", "intake", "method", "path", "principal", "slug")

    def __init__(self, method: str, path: str, intake: Intake):
        self.method = method
        self.path = path
        self.intake = intake
        self.bound: Bound | None = None
        self.principal: Principal | None = None
        self.expects = False  # the client waits for '100 Continue' and was refused: its body may or may not come
        self.slug: str | None = None
        self.counted = True  # against the limit of parallel requests


async def _always() -> bool:
    return True


def build(
    plane: Plane,
    routes: tuple[Route, ...],
    context: object,
    *,
    authenticate: Authenticate,
    ready: Callable[[], Awaitable[bool]] = _always,
    refused: Callable[[Refused], Awaitable[None]] | None = None,
    parallel_max: int = PARALLEL_MAX,
) -> App:
    """The app of a plane. `ready` answers /readyz; `refused` is awaited before a refusal goes out."""
    return App(plane, (*routes, *meta_routes(plane, routes, ready)), context, authenticate, refused, parallel_max)


class App:
    def __init__(
        self,
        plane: Plane,
        routes: tuple[Route, ...],
        context: object,
        authenticate: Authenticate,
        refused: Callable[[Refused], Awaitable[None]] | None,
        parallel_max: int,
    ):
        self.plane = plane
        self.routes = routes
        self.gate = Gate()
        self.running = 0
        self._context = context
        self._authenticate = authenticate
        self._refused = refused
        self._parallel_max = parallel_max
        self._root = table.compiled(plane, routes)
        self._nobody = principal.nobody(plane)
        self._log = log.get(plane=str(plane))
        # Distinct between processes by its start, within one by counting: no system call per request.
        self._prefix = "req-" + "".join(ids.ALPHABET[b & 31] for b in os.urandom(10)) + "-"
        self._number = count(1)

    def stop(self) -> None:
        """Refuses new requests and answers held ones at once; running ones finish."""
        self.gate.stop()

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await _not_http(scope["type"], receive, send)
        started = time.perf_counter()
        request_id = f"{self._prefix}{next(self._number):06x}"
        log.request_id.set(request_id)
        seen = Seen(scope["method"], scope["path"], Intake(receive))
        self.running += 1
        try:
            answer = await self._answered(scope, receive, seen, request_id)
            close = self.gate.stopping or seen.expects
            await deliver(answer, request_id, seen.intake.receive, send, head=seen.method == "HEAD", close=close)
            self._line(seen, answer.status, started, request_id)
        except BaseException:
            # An answer broke off in its middle, or the server cancelled: there is nobody left to tell.
            self._log.exception("request.broken", method=seen.method, actor=seen.principal and seen.principal.actor)
            raise
        finally:
            self.running -= seen.counted

    async def _answered(self, scope: Mapping[str, Any], receive: Receive, seen: Seen, request_id: str) -> Answer:
        try:
            return await self._handle(scope, receive, seen, request_id)
        except (Exception, asyncio.CancelledError) as e:
            if isinstance(e, asyncio.CancelledError):
                if not self.gate.stopping:
                    raise
                e = _stopping()
            found = problem.problem(e, request_id)
            if found.status == 500:
                self._log.error("request.failed", exc_info=e)
            seen.slug = found.slug
            seen.expects = not seen.intake.done and any(name == b"expect" for name, _ in scope["headers"])
            await self._audit(seen, found, request_id)
            return Answer(status=found.status, body=found.body, media=problem.MEDIA, headers=found.headers)

    async def _handle(self, scope: Mapping[str, Any], receive: Receive, seen: Seen, request_id: str) -> Answer:
        raw_path = scope.get("raw_path") or scope["path"].encode()
        node, values = table.find(self._root, raw_path)
        method = "GET" if seen.method == "HEAD" else seen.method
        bound = node.methods.get(method)
        if bound is None:
            if method == "OPTIONS":
                return Answer(status=204, headers={"allow": ", ".join(node.allow)})
            raise MethodNotAllowed(f"{seen.method[:20]} is not supported here.", allow=node.allow)
        seen.bound = bound
        self._admit(bound, seen)
        headers = _headers(scope["headers"])
        peer = (scope.get("extensions") or {}).get(PEER)
        who = self._nobody if bound.rule.open else await self._authenticate(headers.get(b"authorization"), peer)
        seen.principal = who
        policy.allow(bound.route.permission, who)
        accept = headers.get(b"accept", "*/*")
        media = negotiate.choose(accept, bound.route.media) if accept != "*/*" else bound.route.media[0]
        call, common = await self._call(bound, values, scope, headers, receive, seen, who, request_id)
        call.again = partial(self._authenticate, headers.get(b"authorization"), peer)
        answer = await _handled(bound.route, call, common)
        return represented(answer, bound.route, call, common.fields, media, headers.get(b"if-none-match"))

    def _admit(self, bound: Bound, seen: Seen) -> None:
        if self.gate.stopping:
            raise _stopping()
        if bound.route.held:
            seen.counted = False
            self.running -= 1
        elif self.running > self._parallel_max and not bound.rule.open:
            raise Busy()

    async def _call(
        self,
        bound: Bound,
        values: list[str],
        scope: Mapping[str, Any],
        headers: dict[bytes, str],
        receive: Receive,
        seen: Seen,
        who: Principal,
        request_id: str,
    ) -> tuple[Call[Any, Any, Any], read.Common]:
        texts, parsed = bound.bind(values)
        query_text = read.query_text(scope["query_string"])
        query, common = bound.query.read(query_text)
        raw, body = await _body(bound, seen.intake, headers)
        key, if_match = headers.get(b"idempotency-key"), headers.get(b"if-match")
        return Call(
            context=self._context,
            principal=who,
            params=texts,
            ids=parsed,
            query=query,
            body=body,
            raw=raw,
            request_id=request_id,
            method=scope["method"],
            path=scope["path"],
            query_text=query_text,
            plan=common.plan,
            wait_s=common.wait,
            page=_page(common) if common is not read.NOTHING else page.FIRST,
            idempotency_key=None if key is None else read.idempotency_key(key),
            if_match=None if if_match is None else etag.parse(if_match, "If-Match"),
            header_pairs=scope["headers"],
            chunks=seen.intake.chunks,
            receive=receive,
            gate=self.gate,
        ), common

    async def _audit(self, seen: Seen, found: problem.Problem, request_id: str) -> None:
        if self._refused is None or seen.bound is None:
            return
        if not seen.bound.route.writes and found.status not in (401, 403):
            return
        row = Refused(
            request_id=request_id,
            principal=seen.principal,
            permission=seen.bound.route.permission,
            method=seen.method,
            path=seen.path,
            status=found.status,
            slug=found.slug,
        )
        try:
            await self._refused(row)
        except Transient as e:
            self._log.warning("audit.failed", permission=row.permission, slug=row.slug, inside=str(e))
        except Exception:
            self._log.exception("audit.failed", permission=row.permission, slug=row.slug)

    def _line(self, seen: Seen, status: int, started: float, request_id: str) -> None:
        """Never the query's values, and the path only where it is one of ours: people paste secrets into addresses."""
        log.request(
            {
                "plane": self.plane,
                "method": seen.method,
                "path": _one_line(seen.path) if seen.bound else None,
                "route": seen.bound.route.path if seen.bound else None,
                "status": status,
                "slug": seen.slug,
                "actor": seen.principal.actor if seen.principal else None,
                "ms": round((time.perf_counter() - started) * 1000, 2),
                "request_id": request_id,
            }
        )


async def _handled(route: Route, call: Call[Any, Any, Any], common: read.Common) -> Answer:
    if common.as_of is None and common.until is None:
        return await route.handler(call)
    return await past_answer(route, call, common.as_of, common.until)


def _one_line(path: str) -> str:
    """What a terminal or a reader of lines would take for more than text stays encoded."""
    return path if path.isprintable() else quote(path)


def _stopping() -> Transient:
    return Transient("Nubila is stopping.", fix="Repeat the request after the time in Retry-After.")


def _headers(pairs: Pairs) -> dict[bytes, str]:
    """The headers that are read at all; one that decides something and comes twice is refused."""
    found: dict[bytes, str] = {}
    for name, value in pairs:
        if name in READ:
            text = value.decode("latin-1")
            if name in found:
                if name in SINGLE:
                    raise BadRequest(f"The header {name.decode()} is given twice.")
                text = f"{found[name]}, {text}"
            found[name] = text
    return found


async def _body(bound: Bound, intake: Intake, headers: dict[bytes, str]) -> tuple[bytes, Any]:
    if headers.get(b"content-encoding", "identity") != "identity":
        raise UnsupportedMediaType("A content encoding is not supported; send the content as it is.")
    length = read.content_length(headers.get(b"content-length"))
    if length is None and b"transfer-encoding" not in headers:
        length = 0  # HTTP/1.1: then there is no body
    intake.expect(length, bound.route.max_bytes)
    if bound.route.upload:
        read.octets_only(headers.get(b"content-type"))
        return b"", None
    raw = b"" if length == 0 else await intake.whole()
    if bound.body is None:
        if raw:
            raise BadRequest("This address takes no body.")
        return raw, None
    return raw, bound.body.read(raw, headers.get(b"content-type"))


def _page(common: read.Common) -> page.Page:
    return page.Page(common.limit, None if common.after is None else page.decode(common.after))


async def _not_http(kind: str, receive: Receive, send: Send) -> None:
    if kind == "websocket":
        await send({"type": "websocket.close", "code": 1003})
    while kind == "lifespan":
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return
