"""The listeners on real sockets, under uvloop: TLS, certificates, bounds, and the end."""

from __future__ import annotations

import asyncio
import json
import resource
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import toy
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from nubila.access import authority
from nubila.access.authority import Authority
from nubila.api import connection, server
from nubila.api.server import Listener, Tls, serve
from nubila.model import ids
from nubila.model.catalog import Plane


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


def test_tls_is_ours_and_new_enough(tmp_path: Path) -> None:
    async def test(here: Site) -> None:
        status, headers, body = await here.ask("user", "GET /v1/me")
        assert (status, json.loads(body)["role"]) == (200, "owner")
        assert "server" not in headers
        assert headers["date"].endswith("GMT")
        stranger = ssl.create_default_context()
        with pytest.raises(ssl.SSLCertVerificationError):
            await here.ask("user", "GET /v1/me", tls=stranger)
        for name, newest in (("user", ssl.TLSVersion.TLSv1_1), ("internal", ssl.TLSVersion.TLSv1_2)):
            old = here.client()
            old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
            old.maximum_version = newest
            old.set_ciphers("ALL:@SECLEVEL=0")
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await here.ask(name, "GET /healthz", tls=old)

    run(tmp_path, test)


def test_the_peers_certificate_says_who_it_is(tmp_path: Path) -> None:
    async def test(here: Site) -> None:
        node, body = f"node:{ids.text('node', toy.NODE_ID)}", b'{"session":1}'
        with_certificate = here.client(here.node())
        status, _, got = await here.ask("internal", "POST /internal/v1/reports", body, tls=with_certificate)
        assert (status, json.loads(got)["actor"]) == (200, node)
        assert (await here.ask("internal", "POST /internal/v1/reports", body))[0] == 401
        assert (await here.ask("internal", "GET /internal/v1/ca"))[0] == 200
        # On the people's planes a certificate is never asked for and means nothing.
        assert (await here.ask("user", "GET /v1/me", tls=with_certificate, token=""))[0] == 401

    run(tmp_path, test)


def test_other_certificates_do_not_even_connect(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = authority.open_or_create(
        tmp_path / "other/key", tmp_path / "other/pem", toy.REGION, datetime.now(UTC) - timedelta(days=1)
    )

    async def test(here: Site) -> None:
        servers_own = here.files(*here.ca.issue_server(["localhost"], here.clock()))
        foreign, expired = here.node(other), here.node(now=here.clock() - timedelta(hours=25))
        for certificate in (foreign, expired, servers_own):
            with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                await here.ask("internal", "GET /internal/v1/ca", tls=here.client(certificate))

    run(tmp_path, test)


def test_a_node_cannot_pose_as_a_listener(tmp_path: Path) -> None:
    async def test(here: Site) -> None:
        posing = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        posing.load_cert_chain(*here.node())
        fake = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0, ssl=posing)
        client = here.client()
        client.check_hostname = False
        with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
            await asyncio.open_connection("127.0.0.1", fake.sockets[0].getsockname()[1], ssl=client)
        fake.close()

    run(tmp_path, test)


def test_a_connection_does_not_outlive_its_certificate(tmp_path: Path) -> None:
    async def test(here: Site) -> None:
        tls = here.client(here.node())
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port("internal"), ssl=tls)
        for by, status in ((timedelta(), 200), (timedelta(hours=25), 401)):
            here.clock.by = by
            writer.write(request_of("GET /internal/v1/wanted"))
            assert (await answer(reader))[0] == status
        writer.close()

    run(tmp_path, test)


def test_a_listeners_certificate_is_renewed_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "TICK_S", 0.05)

    async def serial(here: Site) -> int:
        client = here.client()
        client.check_hostname = False
        client.verify_mode = ssl.CERT_NONE
        _, writer = await asyncio.open_connection("127.0.0.1", here.port("user"), ssl=client)
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return x509.load_der_x509_certificate(der).serial_number

    async def test(here: Site) -> None:
        first = await serial(here)
        assert await serial(here) == first
        here.clock.by = timedelta(days=16)
        await asyncio.sleep(0.2)
        assert await serial(here) != first

    run(tmp_path, test)


