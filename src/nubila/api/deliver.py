"""How an answer goes out: as bytes of the media type that was agreed on, under fixed headers, or in pieces as they come.

Called by the app once a handler has answered, and for every problem.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from nubila.api.route import BYTES, JSON, TEXT, Answer, Call, Receive, Route, client_gone
from nubila.represent import etag, json, negotiate, visibility

Send = Callable[[Mapping[str, Any]], Awaitable[None]]

_FIXED = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))


def represented(
    answer: Answer, route: Route, call: Call[Any, Any, Any], fields: str | None, media: str, if_none_match: str | None
) -> Answer:
    """The answer with its body as bytes (or as a stream), its status and its media type."""
    body, status = answer.body, answer.status or route.status
    if (
        answer.etag is not None
        and if_none_match is not None
        and not route.writes
        and etag.unchanged(etag.parse(if_none_match, "If-None-Match"), answer.etag)
    ):
        return Answer(status=304, headers=answer.headers, etag=answer.etag, body=b"")
    kind = answer.media or media
    if body is None:
        return Answer(status=204 if status == 200 else status, body=b"", headers=answer.headers, etag=answer.etag)
    if isinstance(body, str):
        body, kind = body.encode(), answer.media or f"{TEXT}; charset=utf-8"
    elif isinstance(body, AsyncIterator):
        kind = answer.media or BYTES
    elif not isinstance(body, bytes):
        body = negotiate.REPRESENTATIONS[media](visibility.visible(body, call.viewer))
    if fields and kind == JSON and isinstance(body, bytes) and status < 300:
        body = json.pick(body, frozenset(fields.split(",")))
    return Answer(status=status, body=body, headers=answer.headers, etag=answer.etag, media=kind, length=answer.length)


async def deliver(answer: Answer, request_id: str, receive: Receive, send: Send, *, head: bool, close: bool) -> None:
    """`head`: without its body. `close`: the connection ends with it."""
    body = answer.body
    headers = [(b"x-request-id", request_id.encode()), *_FIXED]
    if answer.media is not None:
        headers.append((b"content-type", answer.media.encode("latin-1")))
    if answer.etag is not None:
        headers.append((b"etag", b'"' + answer.etag.encode("latin-1") + b'"'))
    length = len(body) if isinstance(body, bytes) else answer.length
    if length is not None and answer.status not in (204, 304):
        headers.append((b"content-length", b"%d" % length))
    headers.extend([(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in answer.headers.items()])
    if close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    if isinstance(body, bytes):
        await send({"type": "http.response.body", "body": b"" if head else body})
        return
    if isinstance(body, AsyncIterator) and not head:
        await _stream(body, receive, send)
    await send({"type": "http.response.body", "body": b""})


async def _stream(pieces: AsyncIterator[bytes], receive: Receive, send: Send) -> None:
    """Sends what comes, until nobody is left to take it: the server itself would swallow the rest in silence."""
    gone = asyncio.ensure_future(client_gone(receive))
    try:
        async for piece in pieces:
            if gone.done():
                return
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    finally:
        gone.cancel()
        if isinstance(pieces, AsyncGenerator):
            await pieces.aclose()
