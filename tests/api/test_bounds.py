"""The listeners' bounds on real sockets: what is too large, too slow, too many, or no HTTP at all."""

from __future__ import annotations

import asyncio
import json
import resource
import time
from pathlib import Path

import pytest

from nubila.api import connection, server
from nubila.model.catalog import Plane
from tests.api.listeners import Site, answer, request_of, run


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
