"""Time travel: what was answered then is answered again, before it there was nothing, and the history says who did what."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest

from nubila.api import table
from nubila.api.operator.routes import ROUTES as OPERATOR
from nubila.api.route import Route
from nubila.api.user.routes import ROUTES as USER
from nubila.model.catalog import Plane
from nubila.model.ids import KIND, parse
from tests.fleet import plan_cases
from tests.fleet.caller import Caller
from tests.fleet.installation import Installation
from tests.fleet.puppet import puppet_of
from tests.fleet.rig import Rig
from tests.fleet.tenant import Tenant, refused

MUTATIONS = 200
LOOKS = 2  # reads of each plane after a mutation, beside those of what it was about
UNDER_WAY = """select exists (select from pg_stat_activity where xact_start <= $1 and pid <> pg_backend_pid()
 and datname = current_database() and backend_type = 'client backend' and state <> 'idle')"""
# what the log does not keep: how long ago a node was heard from, and how much of a quota is used
NOT_KEPT = {"last_report_age_s", "used", "holds"}


def at(path: str, **moment: str) -> str:
    return path + ("&" if "?" in path else "?") + "&".join(f"{k}={quote(v)}" for k, v in moment.items())


def kept(body: Any) -> Any:
    if isinstance(body, dict):
        return {k: kept(v) for k, v in body.items() if k not in NOT_KEPT and k != "next"}
    return [kept(v) for v in body] if isinstance(body, list) else body


class Recorder:
    """Answers with the moment they were given at, each sure to be of that moment: the same before and after it."""

    def __init__(self, cloud: Installation):
        self.answers: list[tuple[str, Caller, str, Any]] = []
        self._loop = asyncio.new_event_loop()
        connecting = asyncpg.connect(host=str(cloud.server.top), user="nubila", database="nubila")
        self._connection = self._loop.run_until_complete(connecting)

    def now(self) -> str:
        return self._value("select clock_timestamp()").isoformat()  # type: ignore[no-any-return]

    def _value(self, text: str, *args: Any) -> Any:
        return self._loop.run_until_complete(self._connection.fetchval(text, *args))

    def mutations(self, since: str) -> int:
        """How many calls of people have changed something."""
        text = "select count(distinct request) from change where at >= $1 and actor ~ '^(user|operator):'"
        return int(self._value(text, datetime.fromisoformat(since)))

    def settle(self, moment: str) -> None:
        """Until every commit that was under way at that moment is over."""
        while self._value(UNDER_WAY, datetime.fromisoformat(moment)):
            time.sleep(0.002)

    def record(self, caller: Caller, *paths: str) -> int:
        done = 0
        for path in paths:
            for _ in range(20):
                before, moment, after = self._look(caller, path), self.now(), None
                self.settle(moment)
                after = self._look(caller, path)
                if before == after:
                    self.answers.append((moment, caller, path, after))
                    done += 1
                    break
        return done

    def _look(self, caller: Caller, path: str) -> Any:
        reply = caller.get(path)
        return kept(reply.body) if reply.status == 200 else reply.status

    def close(self) -> None:
        self._loop.run_until_complete(self._connection.close())
        self._loop.close()


@pytest.fixture
def recorder(cloud: Installation) -> Iterator[Recorder]:
    made = Recorder(cloud)
    yield made
    made.close()


def with_past(plane: Plane, routes: tuple[Route, ...]) -> list[Route]:
    return [r for r in routes if "as_of" in table.common(plane, r)]


class Reads:
    """One plane's reads, and the newest object of each kind that its answers named."""

    def __init__(self, plane: Plane, caller: Caller, routes: tuple[Route, ...], cases: dict[str, plan_cases.Case]):
        self.caller, self.cases, self.routes = caller, cases, with_past(plane, routes)
        self.known: dict[str, str] = {}
        self.read: set[str] = set()

    def note(self, body: Any) -> list[str]:
        """The ids in an answer, each remembered as the newest of its kind."""
        found = [v for k, v in body.items() if k == "id"] if isinstance(body, dict) else []
        parts = body.values() if isinstance(body, dict) else body if isinstance(body, list) else ()
        found += [i for part in parts if isinstance(part, dict | list) for i in self.note(part)]
        for i in found:
            self.known[KIND[i.partition("-")[0]]] = i
        return found

    def single(self, object_id: str) -> str | None:
        kind = KIND[object_id.partition("-")[0]]
        route = next((r for r in self.routes if re.fullmatch(rf"/v1/[a-z-]+/\{{{kind}\}}", r.path)), None)
        return None if route is None else re.sub(r"\{.*\}", object_id, route.path)

    def paths(self, draw: random.Random) -> list[str]:
        """Some reads, those that were not made yet first."""
        able = [r for r in self.routes if set(re.findall(r"\{([a-z_]+)", r.path)) <= self.known.keys()]
        draw.shuffle(able)
        able.sort(key=lambda r: r.path in self.read)
        self.read |= {r.path for r in able[:LOOKS]}
        return [re.sub(r"\{([a-z_]+)\}", lambda m: self.known[m[1]], r.path) for r in able[:LOOKS]]


