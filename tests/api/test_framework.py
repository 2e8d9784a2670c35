"""The framework on a toy plane: routing, policy, reading, answering, refusing."""

from __future__ import annotations

import asyncio
import io
import json
import time
from typing import Any

import msgspec
import pytest

from nubila.api.app import build
from nubila.api.meta import openapi_document
from nubila.api.route import Answer, Call, Route
from nubila.model import ids
from nubila.model.catalog import Plane
from nubila.represent import page
from tests.api import toy
from tests.api.asgi import request

VM = ids.text("vm", ids.uuid7(5, 5))


async def _nothing(call: Call[Any, Any, Any]) -> Answer:
    return Answer()


class Tolerant(msgspec.Struct):
    x: int = 0


class Within(msgspec.Struct, forbid_unknown_fields=True):
    parts: list[Tolerant] = []


@pytest.mark.parametrize(
    ("route", "error"),
    [
        (Route("GET", "/v1/x", "vm.fly", _nothing), LookupError),
        (Route("GET", "/v1/x", "report.write", _nothing), LookupError),  # a row of another plane only
        (Route("POST", "/v1/x", "vm.create", _nothing, body=Tolerant), TypeError),
        (Route("POST", "/v1/x", "vm.create", _nothing, body=Within), TypeError),
        (Route("FLY", "/v1/x", "vm.read", _nothing), ValueError),
        (Route("GET", "/v1/{x", "vm.read", _nothing), ValueError),
        (Route("GET", "/v1/{x:unicorn}", "vm.read", _nothing), ValueError),
        (Route("GET", "/v1/things", "vm.read", _nothing), ValueError),  # given twice
        (Route("GET", "/healthz", "vm.read", _nothing), ValueError),
    ],
)
def test_a_wrong_table_stops_the_build(world: toy.Toy, route: Route, error: type[Exception]) -> None:
    with pytest.raises(error):
        build(Plane.USER, (*toy.ROUTES, route), None, authenticate=world.user._authenticate)


async def test_create_and_show(world: toy.Toy) -> None:
    made = await request(world.user, "POST", "/v1/things", data={"name": "one"}, token=world.token)
    assert made.status == 201
    assert made.headers["etag"] == '"1.0"'
    assert made.json == {"thing": {"id": "thing-1", "name": "one"}, "plan": False}
    shown = await request(world.user, "GET", "/v1/things/one", token=world.token)
    assert shown.json == {"id": "thing-1", "name": "one"}
    assert shown.headers["content-type"] == "application/json"
    assert shown.headers["x-request-id"].startswith("req-")
    assert shown.headers["cache-control"] == "no-store"


async def test_fields_are_shown_by_viewer(world: toy.Toy) -> None:
    world.world.things["one"] = toy.Thing("thing-1", "one")
    operator = world.credentials.issue(Plane.OPERATOR)
    assert (await request(world.operator, "GET", "/v1/things/one", token=operator)).json == {
        "id": "thing-1",
        "name": "one",
        "node": "n1",
    }
    listed = await request(world.user, "GET", "/v1/things", token=world.token)
    assert listed.json["items"] == [{"id": "thing-1", "name": "one"}]


async def test_if_match_and_if_none_match(world: toy.Toy) -> None:
    world.world.things["one"] = toy.Thing("thing-1", "one")

    async def got(**headers: str) -> int:
        named = {k.replace("_", "-"): v for k, v in headers.items()}
        return (await request(world.user, "GET", "/v1/things/one", token=world.token, headers=named)).status

    assert await got(if_none_match='"1.0"') == 304
    assert await got(if_none_match='W/"1.0", "x"') == 304
    assert await got(if_none_match="*") == 304
    assert await got(if_none_match='"1.1"') == 200
    assert await got(if_none_match="1.0") == 400
    assert await got(if_match='"1.0"') == 200
    assert await got(if_match='"0.1", "1.0"') == 200
    assert await got(if_match="*") == 200
    assert await got(if_match='W/"1.0"') == 412
    assert await got(if_match='"2.0"') == 412
    assert await got(if_match='"2.0') == 400


async def test_common_parameters(world: toy.Toy) -> None:
    made = await request(world.user, "POST", "/v1/things", query="plan=1", data={"name": "one"}, token=world.token)
    assert made.json["plan"] is True
    assert not world.world.things
    cursor = page.encode(("thing-0",))
    query = f"limit=7&after={cursor}&label=a%3D1&label=b%3D2&size=3"
    listed = await request(world.user, "GET", "/v1/things", query=query, token=world.token)
    assert listed.json["asked"] == ["a=1", "b=2"]
    call = world.world.calls[-1]
    assert (call.page.limit, call.page.after, call.query.size) == (7, ("thing-0",), 3)
    assert listed.json["next"].startswith("/v1/things?limit=7&label=a%3D1&label=b%3D2&size=3&after=")
    stopped = await request(world.user, "POST", f"/v1/things/{VM}/stop", query="wait=2.5", token=world.token)
    assert (stopped.status, stopped.json["wait"], stopped.json["mode"]) == (202, 2.5, "clean")
    assert stopped.json["id"] == str(ids.uuid7(5, 5))


