"""Ports that come and go, and their addresses, through the APIs of a whole installation; the world is what the fake
drivers hold."""

from __future__ import annotations

import ipaddress
import json
from typing import Any

import pytest

from nubila.model.ids import parse
from tests.fleet.installation import Installation, until
from tests.fleet.puppet import puppet_of
from tests.fleet.tenant import Tenant, refused

SECOND = "10.44.0.0/29"  # six addresses, one of them the gateway's


@pytest.fixture
def tenant(cloud: Installation) -> Tenant:
    made = Tenant(cloud)
    made.owner.post("/v1/networks", {"name": "second", "subnets": [{"cidr": SECOND}]}).ok()
    return made


def driven(cloud: Installation, port_id: str) -> dict[str, Any] | None:
    """The port as its node's network driver was last asked for it; None: it has none."""
    return cloud.journal("networks.ports").get(port_id)


def add(tenant: Tenant, vm: str = "a", network: str = "second", **more: Any) -> dict[str, Any]:
    answer = tenant.owner.post(f"/v1/vms/{vm}/ports?wait=20", {"network": network, **more}).ok()
    assert answer["operation"]["state"] == "done", answer
    port: dict[str, Any] = answer["port"]
    return port


def ports(tenant: Tenant) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tenant.owner.list("/v1/ports")
    return found


def claimed(tenant: Tenant, network: str = SECOND) -> set[str]:
    text = "select host(a.address) as a from address a join network n on n.id = a.network_id where n.project_id = $2 and a.address <<= $1"
    rows = tenant.cloud.sql(text, ipaddress.ip_network(network), parse("project", tenant.id))
    return {r["a"] for r in rows}


def test_a_port_is_added_to_a_running_vm_and_removed_again(cloud: Installation, tenant: Tenant) -> None:
    vm = tenant.running("a")
    port = add(tenant, in_kbit=5000)
    domain = cloud.domains()[vm["id"]]
    assert port["state"] == "active"
    assert port["mac"] in domain["live"]["nics"]
    assert port["mac"] in domain["defined"]["nics"]
    there = driven(cloud, port["id"])
    assert there is not None
    assert there["addresses"] == port["addresses"]
    assert there["bandwidth"]["in_kbit"] == 5000
    assert set(port["addresses"]) <= claimed(tenant)
    assert set(port["addresses"]) <= set(tenant.vm("a")["addresses"])
    assert tenant.vm("a")["state"] == "running"
    assert cloud.domains()[vm["id"]]["boots"] == domain["boots"]

    answer = tenant.owner.delete(f"/v1/ports/{port['id']}?wait=20").ok()
    assert answer["operation"]["state"] == "done"
    assert port["mac"] not in cloud.domains()[vm["id"]]["live"]["nics"]
    assert port["mac"] not in cloud.domains()[vm["id"]]["defined"]["nics"]
    assert driven(cloud, port["id"]) is None
    assert not set(port["addresses"]) & claimed(tenant)
    refused(tenant.owner.get(f"/v1/ports/{port['id']}"), 404, "not-found")
    tenant.owner.delete("/v1/networks/second").ok()  # nothing uses it any more


def test_a_port_of_a_vm_that_is_off_is_there_when_it_starts(cloud: Installation, tenant: Tenant) -> None:
    vm = tenant.running("a")
    tenant.owner.post("/v1/vms/a/stop?wait=20", {"mode": "hard"}).ok()
    port, going = add(tenant), add(tenant, network="default")
    until(lambda: port["mac"] in cloud.domains()[vm["id"]]["defined"]["nics"])
    assert tenant.owner.delete(f"/v1/ports/{going['id']}?wait=20").ok()["operation"]["state"] == "done"
    assert driven(cloud, going["id"]) is None
    assert going["mac"] not in cloud.domains()[vm["id"]]["defined"]["nics"]
    tenant.owner.post("/v1/vms/a/start?wait=20").ok()
    assert port["mac"] in cloud.domains()[vm["id"]]["live"]["nics"]
    until(lambda: tenant.owner.get(f"/v1/ports/{port['id']}").ok()["state"] == "active")


