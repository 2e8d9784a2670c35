"""The door: what of queries, bodies, headers and addresses is refused, and with which words."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from nubila.api import read
from nubila.model import ids
from tests.api import toy
from tests.api.asgi import request

VM = ids.text("vm", ids.uuid7(5, 5))


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        (
            "nmae=x",
            422,
            "Unknown query parameter 'nmae'. Known are: after, as_of, fields, label, limit, name, size, until.",
        ),
        ("plan=1", 422, "Unknown query parameter 'plan'"),
        ("limit=0", 422, "limit must be"),
        ("limit=1000000000", 422, "limit must be a whole number from 1 to 1000."),
        ("limit=x", 422, "limit must be a whole number from 1 to 1000."),
        ("limit=5&limit=6", 422, "given twice"),
        ("after=@@", 400, "cursor"),
        ("after=" + "QUFB" * 400, 400, "cursor"),
        ("after=WyJcdTAwMDAiXQ", 400, "cursor"),  # ["\u0000"]
        ("name=%00", 400, "NUL"),
        ("name=%ed%a0%80", 400, "UTF-8"),
        ("name=%ff", 400, "UTF-8"),
        ("size=99999999999999999999", 422, "64 bits"),
        ("x=1&" * 100, 400, "64 parameters"),
        ("name=" + "x" * 9000, 413, "8192"),
        (b"name=\xff", 400, "ASCII"),
    ],
)
async def test_bad_queries(world: toy.Toy, query: str, status: int, words: str) -> None:
    got = await request(world.user, "GET", "/v1/things", query=query, token=world.token)
    assert (got.status, got.headers["content-type"]) == (status, "application/problem+json")
    assert words in got.json["detail"]


DEEP = b'{"a":' * 40 + b"1" + b"}" * 40


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "needed"),
        (b"{", 400, "not valid JSON"),
        (
            b'{"name":"a","x":1}',
            422,
            "x is not a known field. Known are: anything, cores, count, labels, name, nested.",
        ),
        (b'{"name":"a","nested":{"x":1}}', 422, "nested.x is not a known field. Known are: size."),
        (b'{"name":"A"}', 422, "name must be 1-63 characters"),
        (b'{"name":"abc\\n"}', 422, "name must be "),
        (b'{"name":"a","cores":0}', 422, "cores must be a whole number from 1 to 1024 (virtual CPU cores)."),
        (b'{"name":"a","cores":"1"}', 422, "(virtual CPU cores), not text."),
        (b'{"name":"a","labels":{"k":"\\u0000"}}', 422, "NUL"),
        (b'{"name":"a","anything":{"\\u0000":1}}', 422, "NUL"),
        (b'{"name":"a","labels":{"k":"\\ud800"}}', 400, "half of a surrogate pair"),
        (b'{"name":"\xff"}', 400, "not valid JSON"),
        (b'{"name":"a","count":99999999999999999999}', 422, "64 bits"),
        (b'{"name":"a","count":' + b"9" * 5000 + b"}", 422, "count must be a whole number"),
        (b'{"name":"a","anything":{"x":-99999999999999999999}}', 422, "64 bits"),
        (b'{"name":"a","anything":' + DEEP + b"}", 413, "32 levels"),
        (b'{"name":"a","anything":' + b'{"a":' * 100_000, 413, "nested"),
        (b"[" * 100_000, 422, "The body must be an object with name, "),
        (b"[]", 422, ", not a list."),
        (b'{"name":"a","name":"b"}', 422, "'name' is given twice"),
        (b'{"name":"a","labels":{"k":"1","\\u006b":"2"}}', 422, "'k' is given twice"),
        (b'{"name":"vm-01k9zzzzzzzzzzzzzzzzzzzzzz"}', 422, "not in the form of an id"),
        (b" " * ((1 << 20) + 1), 413, "1048576"),
    ],
)
async def test_bad_bodies(world: toy.Toy, body: bytes, status: int, words: str) -> None:
    headers = {"content-type": "application/json"}
    got = await request(world.user, "POST", "/v1/things", body=body, headers=headers, token=world.token)
    assert (got.status, got.headers["content-type"]) == (status, "application/problem+json")
    assert words in got.json["detail"]
    assert not world.world.things
    pieces = [body[: len(body) // 2], body[len(body) // 2 :]]
    got = await request(world.user, "POST", "/v1/things", body=pieces, headers=headers, token=world.token)
    assert got.status == status


async def test_what_only_looks_hostile_passes(world: toy.Toy) -> None:
    body = rb'{"name":"a","labels":{"k":"\\u0000 12345678901234567890"},"anything":{"n":9223372036854775807}}'
    headers = {"content-type": "application/json; charset=utf-8"}
    got = await request(world.user, "POST", "/v1/things", body=body, headers=headers, token=world.token)
    assert got.status == 201


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/json; charset=latin-1"}, 415),
        ({"content-encoding": "gzip"}, 415),
        ({"accept": "text/html"}, 406),
        ({"accept": "application/json;q=0, */*;q=0"}, 406),
        ({"accept": "text/html, */*;q=0.1"}, 201),
        ({"accept": "application/*"}, 201),
        ({"accept": "application/json;q=0.5"}, 201),
        ({"idempotency-key": ""}, 400),
        ({"idempotency-key": "a b"}, 400),
        ({"idempotency-key": "k" * 129}, 400),
        ({"idempotency-key": "k-1"}, 201),
        ({"if-match": "@"}, 400),
        ({"content-length": "+1"}, 400),
        ({"content-length": "-1"}, 400),
        ({"content-length": "9" * 30}, 400),
        ({"content-length": "99999999"}, 413),
    ],
)
async def test_headers(world: toy.Toy, headers: dict[str, str], status: int) -> None:
    got = await request(world.user, "POST", "/v1/things", data={"name": "a"}, headers=headers, token=world.token)
    assert got.status == status, got.body


async def test_a_deciding_header_that_comes_twice_is_refused(world: toy.Toy) -> None:
    for name in ("authorization", "idempotency-key", "content-type"):
        twice = [(name.encode(), b"x"), (name.encode(), b"y")]
        got = await request(world.user, "GET", "/v1/me", raw_headers=twice)
        assert got.status == 400
        assert name in got.json["detail"]


@pytest.mark.parametrize(
    ("method", "raw_path", "status"),
    [
        ("GET", b"/", 404),
        ("GET", b"", 404),
        ("GET", b"/v1", 404),
        ("GET", b"/v1/things/", 404),
        ("GET", b"/v1//things", 404),
        ("GET", b"/v1/things/none", 404),
        ("GET", b"/v1/%74hings/none", 404),
        ("GET", b"/v1/things/a%2fb", 404),
        ("GET", b"/v1/things/%00", 400),
        ("GET", b"/v1/things/a%0ab", 400),
        ("GET", b"/v1/things/%ed%a0%80", 400),
        ("GET", b"/v1/things/%ff", 400),
        ("GET", b"/v1/things/" + b"x" * 81, 404),
        ("GET", b"/v1/things/..", 404),
        ("POST", f"/v1/things/{VM}/stop".encode(), 202),
        ("POST", b"/v1/things/net-" + VM[3:].encode() + b"/stop", 404),
        ("POST", b"/v1/things/name/stop", 404),
        ("PUT", b"/v1/things", 405),
        ("BREW", b"/v1/things", 405),
        ("TRACE", b"/v1/me", 405),
    ],
)
async def test_addresses(world: toy.Toy, method: str, raw_path: bytes, status: int) -> None:
    got = await request(world.user, method, "/x", raw_path=raw_path, token=world.token)
    assert got.status == status, got.body
    if status == 405:
        assert "GET" in got.headers["allow"]


async def test_a_slow_body_is_given_up(world: toy.Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "BODY_TIMEOUT_S", 0.1)
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0.03)
        return {"type": "http.request", "body": b" ", "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"authorization", f"Bearer {world.token}".encode()), (b"transfer-encoding", b"chunked")]
    scope = {"type": "http", "method": "POST", "path": "/v1/things", "query_string": b"", "headers": headers}
    await world.user(scope, receive, send)
    assert sent[0]["status"] == 400
    assert b"did not come within" in sent[1]["body"]