async def _raw(here: Site, data: bytes) -> tuple[int, dict[str, str], bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", here.port("plain"))
    writer.write(data)
    got = await answer(reader)
    assert await reader.read() == b""  # and it is closed
    writer.close()
    return got


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"CONNECT evil:80 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: b\x00c\r\n\r\n", 400),
        (b"POST /v1/things HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST /v1/things HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
        (b"POST /v1/things HTTP/1.1\r\nContent-Length: -5\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 40000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 40000, 431),
        (b"GET /" + b"x" * 40000, 431),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 101 + b"\r\n", 431),
    ],
)
def test_what_is_not_http_or_too_much_of_it(tmp_path: Path, data: bytes, status: int) -> None:
    async def test(here: Site) -> None:
        got, headers, body = await _raw(here, data)
        assert (got, headers["content-type"]) == (status, "application/problem+json")
        assert json.loads(body)["status"] == status

    run(tmp_path, test)


def test_websockets_are_not_spoken(tmp_path: Path) -> None:
    async def test(here: Site) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port("plain"))
        writer.write(b"GET /v1/me HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert (await answer(reader))[0] == 401
        writer.close()

    run(tmp_path, test)


def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    async def test(here: Site) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port("plain"))
        writer.write(request_of("GET /v1/slow", token=here.token) + request_of("GET /healthz") * 50)
        answers = [await answer(reader) for _ in range(51)]
        assert json.loads(answers[0][2]) == {"done": True}
        assert [a[0] for a in answers] == [200] * 51
        writer.close()

    run(tmp_path, test)


def test_slow_heads_and_silent_connections_are_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_TIMEOUT_S", 0.3)
    monkeypatch.setattr(server, "TICK_S", 0.05)

    async def test(here: Site) -> None:
        async def drip(first: bytes) -> float:
            """Sends a byte every 100 ms after the first; seconds until the other side ends it."""
            reader, writer = await asyncio.open_connection("127.0.0.1", here.port("plain"))
            started = time.monotonic()
            writer.write(first)
            while time.monotonic() - started < 5:
                try:
                    if await asyncio.wait_for(reader.read(1), 0.1) == b"":
                        break
                except TimeoutError:
                    writer.write(b"a" if first else b"")
                except ConnectionError:
                    break
            writer.close()
            return time.monotonic() - started

        good = asyncio.create_task(here.ask("user", "GET /v1/held?wait=1"))
        times = await asyncio.gather(drip(b""), drip(b"GET /v1/me HTTP/1.1\r\nX: "), drip(b"GET /"))
        assert all(0.2 < t < 2 for t in times), times
        assert (await good)[0] == 200  # a held request is not a slow one

    run(tmp_path, test)


def test_connections_over_the_limit_are_ended(tmp_path: Path) -> None:
    async def test(here: Site) -> None:
        held = [await asyncio.open_connection("127.0.0.1", here.port("plain")) for _ in range(3)]
        await asyncio.sleep(0.05)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await _raw(here, request_of("GET /healthz"))
        for _, writer in held:
            writer.close()
        await asyncio.sleep(0.05)
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port("plain"))
        writer.write(request_of("GET /healthz"))
        assert (await answer(reader))[0] == 200
        writer.close()

    run(tmp_path, test, connections_max=3)


