"""A node drained, in maintenance, silent, lost and back: what it gets, what is said of it, what its agent is told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.fleet.installation import Installation, until
from tests.fleet.puppet import ROOT, Puppet, puppet_of
from tests.fleet.tenant import Tenant, refused


@pytest.fixture
def puppet(cloud: Installation) -> Iterator[Puppet]:
    with puppet_of(cloud) as made:
        yield made


def path(puppet: Puppet, word: str = "") -> str:
    return f"/v1/nodes/{puppet.id}{word}"


@pytest.mark.parametrize(("word", "state"), [("drain", "draining"), ("maintenance", "maintenance")])
def test_a_node_that_is_taken_out_keeps_what_it_has_and_gets_nothing_new(
    cloud: Installation, tenant: Tenant, puppet: Puppet, word: str, state: str
) -> None:
    operator, vm_id = cloud.operator(), puppet.running(tenant, "a")
    shown = operator.post(path(puppet, f"/{word}"), {"reason": "disks"}).ok()
    assert (shown["state"], shown["spec"]["maintenance_reason"], shown["holds"]) == (
        state,
        "disks",
        {"vms": 1, "volumes": 1},
    )
    wish = tenant.wish("b", virt_method=puppet.method)
    told = refused(tenant.owner.post("/v1/vms", wish), 507, "no-capacity")
    assert puppet.method not in told["detail"]
    assert tenant.vm("a")["state"] == "running"
    for verb in ("stop", "start"):
        tenant.owner.post(f"/v1/vms/a/{verb}", {"mode": "hard"} if verb == "stop" else None).ok()
        puppet.fulfil(vm_id)
    refused(operator.delete(path(puppet)), 409, "in-use")
    shown = operator.post(path(puppet, "/return")).ok()
    assert (shown["state"], shown["spec"]["maintenance_reason"]) == ("running", "")
    puppet.revive()
    assert tenant.owner.post("/v1/vms", wish).status == 201


def test_a_lost_node_is_told_so_when_it_speaks_and_is_looked_at_before_it_gets_anything(
    cloud: Installation, tenant: Tenant, puppet: Puppet
) -> None:
    operator, vm_id = cloud.operator(), puppet.running(tenant, "a")
    refused(operator.post(path(puppet, "/lost"), {}), 409, "conflict")
    cloud.quiet()
    puppet.silent_for(95)
    shown = operator.get(path(puppet)).ok()
    assert (shown["state"], shown["last_state"]) == ("unknown", "running")
    shown = operator.post(path(puppet, "/lost"), {"reason": "fire"}).ok()
    assert (shown["state"], "last_state" in shown) == ("lost", False)
    assert tenant.vm("a")["state"] == "unknown"
    assert puppet.id in {n["id"] for n in operator.list("/v1/nodes?state=lost")}
    refused(operator.post(path(puppet, "/return")), 409, "conflict")
    refused(operator.delete(path(puppet)), 409, "in-use")
    # what it says in the session that was ended is not taken
    report: dict[str, Any] = {"session": puppet.session, "fabric_epoch": 1, "revision": 0, "vms": []}
    refused(puppet.caller.post(f"{ROOT}/reports", report), 409, "no-session")
    refused(puppet.caller.get(f"{ROOT}/wanted?since=0&session={puppet.session}"), 409, "no-session")
    assert operator.get(path(puppet)).ok()["state"] == "lost"
    # it opens another one: its VM is its own still, and nothing new comes
    puppet.open()
    shown = operator.get(path(puppet)).ok()
    assert (shown["state"], shown["spec"]["came_back"]) == ("maintenance", True)
    assert "has not said yet" in refused(operator.post(path(puppet, "/return")), 409, "conflict")["detail"]
    refused(operator.patch(path(puppet), {"maintenance": False}), 409, "conflict")
    revision = puppet.wanted()["revision"]
    assert vm_id in {v["vm_id"] for v in puppet.wanted()["vms"]}
    report |= {"session": puppet.session, "revision": revision, "vms": [puppet.as_wished(vm_id)]}
    puppet.caller.post(f"{ROOT}/reports", report).ok()
    until(lambda: operator.post(path(puppet, "/return")).status == 200, 5)  # what is heard is written every two seconds
    assert operator.get(path(puppet)).ok()["spec"]["came_back"] is False
    assert tenant.vm("a")["state"] == "running"
    puppet.running(tenant, "b")


def test_an_agent_comes_back_by_itself_after_its_node_was_declared_lost(cloud: Installation, tenant: Tenant) -> None:
    """The installation's own agent: frozen, declared lost, thawed."""
    operator = cloud.operator()
    vm = tenant.running("a")
    node = operator.get(f"/v1/vms/{vm['id']}").ok()["node_id"]
    with cloud.paused("agent"):
        cloud.quiet()
        cloud.sql("update node_seen set seen_at = now() - interval '95 s'")
        assert operator.post(f"/v1/nodes/{node}/lost", {}).ok()["state"] == "lost"
    until(lambda: operator.get(f"/v1/nodes/{node}").ok()["state"] == "maintenance", 20)
    until(lambda: operator.post(f"/v1/nodes/{node}/return").status == 200, 10)
    until(lambda: tenant.vm("a")["state"] == "running", 10)
    assert cloud.domains()[vm["id"]]["running"]  # nobody touched it
    assert operator.get(f"/v1/nodes/{node}").ok()["state"] == "running"