async def test_fields_parameter(world: toy.Toy) -> None:
    world.world.things["one"] = toy.Thing("thing-1", "one")
    assert (await request(world.user, "GET", "/v1/things/one", query="fields=name", token=world.token)).json == {
        "name": "one"
    }
    listed = await request(world.user, "GET", "/v1/things", query="fields=id", token=world.token)
    assert listed.json["items"] == [{"id": "thing-1"}]
    wrong = await request(world.user, "GET", "/v1/things", query="fields=id,nothing", token=world.token)
    assert (wrong.status, wrong.json["field"]) == (422, "fields")


async def test_head_and_options(world: toy.Toy) -> None:
    head = await request(world.user, "HEAD", "/v1/me", token=world.token)
    get = await request(world.user, "GET", "/v1/me", token=world.token)
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(get.body)))
    options = await request(world.user, "OPTIONS", "/v1/things")
    assert (options.status, options.headers["allow"]) == (204, "GET, HEAD, OPTIONS, POST")
    assert (await request(world.user, "HEAD", "/v1/things/x/content", token=world.token)).body == b""


async def test_other_representations(world: toy.Toy) -> None:
    text = await request(world.user, "GET", "/v1/things/x/console", token=world.token)
    assert (text.body, text.headers["content-type"]) == (b"line\n", "text/plain; charset=utf-8")
    stream = await request(world.user, "GET", "/v1/things/x/content", token=world.token)
    assert (len(stream.body), stream.headers["content-length"]) == (3000, "3000")
    gone = await request(world.user, "DELETE", "/v1/things/x", token=world.token)
    assert (gone.status, gone.body) == (204, b"")
    body = await request(world.user, "DELETE", "/v1/things/x", token=world.token, body=b"{}")
    assert body.status == 400


async def test_nobody_is_sent_a_stream_after_they_left(world: toy.Toy) -> None:
    got = await request(world.user, "GET", "/v1/things/x/content", token=world.token, leaves=True)
    assert len(got.body) < 3000


async def test_uploads_are_streamed_and_bounded(world: toy.Toy) -> None:
    token = world.credentials.issue(Plane.OPERATOR)
    octets = {"content-type": "application/octet-stream"}
    path = "/v1/images/x/content"
    got = await request(world.operator, "PUT", path, body=[b"x" * 65536] * 40, headers=octets, token=token)
    assert got.json == {"bytes": 65536 * 40}
    too_large = octets | {"content-length": str(1 << 40)}
    assert (await request(world.operator, "PUT", path, body=b"x", headers=too_large, token=token)).status == 413
    assert (await request(world.operator, "PUT", path, data={}, token=token)).status == 415


async def test_problem_form(world: toy.Toy, logged: io.BytesIO) -> None:
    got = await request(world.user, "POST", "/v1/things", data={"name": "taken"}, token=world.token)
    problem = got.json
    assert problem.pop("request_id") == got.headers["x-request-id"]
    assert problem == {
        "type": "urn:nubila:problem:conflict",
        "title": "The request does not fit the present state of the object.",
        "status": 409,
        "detail": "That is taken.",
        "slug": "conflict",
        "fix": "Read the object again, and repeat the request if it still makes sense.",
        "users": ["thing-1"],
    }
    assert [(r.permission, r.status, r.slug) for r in world.world.refused] == [("vm.create", 409, "conflict")]
    assert world.world.refused[0].principal is not None


async def test_an_unknown_error_tells_nothing_and_is_logged_once(world: toy.Toy, logged: io.BytesIO) -> None:
    got = await request(world.user, "POST", "/v1/things", data={"name": "broken"}, token=world.token)
    assert (got.status, got.json["slug"]) == (500, "internal")
    assert toy.CANARY not in got.body.decode()
    lines = [json.loads(line) for line in logged.getvalue().splitlines()]
    failed = [line for line in lines if line["event"] == "request.failed"]
    assert len(failed) == 1
    assert failed[0]["request_id"] == got.json["request_id"]
    assert toy.CANARY in failed[0]["exception"]


