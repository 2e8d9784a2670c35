"""Time travel: what was answered then is answered again, before it there was nothing, and the history says who did what."""

from __future__ import annotations

import json
import random
import time
from typing import Any
from urllib.parse import quote

from tests.fleet.caller import Caller
from tests.fleet.installation import PUBLIC_KEY, Installation
from tests.fleet.tenant import Tenant, refused

MUTATIONS = 200
LISTS = ("vms", "volumes", "ports", "networks", "keypairs", "flavors", "images", "operations", "tokens")
# what the log does not keep: how long ago a node was heard from, and how much of a quota is used
NOT_KEPT = {"last_report_age_s", "used"}


def at(path: str, **moment: str) -> str:
    return path + ("&" if "?" in path else "?") + "&".join(f"{k}={quote(v)}" for k, v in moment.items())


def kept(body: Any) -> Any:
    if isinstance(body, dict):
        return {k: kept(v) for k, v in body.items() if k not in NOT_KEPT and k != "next"}
    return [kept(v) for v in body] if isinstance(body, list) else body


class Recorder:
    """Answers with the moment they were given at, each sure to be of that moment: the same before and after it."""

    def __init__(self, cloud: Installation, caller: Caller):
        self.cloud, self.caller = cloud, caller
        self.answers: list[tuple[str, str, Any]] = []

    def now(self) -> str:
        moment: str = self.cloud.sql("select clock_timestamp() as now")[0]["now"].isoformat()
        return moment

    def record(self, *paths: str) -> int:
        done = 0
        for path in paths:
            for _ in range(20):
                before, moment, after = self._look(path), self.now(), None
                time.sleep(0.01)  # a commit under way at that moment is over
                after = self._look(path)
                if before == after:
                    self.answers.append((moment, path, after))
                    done += 1
                    break
        return done

    def _look(self, path: str) -> Any:
        reply = self.caller.get(path)
        return kept(reply.body) if reply.status == 200 else reply.status


def mutate(tenant: Tenant, draw: random.Random, vms: dict[str, str], n: int) -> str:
    """One random change by the API; returns the name of the object that it was about."""
    owner = tenant.owner
    name = draw.choice(sorted(vms)) if vms else ""
    verb = draw.choice(("create", "label", "label", "rename", "stop", "start", "reboot", "remove", "key", "network"))
    if not name or (verb == "create" and len(vms) < 8):
        made = owner.post("/v1/vms?wait=20", tenant.wish(f"v{n}")).ok()["vm"]
        vms[f"v{n}"] = made["id"]
        return f"/v1/vms/{made['id']}"
    path = f"/v1/vms/{vms[name]}"
    if verb == "rename":
        owner.patch(path, {"name": f"r{n}"}).ok()
        vms[f"r{n}"] = vms.pop(name)
    elif verb in ("stop", "start", "reboot"):
        owner.post(f"{path}/{verb}?wait=20", {"mode": "hard"} if verb == "stop" else None)
    elif verb == "remove":
        owner.delete(f"{path}?wait=20").ok()
        del vms[name]
    elif verb == "key":
        return f"/v1/keypairs/{owner.post('/v1/keypairs', {'name': f'k{n}', 'public_key': PUBLIC_KEY}).ok()['id']}"
    elif verb == "network":
        body = {"name": f"n{n}", "subnets": [{"cidr": "10.8.0.0/24"}]}
        made = owner.post("/v1/networks", body)
        return f"/v1/networks/{made.body['id']}" if made.status == 201 else path
    else:
        owner.patch(path, {"labels": {"n": str(n)}}).ok()
    return path


def test_two_hundred_random_mutations_are_answered_as_they_were(cloud: Installation, tenant: Tenant) -> None:
    draw = random.Random(20261121)
    recorder = Recorder(cloud, tenant.owner)
    began = recorder.now()
    vms: dict[str, str] = {}
    touched: dict[str, str] = {}  # path -> a moment before it was made
    for n in range(MUTATIONS):
        before = recorder.now()
        path = mutate(tenant, draw, vms, n)
        touched.setdefault(path, before)
        recorder.record(path, f"/v1/{draw.choice(LISTS)}", "/v1/vms")
    assert len(recorder.answers) > 2.9 * MUTATIONS
    for moment, path, answer in recorder.answers:
        reply = tenant.owner.get(at(path, as_of=moment))
        found = kept(reply.body) if reply.status == 200 else reply.status
        assert found == answer, (path, moment, json.dumps(found)[:1500], json.dumps(answer)[:1500])
    for path, before in touched.items():
        told = refused(tenant.owner.get(at(path, as_of=before)), 404, "not-found")
        assert "did not exist then" in told["detail"]
    assert tenant.owner.get(at("/v1/vms", as_of=began)).ok()["items"] == []


def test_a_list_of_then_has_pages_filters_and_one_projects_objects_only(cloud: Installation, tenant: Tenant) -> None:
    other = Tenant(cloud)
    other.create("theirs")
    for n in range(7):
        tenant.create(f"v{n}", wait=20, labels={"odd": str(n % 2)})
    then = Recorder(cloud, tenant.owner).now()
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


def test_the_difference_of_two_moments(cloud: Installation, tenant: Tenant) -> None:
    recorder = Recorder(cloud, tenant.owner)
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
    assert items[0]["actor"] == "changed in the database by hand"
    assert {c["field"]: c["is_now"] for c in items[0]["changes"]} == {"labels.by": "hand", "labels.tier": None}
    place = next(n for n, i in enumerate(items) if i["request"] == patched.headers["x-request-id"])
    labelled = items[place]
    assert labelled["actor"].startswith("user:usr-")
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
