"""Security groups over HTTP, judged by what the nodes' network drivers were given: the rules, and whose addresses they name."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.fleet.installation import Installation, rows_of, until
from tests.fleet.tenant import Tenant, refused

SSH = {"direction": "in", "protocol": "tcp", "port_min": 22}


def loaded(cloud: Installation) -> dict[str, list[dict[str, Any]]]:
    """What each node has of each group: read from the fake networks' journals."""
    found: dict[str, list[dict[str, Any]]] = {}
    for journal in cloud.var.glob("node*/fake/networks.groups"):
        for key, row in rows_of(journal).items():
            found.setdefault(key, []).append(row)
    return found


def rules(cloud: Installation, group_id: str) -> list[list[dict[str, Any]]]:
    return [g.get("rules", []) for g in loaded(cloud).get(group_id, [])]


def group(tenant: Tenant, name: str, *given: dict[str, Any]) -> str:
    made: str = tenant.owner.post("/v1/security-groups", {"name": name, "rules": list(given)}).ok()["id"]
    return made


def test_a_project_begins_with_a_visible_default_that_ports_are_in(cloud: Installation, tenant: Tenant) -> None:
    (default,) = tenant.owner.list("/v1/security-groups")
    said = [(r["direction"], r["protocol"], r["port_min"], r["cidr"]) for r in default["spec"]["rules"]]
    assert said == [("in", "tcp", 22, None), ("in", "icmp", None, None), ("out", "any", None, None)]
    tenant.running("a")
    assert [p["groups"] for p in tenant.owner.list("/v1/ports")] == [["default"]]
    (there,) = until(lambda: rules(cloud, default["id"]))
    assert [r["direction"] for r in there] == ["in", "in", "out"]
    refused(tenant.owner.delete("/v1/security-groups/default"), 409, "conflict")


def test_a_changed_rule_reaches_running_ports_within_a_second(cloud: Installation, tenant: Tenant) -> None:
    web = group(tenant, "web")
    tenant.running("a", security_groups=["web"])
    until(lambda: web in loaded(cloud))
    generation = tenant.owner.get("/v1/security-groups/web").ok()["generation"]
    began = time.monotonic()
    tenant.owner.patch("/v1/security-groups/web", {"rules": [SSH]}, if_match=f'"{generation}.1"').ok()
    until(lambda: [r[0]["ports"] for r in rules(cloud, web) if r] == [[22, 22]], every_s=0.01)
    assert time.monotonic() - began < 1.0
    refused(
        tenant.owner.patch("/v1/security-groups/web", {"rules": []}, if_match=f'"{generation}.1"'),
        412,
        "precondition-failed",
    )


def test_members_follow_the_ports_of_the_group_that_a_rule_names(cloud: Installation, tenant: Tenant) -> None:
    group(tenant, "web")
    web = tenant.owner.get("/v1/security-groups/web").ok()["id"]
    db = group(tenant, "db", {"direction": "in", "protocol": "tcp", "port_min": 5432, "group": "web"})
    tenant.running("db", security_groups=["db"])

    def members() -> set[str]:
        return {a for g in loaded(cloud).get(db, []) for a in g.get("members", {}).get(web, [])}

    assert until(lambda: db in loaded(cloud)) and members() == set()
    one = tenant.running("one", security_groups=["web"])
    until(lambda: members() == set(one["addresses"]), why="the first one's addresses")
    two = tenant.running("two", security_groups=["web", "default"])
    until(lambda: members() == {*one["addresses"], *two["addresses"]}, why="both")
    tenant.owner.delete("/v1/vms/one?wait=20").ok()
    until(lambda: members() == set(two["addresses"]), why="the second one's alone")
    refused(tenant.owner.delete("/v1/security-groups/web"), 409, "in-use")
    refused(tenant.owner.delete("/v1/security-groups/db"), 409, "in-use")
    tenant.owner.delete("/v1/vms/db?wait=20").ok()
    tenant.owner.delete("/v1/security-groups/db").ok()
    tenant.owner.delete("/v1/vms/two?wait=20").ok()
    tenant.owner.delete("/v1/security-groups/web").ok()


def test_a_plan_shows_the_rules_and_applies_to_the_letter(cloud: Installation, tenant: Tenant) -> None:
    web = group(tenant, "web", SSH)
    other = {"direction": "in", "protocol": "udp", "port_min": 53, "cidr": "10.0.0.0/8"}
    plan = tenant.owner.patch("/v1/security-groups/web?plan=1", {"rules": [other]}).ok()
    details = plan["effects"][0]["details"]
    assert details["rules added"] == ["in udp:53 from 10.0.0.0/8"]
    assert details["rules removed"] == ["in tcp:22 from any"]
    tenant.owner.post(f"/v1/plans/{plan['id']}/apply").ok()
    (rule,) = tenant.owner.get(f"/v1/security-groups/{web}").ok()["spec"]["rules"]
    assert (rule["protocol"], rule["cidr"], rule["family"]) == ("udp", "10.0.0.0/8", 4)