def test_addresses_are_given_back_only_by_the_nodes_word(cloud: Installation, tenant: Tenant) -> None:
    """A guest that does not let go keeps its port, and with it the addresses, however long that takes."""
    with puppet_of(cloud) as node:
        vm_id = node.running(tenant, "a")
        answer = tenant.owner.post("/v1/vms/a/ports", {"network": "second"}).ok()
        port = answer["port"]
        nics = {n["port_id"]: n for n in node.wish(vm_id)["nics"]}
        assert nics[port["id"]]["mac"] == port["mac"]

        def report(held: bool, gone: bool, reason: str | None = None) -> None:
            told = {"port_id": port["id"], "epoch": 1, "held": held, "reason": reason}
            said = node.as_wished(vm_id, ports=[] if gone else [told], ports_gone=[told] if gone else [])
            said["ports_active"] = [p for p in said["ports_active"] if p != port["id"] or held]
            node.report(said).ok()

        def state(operation: dict[str, Any]) -> str:
            found: str = tenant.owner.get(f"/v1/operations/{operation['id']}").ok()["state"]
            return found

        report(held=False, gone=False, reason="no slot is free")
        assert state(answer["operation"]) != "done"
        why = tenant.owner.get(f"/v1/operations/{answer['operation']['id']}").ok()
        assert why["status"]["reason"] == "no slot is free"
        assert tenant.vm("a")["state"] == "running"
        report(held=True, gone=False)
        assert state(answer["operation"]) == "done"

        removal = tenant.owner.delete(f"/v1/ports/{port['id']}").ok()["operation"]
        report(held=False, gone=False, reason="the guest has not let go of the interface yet")
        assert state(removal) != "done"
        assert set(port["addresses"]) <= claimed(tenant)
        assert tenant.owner.get(f"/v1/ports/{port['id']}").ok()["spec"]["gone"] is True
        refused(tenant.owner.patch(f"/v1/ports/{port['id']}", {"in_kbit": 1}), 409, "conflict")
        refused(tenant.owner.delete(f"/v1/ports/{port['id']}"), 409, "conflict")
        refused(tenant.owner.post(f"/v1/ports/{port['id']}/addresses", {}), 409, "conflict")
        refused(tenant.owner.delete("/v1/networks/second"), 409, "in-use")
        report(held=False, gone=True)
        assert state(removal) == "done"
        assert not set(port["addresses"]) & claimed(tenant)
        assert port["id"] not in {n["port_id"] for n in node.wish(vm_id)["nics"]}


def test_addresses_are_assigned_and_unassigned_on_a_running_vm(cloud: Installation, tenant: Tenant) -> None:
    tenant.running("a")
    port = add(tenant)
    (first,) = port["addresses"]
    path = f"/v1/ports/{port['id']}/addresses"
    free = sorted({str(h) for h in ipaddress.ip_network(SECOND).hosts()} - claimed(tenant))
    wanted = free[0]
    answer = tenant.owner.post(f"{path}?wait=20", {"address": wanted}).ok()
    assert answer["operation"]["state"] == "done"
    assert set(answer["port"]["addresses"]) == {first, wanted}
    there = driven(cloud, port["id"])
    assert there is not None
    assert there["addresses"] == [first, wanted]  # DHCP goes on giving the first
    another = tenant.owner.post(f"{path}?wait=20", {}).ok()["port"]["addresses"]
    assert len(another) == 3

    going = tenant.owner.delete(f"{path}/{first}?wait=20").ok()
    assert going["operation"]["state"] == "done"
    there = driven(cloud, port["id"])
    assert there is not None
    assert there["addresses"][0] == wanted
    assert first not in there["addresses"]
    assert first not in claimed(tenant)
    assert first not in going["port"]["addresses"]
    back = tenant.owner.post(f"{path}?wait=20", {"address": first}).ok()["port"]
    assert first in back["addresses"]


