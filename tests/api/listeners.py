"""Listeners on real sockets for a test, under uvloop, and a client that writes bytes."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from nubila.access import authority
from nubila.access.authority import Authority
from nubila.api.server import Listener, Tls, serve
from tests.api import toy


@dataclass
class Clock:
    """The present, shifted."""

    by: timedelta = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.by


@dataclass
class Site:
    toy: toy.Toy
    ca: Authority
    clock: Clock
    directory: Path
    token: str
    stop: asyncio.Event
    listeners: dict[str, Listener] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None

    def port(self, name: str) -> int:
        return self.listeners[name].address[1]

    def client(self, certificate: tuple[Path, Path] | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.ca.ca_pem)
        if certificate is not None:
            context.load_cert_chain(*certificate)
        return context

    def node(self, ca: Authority | None = None, now: datetime | None = None) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        csr = request.public_bytes(serialization.Encoding.PEM).decode()
        chain = (ca or self.ca).issue_node(csr, toy.NODE_ID, now or self.clock()).encode()
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return self.files(chain, pem)

    def files(self, chain: bytes, key: bytes) -> tuple[Path, Path]:
        where = self.directory / f"{time.monotonic_ns()}.pem", self.directory / f"{time.monotonic_ns()}.key"
        where[0].write_bytes(chain)
        where[1].write_bytes(key)
        return where

    async def ask(
        self, name: str, head: str, body: bytes = b"", *, tls: ssl.SSLContext | None = None, token: str | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port(name), ssl=tls or self.client())
        try:
            writer.write(request_of(head, body, token if token is not None else self.token))
            return await answer(reader)
        finally:
            writer.close()


def request_of(head: str, body: bytes = b"", token: str = "") -> bytes:
    lines = [f"{head} HTTP/1.1", "Host: localhost"]
    lines += [f"Authorization: Bearer {token}"] if token else []
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([*lines, "", ""]).encode() + body


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).decode().split("\r\n")
    headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in head[1:] if line)}
    return int(head[0].split()[1]), headers, await reader.readexactly(int(headers.get("content-length", 0)))


@asynccontextmanager
async def site(directory: Path, **limits: Any) -> Any:
    clock = Clock()
    ca = authority.open_or_create(directory / "ca.key", directory / "ca.pem", toy.REGION, clock())
    world = toy.make(clock)
    here = Site(world, ca, clock, directory, world.credentials.issue(expires_at=None), asyncio.Event())
    names = authority.server_names("127.0.0.1", [])
    here.listeners = {
        "user": Listener(world.user, "127.0.0.1", 0, Tls(ca, names, clock, peers=False), **limits),
        "operator": Listener(world.operator, "127.0.0.1", 0, Tls(ca, names, clock, peers=False)),
        "internal": Listener(world.internal, "127.0.0.1", 0, Tls(ca, names, clock, peers=True)),
        "plain": Listener(world.user, "127.0.0.1", 0, None, **limits),
    }
    ready = asyncio.Event()
    here.task = asyncio.create_task(serve(list(here.listeners.values()), here.stop, grace_s=2, started=ready.set))
    await asyncio.wait((here.task, asyncio.create_task(ready.wait())), return_when=asyncio.FIRST_COMPLETED)
    try:
        yield here
    finally:
        here.stop.set()
        await asyncio.wait_for(here.task, 10)


def run(directory: Path, test: Callable[[Site], Awaitable[None]], **limits: Any) -> None:
    async def inside() -> None:
        async with site(directory, **limits) as here:
            await test(here)

    uvloop.run(inside())