BAD: dict[str, dict[str, Any]] = {
    "ports without a protocol": {"direction": "in", "port_min": 5},
    "ports of icmp": {"direction": "in", "protocol": "icmp", "port_min": 5},
    "last before first": {"direction": "in", "protocol": "tcp", "port_min": 9, "port_max": 5},
    "only the last": {"direction": "in", "protocol": "tcp", "port_max": 5},
    "port too large": {"direction": "in", "protocol": "tcp", "port_min": 65536},
    "bits beyond the prefix": {"direction": "in", "cidr": "10.0.0.1/8"},
    "no range": {"direction": "in", "cidr": "10.0.0.0/8 accept; drop"},
    "a line feed": {"direction": "in", "cidr": "10.0.0.0/8\n"},
    "another family": {"direction": "in", "cidr": "10.0.0.0/8", "family": 6},
    "no family": {"direction": "in", "family": 5},
    "cidr and group": {"direction": "in", "cidr": "10.0.0.0/8", "group": "default"},
    "an unknown group": {"direction": "in", "group": "nobody"},
    "an unknown direction": {"direction": "up"},
    "an unknown protocol": {"direction": "in", "protocol": "ospf"},
    "an unknown field": {"direction": "in", "verdict": "drop"},
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a26_a_rule_that_no_node_could_load_is_refused_and_changes_nothing(tenant: Tenant, what: str) -> None:
    refused(tenant.owner.post("/v1/security-groups", {"name": "bad", "rules": [SSH, BAD[what]]}), 422, "invalid")
    before = tenant.owner.get("/v1/security-groups/default").ok()
    refused(tenant.owner.patch("/v1/security-groups/default", {"rules": [SSH, BAD[what]]}), 422, "invalid")
    assert tenant.owner.get("/v1/security-groups/default").ok() == before


def test_groups_of_others_are_unknown(cloud: Installation, tenant: Tenant) -> None:
    theirs = group(Tenant(cloud, cidr="10.31.0.0/24"), "theirs", SSH)
    refused(tenant.owner.get(f"/v1/security-groups/{theirs}"), 404, "not-found")
    refused(tenant.owner.patch(f"/v1/security-groups/{theirs}", {"rules": []}), 404, "not-found")
    refused(tenant.owner.delete(f"/v1/security-groups/{theirs}"), 404, "not-found")
    refused(tenant.owner.post("/v1/vms", tenant.wish("a", security_groups=[theirs])), 422, "invalid")
    naming = {"name": "x", "rules": [{"direction": "in", "group": theirs}]}
    refused(tenant.owner.post("/v1/security-groups", naming), 422, "invalid")


def test_a_running_port_changes_its_groups_and_limits(cloud: Installation, tenant: Tenant) -> None:
    web = group(tenant, "web", SSH)
    tenant.running("a")
    (port,) = tenant.owner.list("/v1/ports")

    def driven() -> dict[str, Any]:
        return cloud.journal("networks.ports")[port["id"]]

    body = {"security_groups": ["web"], "in_kbit": 5000, "out_kbit": 4000, "burst_kib": 256}
    began = time.monotonic()
    changed = tenant.owner.patch(f"/v1/ports/{port['id']}", body).ok()
    assert changed["groups"] == ["web"]
    until(lambda: driven()["groups"] == [web], every_s=0.01)
    assert time.monotonic() - began < 1.0
    assert driven()["bandwidth"] == {"in_kbit": 5000, "out_kbit": 4000, "burst_kib": 256}
    until(lambda: web in loaded(cloud))

    def observed() -> bool:
        there = tenant.owner.get(f"/v1/ports/{port['id']}").ok()
        return bool(there["observed_generation"] == there["generation"] == port["generation"] + 1)

    until(observed)
    again = tenant.owner.patch(f"/v1/ports/{port['id']}", body).ok()
    assert again["generation"] == port["generation"] + 1  # nothing to change
    tenant.owner.patch(f"/v1/ports/{port['id']}", {"in_kbit": 0, "security_groups": []}).ok()
    until(lambda: driven()["groups"] == [] and driven()["bandwidth"].get("in_kbit", 0) == 0)
    refused(tenant.owner.patch(f"/v1/ports/{port['id']}", {"in_kbit": -1}), 422, "invalid")
    refused(tenant.owner.patch(f"/v1/ports/{port['id']}", {"security_groups": ["nobody"]}), 422, "invalid")
    assert tenant.vm("a")["state"] == "running"


def test_a_plan_of_a_port_changes_nothing_and_others_ports_are_unknown(cloud: Installation, tenant: Tenant) -> None:
    other = Tenant(cloud, cidr="10.31.0.0/24")
    reader = cloud.caller("user", tenant.person(f"{tenant.name}-reader", "reader"))
    tenant.running("a")
    (port,) = tenant.owner.list("/v1/ports")
    plan = tenant.owner.patch(f"/v1/ports/{port['id']}?plan=1", {"in_kbit": 9}).ok()
    shown = [e["details"] for e in plan["effects"] if e["kind"] == "port"]
    assert shown == [{"in_kbit": {"was": 0, "becomes": 9}}]
    refused(other.owner.patch(f"/v1/ports/{port['id']}", {"in_kbit": 9}), 404, "not-found")
    refused(reader.patch(f"/v1/ports/{port['id']}", {"in_kbit": 9}), 403, "forbidden")
    older = f'"{port["generation"] + 7}.1"'
    answer = tenant.owner.patch(f"/v1/ports/{port['id']}", {"in_kbit": 9}, if_match=older)
    refused(answer, 412, "precondition-failed")
    tenant.owner.post("/v1/vms/a/hold", {"reason": "audit"}).ok()
    refused(tenant.owner.patch(f"/v1/ports/{port['id']}", {"in_kbit": 9}), 409, "conflict")
    assert tenant.owner.get(f"/v1/ports/{port['id']}").ok()["generation"] == port["generation"]