def test_an_address_stays_claimed_until_the_rules_let_none_of_it_through(cloud: Installation, tenant: Tenant) -> None:
    with puppet_of(cloud) as node:
        vm_id = node.running(tenant, "a")
        (port,) = ports(tenant)
        path = f"/v1/ports/{port['id']}/addresses"
        second = tenant.owner.post(path, {"address": "10.9.7.7"}).ok()

        def held() -> None:
            told = [{"port_id": n["port_id"], "epoch": 1, "held": True} for n in node.wish(vm_id)["nics"]]
            node.report(node.as_wished(vm_id, ports=told)).ok()

        held()
        assert tenant.owner.get(f"/v1/operations/{second['operation']['id']}").ok()["state"] == "done"
        before = node.as_wished(vm_id)
        tenant.owner.delete(f"{path}/10.9.7.7").ok()
        (nic,) = node.wish(vm_id)["nics"]
        assert "10.9.7.7" not in nic["addresses"]
        assert nic["leaving"] == ["10.9.7.7"]
        assert "10.9.7.7" in claimed(tenant, "10.9.7.0/24")
        node.report({**before, "ports": [{"port_id": port["id"], "epoch": 1, "held": True}]})  # of the wish before
        assert "10.9.7.7" in claimed(tenant, "10.9.7.0/24")
        refused(tenant.owner.post(path, {"address": "10.9.7.7"}), 409, "conflict")
        refused(tenant.owner.delete(f"{path}/10.9.7.7"), 409, "conflict")
        held()
        assert "10.9.7.7" not in claimed(tenant, "10.9.7.0/24")
        tenant.owner.post(path, {"address": "10.9.7.7"}).ok()


def test_what_makes_no_sense_is_refused_and_changes_nothing(cloud: Installation, tenant: Tenant) -> None:
    tenant.running("a")
    (own,) = ports(tenant)
    port = add(tenant)
    path = f"/v1/ports/{port['id']}/addresses"
    before = claimed(tenant)
    for body in ({"network": "nosuch"}, {"network": "second", "security_groups": ["nosuch"]}, {}, {"network": ""}):
        refused(tenant.owner.post("/v1/vms/a/ports", body), 422, "invalid")
    for body in (
        {"address": "10.45.0.2"}, {"address": "10.44.0.0"}, {"address": "10.44.0.7"}, {"address": "10.44.0.1"},
        {"address": "x"}, {"family": 6}, {"family": 5}, {"address": "10.44.0.3", "family": 4},
    ):  # fmt: skip
        refused(tenant.owner.post(path, body), 422, "invalid")
    refused(tenant.owner.post(path, {"address": port["addresses"][0]}), 409, "conflict")
    refused(tenant.owner.delete(f"{path}/{port['addresses'][0]}"), 409, "conflict")  # its last one
    refused(tenant.owner.delete(f"{path}/10.44.0.200"), 404, "not-found")
    refused(tenant.owner.delete(f"{path}/%00"), 400, "bad-request")
    assert claimed(tenant) == before
    tenant.owner.delete(f"/v1/ports/{own['id']}?wait=20").ok()
    refused(tenant.owner.delete(f"/v1/ports/{port['id']}"), 409, "conflict")  # the last one
    assert [p["id"] for p in ports(tenant)] == [port["id"]]
    six = tenant.owner.post("/v1/vms/a/ports?wait=20", {"network": "default"}).ok()["port"]
    more = tenant.owner.post(f"/v1/ports/{six['id']}/addresses?wait=20", {"family": 6}).ok()["port"]["addresses"]
    assert sum(":" in a for a in more) == 2


