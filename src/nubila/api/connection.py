"""One connection of a listener: uvicorn's HTTP/1.1 protocol, with bounds and with the peer's verified certificate.

uvicorn alone hides the certificate from the app and bounds neither a request's head nor how slowly it may come. What is
put into the scope here cannot be forged by a header: it comes from TLS.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from nubila.access.authenticate import PEER, Peer
from nubila.api import problem
from nubila.errors import BadRequest, NubilaError, TooLarge

HEAD_MAX_BYTES = 32 * 1024
HEADERS_MAX = 100
HEAD_TIMEOUT_S = 10.0  # from a connection or a request's first byte to the end of its headers
STUCK_TIMEOUT_S = 60.0  # how long a client may take nothing of its answer
LINGER_S = 3.0  # how long a refused client may go on sending; ended at once, it could not read why


class HeadTooLarge(TooLarge):
    """The request's address and headers are larger than this API accepts."""

    status = 431
    fix = "Send fewer or shorter headers."


class PeerCertProtocol(HttpToolsProtocol):
    connections_max = 2048  # of one listener; `serve` sets it
    peer: Peer | None = None
    head_since: float | None = None  # when the head that is now coming in began; None: none is
    stuck_since: float | None = None
    linger_since: float | None = None
    _body_open = False
    _head_bytes = 0
    _fault: NubilaError | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.head_since = self.loop.time()
        self.peer = peer_of(transport.get_extra_info("ssl_object"))
        if len(self.connections) > self.connections_max:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        if self.head_since is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self.head_since is not None and self._head_bytes > HEAD_MAX_BYTES and not self.transport.is_closing():
            self._fault = HeadTooLarge()
            self.send_400_response("")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self.head_since is None:
            self.head_since = self.loop.time()
        if self.peer is not None:
            self.scope["extensions"] = {PEER: self.peer}  # type: ignore[dict-item]

    def on_headers_complete(self) -> None:
        if len(self.headers) > HEADERS_MAX or (
            self._head_bytes > HEAD_MAX_BYTES and self._head_size() > HEAD_MAX_BYTES
        ):
            self._fault = HeadTooLarge()
            raise httptools.HttpParserError("head too large")  # answered by send_400_response
        self.head_since = None
        self._head_bytes = 0
        self._body_open = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._body_open = False
        super().on_message_complete()

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def send_400_response(self, msg: str) -> None:
        """What cannot be parsed is refused in the same form as everything else."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()  # an earlier request of this connection is still being answered
            return
        fault = self._fault or BadRequest("This is not a valid HTTP/1.1 request.")
        found = problem.problem(fault, "none")
        head = b"content-type: %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[found.status] + head % (problem.MEDIA.encode(), len(found.body)) + found.body)
        self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.stuck_since = self.loop.time()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.stuck_since = None

    def check(self, now: float) -> None:
        """Called every second: ends connections that only hold on."""
        busy = self.cycle is not None and not self.cycle.response_complete
        if not self._body_open or busy:
            self.linger_since = None
        elif self.linger_since is None:
            self.linger_since = now
        lingers = self.linger_since is not None and now - self.linger_since > LINGER_S
        slow = self.head_since is not None and not busy and now - self.head_since > HEAD_TIMEOUT_S
        stuck = self.stuck_since is not None and now - self.stuck_since > STUCK_TIMEOUT_S
        if slow or stuck or lingers:
            self.transport.abort()


def peer_of(tls: Any) -> Peer | None:
    """The verified certificate of the other side, if it sent one."""
    certificate = tls.getpeercert() if tls is not None else None
    if not certificate:  # none sent, or this listener does not ask
        return None
    uris = tuple(value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI")
    return Peer(uris, float(ssl.cert_time_to_seconds(certificate["notAfter"])))
