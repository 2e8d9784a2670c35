"""A29: what a stolen node certificate is good for, route by route; and a node's copy on another machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from nubila.access.policy import EVERYBODY, INTERNAL
from nubila.api.internal.routes import ROUTES
from nubila.model.ids import parse
from tests.fleet.installation import Installation
from tests.fleet.puppet import ROOT, Puppet, puppet_of
from tests.fleet.tenant import Tenant, refused

CANARY = "user-data-of-another-node"


@pytest.fixture
def victim(cloud: Installation) -> Iterator[Puppet]:
    with puppet_of(cloud) as made:
        yield made


@pytest.fixture
def thief(cloud: Installation) -> Iterator[Puppet]:
    with puppet_of(cloud) as made:
        yield made


def theirs(cloud: Installation, victim: Puppet) -> dict[str, Any]:
    """All that the database has of the victim, its session included."""
    node_id = parse("node", victim.id)
    rows: dict[str, Any] = {
        table: cloud.sql(f'select t::text as row from "{table}" t where {column} = $1 order by 1', node_id)
        for table, column in (
            ("node", "id"), ("vm", "node_id"), ("volume", "node_id"), ("port", "node_id"), ("attachment", "node_id"), ("allocation", "node_id"),
            ("inventory", "node_id"), ("virt_method", "node_id"), ("drift", "node_id"), ("wanted", "node_id"), ("node_revision", "node_id"),
        )
    }  # fmt: skip
    rows["session"] = cloud.sql("select session from node_seen where node_id = $1", node_id)
    return rows


def test_a29_no_route_of_the_internal_plane_reads_or_writes_what_is_another_nodes(
    cloud: Installation, tenant: Tenant, victim: Puppet, thief: Puppet
) -> None:
    victim.revive()
    vm_id = tenant.create("a", virt_method=victim.method, user_data=CANARY)["vm"]["id"]
    victim.fulfil(vm_id)
    assert CANARY in str(victim.wanted())  # the twin: it is told its own
    wish = victim.wish(vm_id)
    volume = wish["disks"][0]["volume_id"]
    image = tenant.owner.list("/v1/images?name=mini")[0]["id"]
    question = "qst-" + vm_id.partition("-")[2]
    cloud.quiet()
    before = theirs(cloud, victim)
    off = victim.as_wished(vm_id, power="off", reason="forged")
    told = {
        "volume_id": volume,
        "epoch": 1,
        "generation": 1,
        "gone": True,
        "exports": [{"image_id": image, "doing": "x"}],
    }
    line = {
        "kind": "domain",
        "thing": vm_id,
        "field": "f",
        "wished": "w",
        "observed": "o",
        "cause": "missing",
        "vm_id": vm_id,
    }
    report = {"session": thief.session, "fabric_epoch": 1, "revision": 1 << 40, "vms": [off, {**off, "gone": True}]}
    bodies: dict[str, Any] = {
        "report.write": {**report, "volumes": [told], "drifts": [line]},
        "question.answer": {"session": victim.session, "text": "forged"},
        "node.renew": {"csr_pem": "x"},
    }
    asked = set()
    for route in ROUTES:
        if INTERNAL[route.permission].roles == EVERYBODY or route.permission == "session.open":
            continue
        ids = {"image": image, "question": question}
        path = re.sub(r"\{([a-z]+)[^}]*\}", lambda m: ids[m[1]], route.path)  # noqa: B023
        for query in ("", f"?since=0&session={victim.session}", f"?since=0&session={thief.session}"):
            if route.permission == "event.read" and query:
                continue
            reply = thief.caller.call(route.method, path + query, bodies.get(route.permission))
            for secret in (CANARY, vm_id, volume, victim.id):
                assert secret not in reply.raw.decode(errors="replace"), (path, query)
            asked.add(route.permission)
    assert asked == {p for p, r in INTERNAL.items() if r.roles != EVERYBODY} - {"session.open"}
    refused(thief.report(off, session=victim.session + 1000), 409, "wrong-session")
    cloud.quiet()
    assert theirs(cloud, victim) == before
    assert victim.report(victim.as_wished(vm_id)).status == 200  # and its own session goes on


def test_a29_a_node_says_what_it_is_and_never_what_it_may(cloud: Installation, thief: Puppet) -> None:
    """What operators decide, it cannot mark about itself, however it says so."""
    operator, path = cloud.operator(), f"/v1/nodes/{thief.id}"
    operator.post(f"{path}/maintenance", {"reason": "stolen"}).ok()
    before = operator.get(path).ok()
    claims = {
        "approved": True,
        "maintenance": False,
        "draining": False,
        "lost": False,
        "zone": "z",
        "roles": ["storage"],
        "state": "running",
        "node_id": "x",
    }
    thief.open(**claims, spec=claims)
    after = operator.get(path).ok()
    assert (after["spec"], after["state"], after["generation"]) == (before["spec"], "maintenance", before["generation"])
    for plane in ("user", "operator"):
        caller = cloud.caller(plane)
        caller.certificate = thief.caller.certificate
        for word in ("return", "lost", "approve"):
            assert caller.post(f"{path}/{word}", {}).status in (401, 404)


def test_a_copy_on_another_machine_is_refused_and_the_node_goes_on(
    cloud: Installation, tenant: Tenant, victim: Puppet
) -> None:
    operator, path = cloud.operator(), f"/v1/nodes/{victim.id}"
    victim.open(machine_id="one")
    vm_id = victim.running(tenant, "a")
    cloud.quiet()
    before, session = theirs(cloud, victim), victim.session
    for said in ({"machine_id": "two"}, {}, {"machine_id": "two", "boot_id": "c"}):
        reply = victim.caller.post(f"{ROOT}/sessions", victim.hello(**said))
        told = refused(reply, 409, "wrong-machine")
        assert "--other-machine" in told["fix"]
    assert theirs(cloud, victim) == before
    lines = [x for x in cloud.log_lines("core") if x.get("event") == "session.wrong-machine" and victim.id in str(x)]
    assert (len(lines), lines[0]["level"]) == (3, "warning")
    calls = cloud.sql(
        "select outcome from call where actor = $1 and action = 'session.open' and outcome = 'refused'",
        f"node:{victim.id}",
    )
    assert len(calls) == 3
    assert victim.report(victim.as_wished(vm_id), session=session).status == 200
    # its disk moves into other hardware, once
    operator.patch(path, {"other_machine": True}).ok()
    victim.open(machine_id="one")  # not yet
    assert operator.get(path).ok()["spec"]["other_machine"] is True
    victim.open(machine_id="two")
    shown = operator.get(path).ok()
    assert (shown["status"]["machine_id"], shown["spec"]["other_machine"]) == ("two", False)
    refused(victim.caller.post(f"{ROOT}/sessions", victim.hello(machine_id="one")), 409, "wrong-machine")


def test_a29_a_lost_node_cannot_be_brought_back_from_another_machine(cloud: Installation, thief: Puppet) -> None:
    operator, path = cloud.operator(), f"/v1/nodes/{thief.id}"
    thief.open(machine_id="one")
    cloud.quiet()
    thief.silent_for(95)
    operator.post(f"{path}/lost", {}).ok()
    refused(thief.caller.post(f"{ROOT}/sessions", thief.hello(machine_id="two")), 409, "wrong-machine")
    assert operator.get(path).ok()["state"] == "lost"
    thief.open(machine_id="one")
    assert operator.get(path).ok()["state"] == "maintenance"