def test_a_network_that_is_full_gives_no_port_and_no_address(tenant: Tenant, cloud: Installation) -> None:
    tenant.running("a")
    port = add(tenant)
    for _ in range(4):
        tenant.owner.post(f"/v1/ports/{port['id']}/addresses?wait=20", {}).ok()
    assert len(claimed(tenant)) == 6
    for reply in (
        tenant.owner.post(f"/v1/ports/{port['id']}/addresses", {}),
        tenant.owner.post("/v1/vms/a/ports", {"network": "second"}),
        tenant.owner.post("/v1/vms", tenant.wish("b", networks=["second"])),
    ):
        told = refused(reply, 507, "no-address")
        cidr = told["subnet"]["cidr"]
        assert told["title"] == "No address is free in this subnet."
        assert told["subnet"] == {"network": "second", "cidr": cidr, "addresses": 6, "used": 6}
        assert (
            told["detail"]
            == f"Network 'second' has no free address left in {cidr}: all 6 are used, one by its gateway."
        )
        assert "unassign" in told["fix"]
    assert len(ports(tenant)) == 2
    given = tenant.owner.get(f"/v1/ports/{port['id']}").ok()["addresses"][-1]
    tenant.owner.delete(f"/v1/ports/{port['id']}/addresses/{given}?wait=20").ok()
    tenant.create("b", networks=["second"])  # as the answer said


def test_a_vm_has_at_most_eight_ports(tenant: Tenant) -> None:
    tenant.running("a")
    for _ in range(7):
        tenant.owner.post("/v1/vms/a/ports", {"network": "default"}).ok()
    refused(tenant.owner.post("/v1/vms/a/ports", {"network": "default"}), 409, "conflict")
    until(lambda: [p["state"] for p in ports(tenant)] == ["active"] * 8)
    assert len({p["spec"]["index"] for p in ports(tenant)}) == 8


def test_a_plan_of_a_port_shows_it_and_claims_nothing(cloud: Installation, tenant: Tenant) -> None:
    tenant.running("a")
    before = claimed(tenant)
    plan = tenant.owner.post("/v1/vms/a/ports?plan=1", {"network": "second"}).ok()
    (effect,) = plan["effects"]
    assert (effect["action"], effect["kind"], effect["details"]["network"]) == ("create", "port", "second")
    assert claimed(tenant) == before
    applied = tenant.owner.post(f"/v1/plans/{plan['id']}/apply?wait=20").ok()
    assert applied["port"]["mac"] == effect["details"]["mac"]
    assert applied["port"]["addresses"] == effect["details"]["addresses"]


def test_a_vm_with_ports_under_way_is_removed_with_them(cloud: Installation, tenant: Tenant) -> None:
    with puppet_of(cloud) as node:
        vm_id = node.running(tenant, "a")
        op = tenant.owner.post("/v1/vms/a/ports", {"network": "second"}).ok()["operation"]
        tenant.owner.delete("/v1/vms/a").ok()
        node.fulfil(vm_id)
        assert tenant.owner.get(f"/v1/operations/{op['id']}").ok()["state"] == "overtaken"
        assert claimed(tenant) <= {"10.44.0.1"}
        assert ports(tenant) == []


def test_a_cancelled_port_leaves_by_itself(cloud: Installation, tenant: Tenant) -> None:
    with puppet_of(cloud) as node:
        vm_id = node.running(tenant, "a")
        made = tenant.owner.post("/v1/vms/a/ports", {"network": "second"}).ok()
        why = tenant.owner.get(f"/v1/operations/{made['operation']['id']}/why").ok()
        assert why["can_cancel"] is True
        answer = tenant.owner.post(f"/v1/operations/{made['operation']['id']}/cancel").ok()
        assert answer["cancelled"] == "yes"
        assert answer["operation"]["state"] == "cancelled"
        removal = next(
            o
            for o in tenant.owner.list(f"/v1/operations?resource={made['port']['id']}")
            if o["id"] != made["operation"]["id"]
        )
        said = tenant.owner.post(f"/v1/operations/{removal['id']}/cancel").ok()
        assert said["cancelled"] == "no"
        told = {"port_id": made["port"]["id"], "epoch": 1}
        node.report(node.as_wished(vm_id, ports_gone=[told])).ok()
        assert tenant.owner.get(f"/v1/operations/{removal['id']}").ok()["state"] == "done"
        assert len(ports(tenant)) == 1