def test_a_gigabyte_is_refused_before_it_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LINGER_S", 0.3)
    monkeypatch.setattr(server, "TICK_S", 0.05)

    async def test(here: Site) -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.monotonic()
        head = f"POST /v1/things HTTP/1.1\r\nAuthorization: Bearer {here.token}\r\nContent-Type: application/json\r\n"
        for body in (f"Content-Length: {1 << 30}\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", here.port("plain"))
            writer.write((head + body).encode())
            piece = b"10000\r\n" + b" " * 65536 + b"\r\n" if "chunked" in body else b" " * 65536
            sending = asyncio.create_task(_pour(writer, piece))
            assert (await answer(reader))[0] == 413
            await asyncio.wait_for(sending, 5)  # it is cut off, after a while
            writer.close()
        assert time.monotonic() - started < 6
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40 * 1024

    run(tmp_path, test)


def test_a_refused_client_may_finish_and_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LINGER_S", 0.3)
    monkeypatch.setattr(server, "TICK_S", 0.05)

    async def test(here: Site) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port("plain"))
        for _ in range(3):
            writer.write(request_of("POST /v1/things", b" " * (3 << 20), here.token))
            assert (await answer(reader))[0] == 413
        await asyncio.sleep(0.6)
        writer.write(request_of("GET /healthz"))
        assert (await answer(reader))[0] == 200
        writer.write(b"POST /v1/things HTTP/1.1\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n")
        status, headers, _ = await answer(reader)
        assert (status, headers["connection"]) == (401, "close")
        writer.close()

    run(tmp_path, test)


async def _pour(writer: asyncio.StreamWriter, piece: bytes) -> None:
    try:
        while True:
            writer.write(piece)
            await writer.drain()
    except ConnectionError:
        pass


def test_a_client_that_leaves_in_the_middle_breaks_nothing(tmp_path: Path) -> None:
    async def test(here: Site) -> None:
        token = here.toy.credentials.issue(Plane.OPERATOR, expires_at=None)
        tls = here.client()
        _, writer = await asyncio.open_connection("127.0.0.1", here.port("operator"), ssl=tls)
        head = f"PUT /v1/images/x/content HTTP/1.1\r\nAuthorization: Bearer {token}\r\nContent-Length: 99999\r\n"
        writer.write(head.encode() + b"Content-Type: application/octet-stream\r\n\r\n" + b"x" * 500)
        await asyncio.sleep(0.1)
        writer.transport.abort()
        await asyncio.sleep(0.1)
        assert here.toy.world.refused[-1].slug == "bad-request"
        assert (await here.ask("operator", "GET /v1/me", token=token))[0] == 200

    run(tmp_path, test)


def test_the_end_loses_no_answer(tmp_path: Path) -> None:
    async def test(here: Site) -> None:
        started = time.monotonic()
        slow = asyncio.create_task(here.ask("user", "GET /v1/slow"))
        held = asyncio.create_task(here.ask("user", "GET /v1/held?wait=60"))
        _idle, idle_writer = await asyncio.open_connection("127.0.0.1", here.port("user"), ssl=here.client())
        port = here.port("user")
        await asyncio.sleep(0.1)
        here.stop.set()
        assert json.loads((await held)[2]) == {"happened": False}
        assert time.monotonic() - started < 0.25
        assert json.loads((await slow)[2]) == {"done": True}
        assert here.task is not None
        await asyncio.wait_for(here.task, 5)
        with pytest.raises(ConnectionError):
            await asyncio.open_connection("127.0.0.1", port)
        idle_writer.close()

    run(tmp_path, test)


def test_what_outlasts_the_grace_is_told_so(tmp_path: Path) -> None:
    async def test(here: Site) -> None:
        here.toy.user.gate.held.clear()
        late = asyncio.create_task(here.ask("user", "GET /v1/late"))
        await asyncio.sleep(0.1)
        here.stop.set()
        status, headers, _ = await late
        assert (status, headers["retry-after"]) == (503, "1")

    run(tmp_path, test)


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    async def test(here: Site) -> None:
        taken = Listener(here.toy.user, "127.0.0.1", here.port("plain"), None)
        with pytest.raises(OSError, match=str(here.port("plain"))):
            await serve([taken], asyncio.Event())

    run(tmp_path, test)
