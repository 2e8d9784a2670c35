"""Metadata over HTTP on 169.254.169.254:80, one listening socket per bridge. Called by the core; runs in its event
loop.

Who asks is decided by the bridge that the socket is bound to and by the source address, which the rules on the vm's
tap pin; never by a header. Everything is bounded: head, time, connections of one guest and in all. It serves from the
wish that is on disk, control plane or not. EC2's session tokens (IMDSv2) are given and, when sent, checked.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import os
import re
import socket
import time
from collections import Counter
from collections.abc import Callable

from nubila.agent.metadata_tree import look_up
from nubila.protocol import Vm

ADDRESS = "169.254.169.254"
HEAD_BYTES = 8192
HEAD_S = 5.0
PER_GUEST = 8
IN_ALL = 512
REQUESTS_PER_CONNECTION = 100
TOKEN_PATH = "/latest/api/token"  # noqa: S105
TOKEN_MAX_S = 21600
_LINE = re.compile(rb"([A-Z]{1,16}) (/[\x21-\x7e]*) HTTP/1\.([01])")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}):[ \t]*([\x20-\x7e\x80-\xff\t]*?)[ \t]*")
_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 405: "Method Not Allowed",
            431: "Request Header Fields Too Large"}  # fmt: skip

Who = Callable[[str, str], Vm | None]


class Request:
    __slots__ = ("headers", "keep", "method", "path")

    def __init__(self, method: str, path: str, headers: dict[str, str], keep: bool):
        self.method, self.path, self.headers, self.keep = method, path, headers, keep


class BadRequest(Exception):
    pass


def parse(head: bytes) -> Request:
    """A request's head without its empty line. PURE. Raises BadRequest for anything unclear; bodies are refused."""
    lines = head.split(b"\r\n")
    m = _LINE.fullmatch(lines[0])
    if m is None:
        raise BadRequest
    headers: dict[str, str] = {}
    for line in lines[1:]:
        h = _HEADER.fullmatch(line)
        if h is None:
            raise BadRequest
        headers[h[1].decode().lower()] = h[2].decode("latin-1")
    if "transfer-encoding" in headers or headers.get("content-length", "0") != "0":
        raise BadRequest
    wish = headers.get("connection", "").lower()
    keep = wish != "close" if m[3] == b"1" else wish == "keep-alive"
    return Request(m[1].decode(), m[2].decode(), headers, keep)


class Tokens:
    """IMDSv2 tokens: signed, bound to one vm, without a table. A restarted agent knows none: guests then ask for a
    new one."""

    def __init__(self) -> None:
        self._secret = os.urandom(32)

    def give(self, vm_id: str, ttl_s: int, now_s: float) -> str:
        until = f"{int(now_s) + ttl_s:x}"
        return f"{until}-{self._sign(vm_id, until)}"

    def valid(self, vm_id: str, token: str, now_s: float) -> bool:
        until, _, signature = token.partition("-")
        if not re.fullmatch(r"[0-9a-f]{1,12}", until) or not signature.isascii():
            return False
        return hmac.compare_digest(signature, self._sign(vm_id, until)) and now_s < int(until, 16)

    def _sign(self, vm_id: str, until: str) -> str:
        return hmac.new(self._secret, f"{vm_id} {until}".encode(), hashlib.sha256).hexdigest()