BRIDGES = {"hypervisor": {"fake": {}}, "network": {"bridge": {"overlapping_ranges": False}}}


def test_two_networks_of_one_range_are_not_placed_on_one_node_of_bridges(cloud: Installation, tenant: Tenant) -> None:
    """Refused with the reason, before anything changes; a node whose wires can do it takes both."""
    other = Tenant(cloud)
    with puppet_of(cloud) as node:
        node.open(drivers=BRIDGES)
        cloud.operator().get("/v1/nodes")
        first = node.running(tenant, "a")

        def asked() -> bool:  # the fleet is looked at once a second
            return other.owner.post("/v1/vms?plan=1", other.wish("b", virt_method=node.method)).status == 507

        until(asked, 10)
        with cloud.nothing_written("decision"):
            refused(other.owner.post("/v1/vms", other.wish("b", virt_method=node.method)), 507, "no-capacity")
        (kept,) = cloud.sql("select answer::text as kept from decision where node_id is null order by id desc limit 1")
        said = json.loads(kept["kept"])["refusal"]["filters"]
        assert {f["filter"]: f["refused"] for f in said}["ranges"] == 1
        other.owner.post("/v1/networks", {"name": "apart", "subnets": [{"cidr": "10.55.0.0/24"}]}).ok()
        apart = other.owner.post("/v1/vms", other.wish("b", virt_method=node.method, networks=["apart"])).ok()["vm"]
        node.fulfil(apart["id"])
        refusal = refused(other.owner.post("/v1/vms/b/ports", {"network": "default"}), 409, "conflict")
        assert "overlaps" in refusal["detail"]
        both = other.wish("c", virt_method=node.method, networks=["apart", "twin"])
        other.owner.post("/v1/networks", {"name": "twin", "subnets": [{"cidr": "10.55.0.0/16"}]}).ok()
        refused(other.owner.post("/v1/vms", both), 507, "no-capacity")
        tenant.owner.delete("/v1/vms/a").ok()
        node.fulfil(first)
        other.owner.post("/v1/vms/b/ports", {"network": "default"}).ok()  # nobody is in its way any more
    other.running("d")  # a node that can have both, and says so


def test_where_nothing_is_plugged_while_a_vm_runs_it_is_refused_and_works_when_it_is_off(
    cloud: Installation, tenant: Tenant
) -> None:
    with puppet_of(cloud) as node:
        node.open(drivers={"hypervisor": {"fake": {"nic_hotplug": False}}})
        vm_id = node.running(tenant, "a")
        (own,) = ports(tenant)
        refused(tenant.owner.post("/v1/vms/a/ports", {"network": "second"}), 422, "unsupported")
        tenant.owner.post("/v1/vms/a/stop", {"mode": "hard"}).ok()
        node.fulfil(vm_id)
        added = tenant.owner.post("/v1/vms/a/ports", {"network": "second"}).ok()
        told = [{"port_id": n["port_id"], "epoch": 1, "held": True} for n in node.wish(vm_id)["nics"]]
        node.report(node.as_wished(vm_id, ports=told, repairs=node.wish(vm_id)["repairs"])).ok()
        assert tenant.owner.get(f"/v1/operations/{added['operation']['id']}").ok()["state"] == "done"
        tenant.owner.post("/v1/vms/a/start").ok()
        node.fulfil(vm_id)
        refused(tenant.owner.delete(f"/v1/ports/{own['id']}"), 422, "unsupported")
        assert len(ports(tenant)) == 2
