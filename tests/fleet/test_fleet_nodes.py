"""Machines come in, are looked at, stand somewhere, and leave: approval, zones, what a waiting one may ask."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from nubila.access.policy import EVERYBODY, INTERNAL
from nubila.api.internal.routes import ROUTES
from tests.fleet.hostile import VALID
from tests.fleet.installation import Installation, until
from tests.fleet.puppet import ROOT, Puppet, puppet_of
from tests.fleet.tenant import Tenant, absent, refused

# what a machine may ask before an operator has looked at it
MAY_ASK = {"session.open", "node.renew"}


@pytest.fixture
def waiting(cloud: Installation) -> Iterator[Puppet]:
    made = Puppet(cloud, approve=False)
    yield made
    made.retire()


@pytest.fixture
def puppet(cloud: Installation) -> Iterator[Puppet]:
    with puppet_of(cloud) as made:
        yield made


def test_a_machine_that_waits_for_its_approval_says_what_it_is_and_asks_for_nothing(
    cloud: Installation, tenant: Tenant, waiting: Puppet
) -> None:
    tenant.running("a")
    shown = cloud.operator().get(f"/v1/nodes/{waiting.id}").ok()
    assert (shown["state"], shown["waits_for"], shown["status"]["cores"]) == (
        "enrolling",
        ["an operator's approval"],
        64,
    )
    asked = 0
    for route in ROUTES:
        if INTERNAL[route.permission].roles == EVERYBODY or route.permission in MAY_ASK:
            continue
        path = re.sub(r"\{([a-z]+)[^}]*\}", lambda m: absent(m[1]), route.path)
        reply = waiting.caller.call(route.method, path, VALID.get(route.permission))
        assert "nubila node approve" in refused(reply, 409, "not-approved")["fix"], route.path
        asked += 1
    assert asked >= 7
    wish = tenant.wish("b", virt_method=waiting.method)
    assert "short_of" in refused(tenant.owner.post("/v1/vms", wish), 507, "no-capacity")
    assert waiting.open() > 1  # it may start anew meanwhile


def test_an_approved_machine_gets_vms(cloud: Installation, tenant: Tenant, waiting: Puppet) -> None:
    operator = cloud.operator()
    assert operator.post(f"/v1/nodes/{waiting.id}/approve").ok()["state"] == "running"
    until(lambda: waiting.caller.get(f"{ROOT}/wanted?since=0&session={waiting.session}").status == 200, 3)
    waiting.revive()
    shown = operator.post(f"/v1/nodes/{waiting.id}/approve").ok()  # again: nothing to do
    assert (shown["state"], shown["generation"], "waits_for" in shown) == ("running", 2, False)
    waiting.running(tenant, "a")


def test_a_machine_that_is_not_wanted_is_retired_before_it_ever_was_a_node(cloud: Installation) -> None:
    puppet = Puppet(cloud, approve=False)
    assert cloud.operator().delete(f"/v1/nodes/{puppet.id}").ok()["state"] == "retired"
    until(lambda: puppet.caller.get(f"{ROOT}/wanted?since=0&session={puppet.session}").status == 401, 3)
    refused(cloud.operator().post(f"/v1/nodes/{puppet.id}/approve"), 404, "not-found")


# --- where they stand


def test_a_vm_runs_in_the_zone_that_it_was_asked_for(cloud: Installation, tenant: Tenant, puppet: Puppet) -> None:
    operator, zone = cloud.operator(), f"z-{tenant.name}"
    path = f"/v1/nodes/{puppet.id}"
    shown = operator.patch(path, {"zone": zone, "rack": "r1"}).ok()
    assert (shown["spec"]["zone"], shown["spec"]["rack"]) == (zone, "r1")
    assert [n["id"] for n in operator.list(f"/v1/nodes?zone={zone}&rack=r1")] == [puppet.id]
    assert operator.list(f"/v1/nodes?zone={zone}&rack=r2") == operator.list("/v1/nodes?zone=nowhere") == []
    assert puppet.id not in {n["id"] for n in operator.list("/v1/nodes?rack=")}

    wish = tenant.wish("b", virt_method=puppet.method, zone="default")
    told = refused(reply := tenant.owner.post("/v1/vms", wish), 507, "no-capacity")
    assert told["would_fit"] == {"zone": zone}
    assert f"zone = {zone}" in told["detail"]
    assert puppet.method not in reply.raw.decode().replace(zone, "")
    made = tenant.owner.post("/v1/vms", {**wish, **told["would_fit"]}).ok()["vm"]
    assert made["spec"]["zone"] == zone
    assert operator.get(f"/v1/vms/{made['id']}").ok()["node_id"] == puppet.id
    plan = tenant.owner.post("/v1/vms?plan=1", {**wish, "name": "c", "zone": zone}).ok()
    assert plan["effects"][0]["details"]["zone"] == zone

    assert operator.patch(path, {"rack": ""}).ok()["spec"]["rack"] == ""
    refused(operator.patch(path, {"rack": "\n"}), 422, "invalid")


# --- what they do


LINKS = [{"name": "e0", "mac": "02:00:00:00:00:01", "mtu": 1500, "addresses": ["10.2.0.7/24"]}]


def test_a_node_waits_for_the_addresses_that_its_roles_need_and_runs_only_what_they_say(
    cloud: Installation, tenant: Tenant
) -> None:
    operator, puppet = cloud.operator(), Puppet(cloud, roles=["storage"])
    puppet.open(address="10.0.0.7", links=LINKS, disks=[{"name": "sda", "size_gib": 100}])
    path = f"/v1/nodes/{puppet.id}"
    shown = operator.get(path).ok()
    assert (shown["state"], shown["addresses"]) == ("enrolling", {"management": "10.0.0.7"})
    assert "an address for storage, which the role storage needs" in shown["waits_for"]
    assert shown["status"]["disks"] == [{"name": "sda", "size_gib": 100, "model": "", "rotational": False}]
    refused(operator.patch(path, {"addresses": {"storage": "10.2.0.8"}}), 409, "conflict")
    shown = operator.patch(path, {"addresses": {"storage": "10.2.0.7", "backup": "10.2.0.7"}}).ok()
    assert (shown["state"], shown["addresses"]["backup"]) == ("running", "10.2.0.7")
    refused(tenant.owner.post("/v1/vms", tenant.wish("a", virt_method=puppet.method)), 507, "no-capacity")
    operator.patch(path, {"roles": ["storage", "hypervisor"]}).ok()
    puppet.running(tenant, "a")
    assert "used" in refused(operator.patch(path, {"roles": ["storage"]}), 409, "conflict")["offered"]
    puppet.retire()


def test_a_refusals_hosts_are_for_operators_alone(cloud: Installation, tenant: Tenant, puppet: Puppet) -> None:
    operator = cloud.operator()
    operator.post(f"/v1/nodes/{puppet.id}/drain", {}).ok()
    reply = tenant.owner.post("/v1/vms", tenant.wish("a", virt_method=puppet.method))
    refused(reply, 507, "no-capacity")
    nodes = operator.list("/v1/nodes")
    for node in nodes:
        assert node["name"] not in reply.raw.decode()
        assert node["id"] not in reply.raw.decode()
    kept = operator.list("/v1/decisions?refused=true&limit=1")[0]["refusal"]
    why = {h["node_name"]: h["short"] for h in kept["hosts"]}
    assert set(why) <= {n["name"] for n in nodes}
    assert why[puppet.method] == {"running": "takes no new VMs now"}
    assert all("virt-method" in short for name, short in why.items() if name != puppet.method)
    vm = tenant.running("b")
    loaded = {n["id"]: n for n in operator.list("/v1/nodes")}[operator.get(f"/v1/vms/{vm['id']}").ok()["node_id"]]
    assert loaded["holds"]["vms"] >= 1
    assert loaded["inventory"]["cores"]["used"] >= 1