def heard(cloud: Installation, moment: str) -> None:
    """When every node was heard from last, those of other tests too."""
    cloud.sql(f"update node_seen set seen_at = {moment}")


def made_at(path: str) -> datetime:
    """Ids begin with the moment they were made."""
    value = path.rpartition("/")[2]
    made = parse(KIND[value.partition("-")[0]], value)
    assert made is not None
    return datetime.fromtimestamp((made.int >> 80) / 1000, UTC)


def mutate(rig: Rig, plane: Reads, route: str) -> list[str]:
    """A call of one verb with random arguments, after those that make what it needs; the ids of what it was about."""
    path, body = plane.cases[route](rig)
    reply = plane.caller.call(route.partition(" ")[0], path, body)
    return plane.note(reply.ok()) if reply.raw else []


def deck(planes: list[Reads], draw: random.Random) -> Iterator[tuple[Reads, str]]:
    """Every verb once, in any order, and then any."""
    cards = [(plane, route) for plane in planes for route in plane.cases]
    yield from draw.sample(cards, len(cards))
    while True:
        yield draw.choice(cards)


def test_two_hundred_random_mutations_are_answered_as_they_were(cloud: Installation, recorder: Recorder) -> None:
    draw = random.Random(20261121)
    with puppet_of(cloud) as puppet:
        rig = Rig(cloud, puppet, 4711)
        heard(cloud, "now() + interval '1 hour'")  # who is silent is not in the log
        planes = [
            Reads(Plane.USER, rig.owner, USER, plan_cases.USER),
            Reads(Plane.OPERATOR, rig.operator, OPERATOR, plan_cases.OPERATOR),
        ]
        known = {"project": rig.tenant.id, "network": rig.tenant.network_id, "node": puppet.id}
        for plane in planes:  # what one made the other reads too, or both times not
            plane.known = known
        planes[0].note(rig.owner.get("/v1/flavors").ok())
        began = recorder.now()
        touched: dict[str, tuple[str, Caller]] = {}  # path -> a moment before it was made
        for rounds, (about_plane, route) in enumerate(deck(planes, draw)):
            if rounds >= sum(len(p.cases) for p in planes) and recorder.mutations(began) >= MUTATIONS:
                break
            before = recorder.now()
            about = mutate(rig, about_plane, route)
            for plane in planes:
                singles = [s for i in about if (s := plane.single(i)) is not None]
                for path in singles:
                    touched.setdefault(path, (before, plane.caller))
                recorder.record(plane.caller, *singles[:2], *plane.paths(draw))
    assert len(recorder.answers) > MUTATIONS
    for plane in planes:
        assert plane.read == {r.path for r in plane.routes}
    for moment, caller, path, answer in recorder.answers:
        reply = caller.get(at(path, as_of=moment))
        found = kept(reply.body) if reply.status == 200 else reply.status
        assert found == answer, (path, moment, json.dumps(found)[:1500], json.dumps(answer)[:1500])
    for path, (before, caller) in touched.items():
        if made_at(path) > datetime.fromisoformat(before):
            told = refused(caller.get(at(path, as_of=before)), 404, "not-found")
            assert "did not exist then" in told["detail"]
    assert rig.owner.get(at("/v1/vms", as_of=began)).ok()["items"] == []
    heard(cloud, "least(seen_at, now())")


def test_a_list_of_then_has_pages_filters_and_one_projects_objects_only(
    cloud: Installation, tenant: Tenant, recorder: Recorder
) -> None:
    other = Tenant(cloud)
    other.create("theirs")
    for n in range(7):
        tenant.create(f"v{n}", wait=20, labels={"odd": str(n % 2)})
    then = recorder.now()
    tenant.owner.delete("/v1/vms/v3?wait=20").ok()
    tenant.owner.patch("/v1/vms/v5", {"name": "x", "labels": {}}).ok()
    tenant.create("v9")
    assert [v["name"] for v in tenant.owner.list(at("/v1/vms?limit=3", as_of=then))] == [f"v{n}" for n in range(7)]
    assert [v["name"] for v in tenant.owner.list(at("/v1/vms?label=odd=1", as_of=then))] == ["v1", "v3", "v5"]
    assert tenant.owner.get(at("/v1/vms/v3", as_of=then)).ok()["addresses"]
    assert tenant.owner.get(at("/v1/vms/v5", as_of=then)).ok()["labels"] == {"odd": "1"}
    assert "host" in tenant.owner.get(at("/v1/vms/v5", as_of=then)).ok()
    assert "node" not in tenant.owner.get(at("/v1/vms/v5", as_of=then)).ok()
    operators = cloud.operator().list(at("/v1/vms", as_of=then))
    assert {"v3", "theirs"} <= {v["name"] for v in operators}
    refused(other.owner.get(at(f"/v1/vms/{tenant.vm('x')['id']}", as_of=then)), 404, "not-found")