class Metadata:
    def __init__(self, who: Who, fetched: Callable[[str], None], *, region: str, zone: str = "default"):
        """`who` finds the vm of (network, source address); `fetched` is told of each vm that got metadata."""
        self._who, self._fetched, self.region, self.zone = who, fetched, region, zone
        self._servers: dict[str, tuple[str, asyncio.Server]] = {}
        self._open: Counter[tuple[str, str]] = Counter()
        self._tokens = Tokens()

    async def serve(self, network_id: str, bridge: str, port: int = 80) -> None:
        """Have a listener on that bridge; a bridge that was made anew gets a new one."""
        index = socket.if_nametoindex(bridge)
        known = self._servers.get(network_id)
        if known is not None:
            if known[0] == f"{bridge}/{index}":
                return
            await self.cease(network_id)
        sock = listening_socket(bridge, port)
        self._servers[network_id] = (f"{bridge}/{index}", await self.listen(network_id, sock))

    async def listen(self, network_id: str, sock: socket.socket) -> asyncio.Server:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._guest(network_id, reader, writer)

        return await asyncio.start_server(connected, sock=sock, limit=HEAD_BYTES, backlog=64)

    async def cease(self, network_id: str) -> None:
        known = self._servers.pop(network_id, None)
        if known is not None:
            known[1].close()

    async def close(self) -> None:
        for network_id in list(self._servers):
            await self.cease(network_id)

    # --- one connection

    async def _guest(self, network_id: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")
        key = (network_id, str(peer[0]) if peer else "")
        if self._open[key] >= PER_GUEST or self._open.total() >= IN_ALL:
            writer.transport.abort()
            return
        self._open[key] += 1
        try:
            for _ in range(REQUESTS_PER_CONNECTION):
                if not await self._exchange(key, reader, writer):
                    break
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            pass  # a guest that goes away or idles is nobody's news
        finally:
            self._open[key] -= 1
            if self._open[key] <= 0:
                del self._open[key]
            writer.transport.abort() if writer.transport.get_write_buffer_size() > 0 else writer.close()

    async def _exchange(self, key: tuple[str, str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        try:
            async with asyncio.timeout(HEAD_S):
                head = await reader.readuntil(b"\r\n\r\n")
            request = parse(head[:-4])
            status, text, headers = self.answer(key[0], key[1], request)
        except asyncio.LimitOverrunError:
            request, status, text, headers = None, 431, "", {}
        except BadRequest:
            request, status, text, headers = None, 400, "", {}
        body = text.encode("utf-8", "surrogateescape")
        keep = request is not None and request.keep
        lines = [f"HTTP/1.1 {status} {_REASONS[status]}", f"Content-Length: {len(body)}", "Content-Type: text/plain"]
        lines += [f"{k}: {v}" for k, v in headers.items()]
        lines += ["Server: nubila", f"Connection: {'keep-alive' if keep else 'close'}", "", ""]
        silent = request is not None and request.method == "HEAD"
        writer.write("\r\n".join(lines).encode() + (b"" if silent else body))
        async with asyncio.timeout(HEAD_S):
            await writer.drain()
        return keep

    def answer(self, network_id: str, source: str, request: Request) -> tuple[int, str, dict[str, str]]:
        """Status, text and headers for a guest's request."""
        vm = self._who(network_id, source)
        if vm is None:
            return 404, "", {}
        path = request.path.split("?")[0]
        if request.method == "PUT" and path.rstrip("/") == TOKEN_PATH:
            return self._token(vm, request)
        if request.method not in ("GET", "HEAD"):
            return 405, "", {"Allow": "GET, HEAD"}
        token = request.headers.get("x-aws-ec2-metadata-token")
        if token is not None and not self._tokens.valid(vm.vm_id, token, time.monotonic()):
            return 401, "", {}
        text = look_up(vm, path, region=self.region, zone=self.zone)
        if text is None:
            return 404, "", {}
        self._fetched(vm.vm_id)
        return 200, text, {}

    def _token(self, vm: Vm, request: Request) -> tuple[int, str, dict[str, str]]:
        ttl = request.headers.get("x-aws-ec2-metadata-token-ttl-seconds", "")
        if not re.fullmatch(r"[0-9]{1,5}", ttl) or not 1 <= int(ttl) <= TOKEN_MAX_S:
            return 400, "", {}
        text = self._tokens.give(vm.vm_id, int(ttl), time.monotonic())
        return 200, text, {"X-Aws-Ec2-Metadata-Token-Ttl-Seconds": ttl}


def listening_socket(bridge: str, port: int) -> socket.socket:
    """Bound to the bridge: nothing that comes in elsewhere reaches it, and equal addresses on other bridges stay
    apart."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, bridge.encode() + b"\0")
        with contextlib.suppress(AttributeError):
            sock.setsockopt(socket.IPPROTO_IP, getattr(socket, "IP_FREEBIND", 15), 1)
        sock.bind((ADDRESS, port))
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock
