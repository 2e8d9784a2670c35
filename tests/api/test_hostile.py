"""Whatever comes in, no answer is a 5xx, nothing inside comes out, and headers never change who one is (A5)."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nubila.model.catalog import Plane
from tests.api import toy
from tests.api.asgi import Got, request

pytestmark = pytest.mark.slow

WORLD = toy.make()
OPERATOR = WORLD.credentials.issue(Plane.OPERATOR)

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["\0", "\ud800", "😀", "a\n", "../..", "' or 1=1 --", "${jndi:x}", "%s%n", "9" * 400])
)
JSON = st.recursive(SCALARS, lambda c: st.lists(c, max_size=4) | st.dictionaries(st.text(max_size=8), c, max_size=4))
BODIES = (
    st.binary(max_size=200)
    | JSON.map(lambda v: json.dumps(v).encode())
    | st.fixed_dictionaries(
        {"name": JSON}, optional={"cores": JSON, "labels": JSON, "anything": JSON, "count": JSON}
    ).map(lambda v: json.dumps(v).encode())
)
HEADER_NAMES = st.sampled_from(
    ["accept", "if-match", "if-none-match", "idempotency-key", "content-type", "content-length", "content-encoding"]
)
HEADERS = st.dictionaries(HEADER_NAMES, st.text(st.characters(max_codepoint=255), max_size=30), max_size=4)
METHODS = st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "X"])
PATHS = st.sampled_from([b"/v1/things", b"/v1/things/one", b"/v1/me", b"/v1/things/x/console", b"/"]) | st.binary(
    max_size=40
).map(lambda b: b"/v1/things/" + b)

# A5: what proxies, portals and other clouds put into headers to say who is asking.
FORGED = {
    "x-forwarded-for": "127.0.0.1",
    "x-forwarded-proto": "https",
    "x-forwarded-host": "evil.example",
    "x-forwarded-user": "root",
    "x-real-ip": "127.0.0.1",
    "x-remote-user": "root",
    "remote-user": "root",
    "x-user-id": "usr-1",
    "x-user": "root",
    "x-roles": "owner,operator",
    "x-role": "operator",
    "x-project-id": "prj-1",
    "x-tenant-id": "prj-1",
    "x-auth-token": "x",
    "x-ssl-client-cert": "x",
    "x-client-cert-san": f"spiffe://{toy.REGION}/node/x",
    "x-forwarded-client-cert": "By=x",
    "x-original-url": "/v1/me",
    "x-http-method-override": "DELETE",
    "x-request-id": "req-forged",
    "forwarded": "for=127.0.0.1",
    "host": "evil.example",
    "origin": "https://evil.example",
    "cookie": "session=x",
}


def sane(got: Got) -> None:
    assert got.status < 500, got.body
    assert toy.CANARY.encode() not in got.body
    assert b"Traceback" not in got.body
    if got.status >= 400 and got.body:
        problem = json.loads(got.body)
        assert problem["status"] == got.status
        assert problem["fix"]
        assert problem["request_id"]


@settings(max_examples=250, deadline=None)
@given(METHODS, PATHS, st.binary(max_size=60), BODIES, HEADERS)
def test_nothing_is_a_5xx(method: str, raw_path: bytes, query: bytes, body: bytes, headers: dict[str, str]) -> None:
    async def run() -> None:
        got = await request(
            WORLD.user, method, "/x", raw_path=raw_path, query=query, body=body, headers=headers, token=WORLD.token
        )
        if body[:1] != b"{" or b'"broken"' not in body:
            sane(got)

    asyncio.run(run())


@settings(max_examples=250, deadline=None)
@given(BODIES)
def test_no_body_is_a_5xx(body: bytes) -> None:
    async def run() -> None:
        headers = {"content-type": "application/json"}
        for app, path in ((WORLD.user, "/v1/things"), (WORLD.internal, "/internal/v1/reports")):
            sane(await request(app, "POST", path, body=body, headers=headers, token=WORLD.token, peer=WORLD.peer))

    asyncio.run(run())


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80) | st.text(max_size=30).map(lambda t: f"name={t}&limit={t}&size={t}".encode()))
def test_no_query_is_a_5xx(query: bytes) -> None:
    async def run() -> None:
        sane(await request(WORLD.user, "GET", "/v1/things", query=query, token=WORLD.token))
        sane(await request(WORLD.user, "GET", "/v1/held", query=b"wait=0&" + query, token=WORLD.token))

    asyncio.run(run())


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([b"authorization", b"accept", b"x"]), st.binary(max_size=80)), max_size=5))
def test_no_header_is_a_5xx(pairs: list[tuple[bytes, bytes]]) -> None:
    async def run() -> None:
        sane(await request(WORLD.user, "GET", "/v1/me", raw_headers=pairs))

    asyncio.run(run())


def test_a5_forged_identity_headers_change_nothing() -> None:
    world = toy.make()
    world.world.things["one"] = toy.Thing("thing-1", "one")
    operator = world.credentials.issue(Plane.OPERATOR)

    async def run() -> None:
        for app, token in (
            (world.user, world.token),
            (world.operator, operator),
            (world.internal, None),
            (world.user, None),
        ):
            for route in app.routes:
                if route.path in ("/v1/slow", "/v1/late") or route.upload:
                    continue
                path = route.path.replace("{thing:vm}", "x").replace("{thing}", "one")
                plain = await request(app, route.method, path, token=token)
                for forged in (*({k: v} for k, v in FORGED.items()), FORGED):
                    got = await request(app, route.method, path, token=token, headers=forged)
                    assert (got.status, _same(got.body)) == (plain.status, _same(plain.body)), (path, forged)

    asyncio.run(run())


def _same(body: bytes) -> object:
    """A body without its request id, which differs by design."""
    try:
        value = json.loads(body)
    except ValueError:
        return body
    if isinstance(value, dict):
        value.pop("request_id", None)
    return value