async def test_a_line_per_request_without_secrets(world: toy.Toy, logged: io.BytesIO) -> None:
    await request(world.user, "GET", "/v1/things", query="name=hidden-7", token=world.token)
    await request(world.user, "GET", f"/{world.token}", token=world.token)
    lines = [json.loads(line) for line in logged.getvalue().splitlines()]
    assert [(line["event"], line["status"]) for line in lines] == [("request", 200), ("request", 404)]
    assert lines[0]["actor"] == f"user:{ids.text('user', toy.ACCOUNT)}"
    assert lines[0]["route"] == "/v1/things"
    text = logged.getvalue().decode()
    assert "hidden-7" not in text
    assert world.token not in text


async def test_held_requests_are_answered_when_it_happens_and_when_it_stops(world: toy.Toy) -> None:
    async def hold(wait: str) -> tuple[bool, float]:
        started = time.monotonic()
        got = await request(world.user, "GET", "/v1/held", query=f"wait={wait}", token=world.token)
        return got.json["happened"], time.monotonic() - started

    assert (await hold("0"))[0] is False
    timed_out = await hold("0.1")
    assert timed_out[0] is False
    assert 0.08 < timed_out[1] < 2
    waiting = asyncio.create_task(hold("60"))
    await asyncio.sleep(0.05)
    world.world.happened.set()
    assert (await waiting)[0] is True
    world.world.happened.clear()
    waiting = asyncio.create_task(hold("60"))
    await asyncio.sleep(0.05)
    world.user.stop()
    ended = await waiting
    assert ended[0] is False
    assert ended[1] < 2
    refused = await request(world.user, "GET", "/v1/me", token=world.token)
    assert (refused.status, refused.headers["retry-after"], refused.headers["connection"]) == (503, "1", "close")


async def test_a_held_request_ends_when_its_client_is_gone(world: toy.Toy) -> None:
    started = time.monotonic()
    got = await request(world.user, "GET", "/v1/held", query="wait=60", token=world.token, leaves=True)
    assert got.json == {"happened": False}
    assert time.monotonic() - started < 2
    assert not world.user.gate.held


async def test_busy_over_the_limit() -> None:
    world = toy.make(parallel_max=4)
    calls = [request(world.user, "GET", "/v1/slow", token=world.token) for _ in range(10)]
    answers = await asyncio.gather(*calls, request(world.user, "GET", "/healthz"))
    assert sorted(a.status for a in answers) == [200] * 5 + [503] * 6
    busy = next(a for a in answers if a.status == 503)
    assert (busy.json["slug"], busy.headers["retry-after"]) == ("busy", "1")
    assert world.user.running == 0


async def test_health() -> None:
    world = toy.make()
    assert (await request(world.user, "GET", "/healthz")).json == {"ok": True}
    assert (await request(world.user, "GET", "/readyz")).json == {"ok": True}

    async def away() -> bool:
        return False

    app = build(Plane.USER, (), None, authenticate=world.user._authenticate, ready=away)
    assert (await request(app, "GET", "/readyz")).status == 503


async def test_openapi(world: toy.Toy) -> None:
    got = await request(world.user, "GET", "/openapi.json")
    document = got.json
    assert document == json.loads(msgspec.json.encode(openapi_document(Plane.USER, world.user.routes)))
    create = document["paths"]["/v1/things"]["post"]
    assert create["x-permission"] == "vm.create"
    assert {"409", "422", "401", "403", "503"} <= set(create["responses"])
    body = create["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    assert document["components"]["schemas"][body]["additionalProperties"] is False
    names = {p["name"] for p in document["paths"]["/v1/things"]["get"]["parameters"]}
    assert names == {"name", "size", "label", "limit", "after", "fields", "as_of", "until"}
    assert document["paths"]["/healthz"]["get"]["security"] == []
    ids_seen = [o["operationId"] for p in document["paths"].values() for o in p.values()]
    assert len(ids_seen) == len(set(ids_seen))


async def test_agents_may_send_fields_that_are_not_known_yet(world: toy.Toy) -> None:
    got = await request(
        world.internal, "POST", "/internal/v1/reports", data={"session": 1, "newer": 2}, peer=world.peer
    )
    assert got.json == {"session": 1, "actor": f"node:{ids.text('node', toy.NODE_ID)}"}


def test_cost_of_a_request(world: toy.Toy, record_property: Any) -> None:
    """A number, not a promise: CPU of a request to a trivial handler."""

    async def run(path: str, count: int = 1500) -> float:
        for _ in range(100):
            await request(world.user, "GET", path, token=world.token)
        started = time.process_time()
        for _ in range(count):
            await request(world.user, "GET", path, token=world.token)
        return (time.process_time() - started) / count * 1e6

    for path in ("/healthz", "/v1/me"):
        record_property(f"cpu_us {path}", round(asyncio.run(run(path)), 1))
