"""A tiny ASGI client: one request in, one answer out, no sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from nubila.access.authenticate import PEER, Peer


@dataclass
class Got:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def request(
    app: Any,
    method: str,
    path: str,
    *,
    query: bytes | str = b"",
    body: bytes | Sequence[bytes] | None = None,
    data: Any = None,
    headers: dict[str, str] | None = None,
    raw_headers: Sequence[tuple[bytes, bytes]] = (),
    raw_path: bytes | None = None,
    token: str | None = None,
    peer: Peer | None = None,
    leaves: bool = False,
) -> Got:
    """`data` is sent as JSON; a sequence of bytes as `body` is sent in pieces, without a Content-Length.

    `leaves`: the client is gone as soon as it has sent its request.
    """
    pieces = (
        [json.dumps(data).encode()] if data is not None else [body] if isinstance(body, bytes) else list(body or ())
    )
    sent = _headers(data, body, pieces, token) | (headers or {})
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": raw_path if raw_path is not None else quote(path).encode(),
        "query_string": query if isinstance(query, bytes) else query.encode(),
        "headers": [(k.lower().encode(), v.encode("latin-1")) for k, v in sent.items()] + list(raw_headers),
        "extensions": {PEER: peer} if peer is not None else {},
    }
    incoming = [{"type": "http.request", "body": p, "more_body": i + 1 < len(pieces)} for i, p in enumerate(pieces)]
    incoming = incoming or [{"type": "http.request", "body": b"", "more_body": False}]
    outgoing: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if not incoming and not leaves:
            await asyncio.Event().wait()
        return incoming.pop(0) if incoming else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        outgoing.append(message)

    await app(scope, receive, send)
    start = outgoing[0]
    assert outgoing[-1].get("more_body", False) is False
    content = b"".join(m.get("body", b"") for m in outgoing[1:])
    return Got(start["status"], {k.decode(): v.decode("latin-1") for k, v in start["headers"]}, content)


def _headers(data: Any, body: bytes | Sequence[bytes] | None, pieces: list[bytes], token: str | None) -> dict[str, str]:
    sent = {"content-type": "application/json"} if data is not None else {}
    if data is not None or isinstance(body, bytes):
        sent["content-length"] = str(len(pieces[0]))
    elif pieces:
        sent["transfer-encoding"] = "chunked"
    if token is not None:
        sent["authorization"] = f"Bearer {token}"
    return sent