def test_the_difference_of_two_moments(tenant: Tenant, recorder: Recorder) -> None:
    tenant.running("a")
    tenant.running("b")
    first = recorder.now()
    tenant.owner.patch("/v1/vms/a", {"labels": {"tier": "web"}}).ok()
    tenant.owner.delete("/v1/vms/b?wait=20").ok()
    tenant.create("c", wait=20)
    second = recorder.now()
    tenant.owner.post("/v1/vms/a/stop?wait=20", {"mode": "hard"}).ok()
    told = tenant.owner.get(at("/v1/vms/a", as_of=first, until=second)).ok()["changes"]
    assert {c["field"]: (c["was"], c["is_now"]) for c in told}["labels.tier"] == (None, "web")
    assert "state" not in {c["field"] for c in told}
    later = tenant.owner.get(at("/v1/vms/a", as_of=second, until="now")).ok()["changes"]
    assert {c["field"]: (c["was"], c["is_now"]) for c in later}["state"] == ("running", "stopped")
    pages = tenant.owner.list(at("/v1/vms?limit=1", as_of=first, until=second))
    assert [(o["name"], o["action"]) for o in pages] == [("a", "changed"), ("b", "gone"), ("c", "appeared")]


def test_the_history_names_who_when_which_request_and_what(cloud: Installation, tenant: Tenant) -> None:
    made = tenant.running("a")
    patched = tenant.owner.patch("/v1/vms/a", {"labels": {"tier": "web"}})
    cloud.quiet()
    cloud.sql(
        "update vm set labels = '{\"by\": \"hand\"}' where name = 'a' and project_id in (select id from project where name = $1)",
        tenant.name,
    )
    items = tenant.owner.list("/v1/vms/a/history?limit=2")
    by_hand = next(i for i in items if i["actor"] == "changed in the database by hand")
    assert {c["field"]: c["is_now"] for c in by_hand["changes"]} == {"labels.by": "hand", "labels.tier": None}
    place = next(n for n, i in enumerate(items) if i["request"] == patched.headers["x-request-id"])
    labelled = items[place]
    assert labelled["actor"].startswith("user:usr-")
    assert (labelled["actor_name"], labelled["reason"]) == (tenant.user, "vm.change")
    assert not [i for i in items if i["actor"] == "node" and i["actor_name"]]
    assert [c for c in labelled["changes"] if c["field"].startswith("labels")] == [
        {"field": "labels.tier", "was": None, "is_now": "web"}
    ]
    assert items[-1]["action"] == "insert"
    assert {i["actor"] for i in items} >= {"node"}  # a tenant does not learn which
    assert not [c for i in items for c in i["changes"] if c["field"] in ("node_id", "epoch")]
    whole = cloud.operator().list(f"/v1/vms/{made['id']}/history")
    assert [c for i in whole for c in i["changes"] if c["field"] == "node_id"]
    # the place of each change is a moment too
    before, after = (
        tenant.owner.get(at("/v1/vms/a", as_of=i["cursor"])).ok()["labels"] for i in (items[place + 1], labelled)
    )
    assert (before, after) == ({}, {"tier": "web"})
    tenant.owner.delete("/v1/vms/a?wait=20").ok()
    assert tenant.owner.list("/v1/vms/a/history")[0]["state"] == "removed"  # by name, also when it is gone
    refused(Tenant(cloud).owner.get(f"/v1/vms/{made['id']}/history"), 404, "not-found")


def test_moments_that_cannot_be_asked_for(tenant: Tenant) -> None:
    tenant.create("a")
    for moment in ("yesterday", "2026-01-31", "2026-01-31T12:00:00", "1.2", "9.1.1", "", "2999-01-01T00:00:00Z"):
        reply = tenant.owner.get(at("/v1/vms/a", as_of=moment))
        refused(reply, reply.status, "bad-request")
    refused(tenant.owner.get("/v1/vms/a?until=2026-01-31T12:00:00Z"), 400, "bad-request")
    refused(tenant.owner.get("/v1/changes?as_of=2026-01-31T12:00:00Z"), 422, "invalid")
    refused(tenant.owner.get("/v1/vms/a?as_of=0001-01-01T00:00:00%2B14:00"), 400, "bad-request")
    refused(tenant.owner.get("/v1/vms?as_of=1970-01-01T00:00:00Z&limit=0"), 422, "invalid")
