"""Creating under load and over limits: exact quotas, exact capacity, distinct addresses, refusals with numbers."""

from __future__ import annotations

import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

from tests.fleet.caller import Reply
from tests.fleet.installation import Installation
from tests.fleet.tenant import Tenant, refused


def parallel_creates(tenant: Tenant, count: int, **more: object) -> list[Reply]:
    """So many creates at once, half of them through each API process."""
    fronts = tenant.fronts()

    def one(n: int) -> Reply:
        return fronts[n % 2].post("/v1/vms", tenant.wish(f"v{n}", **more))

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def assert_capacity_holds(cloud: Installation) -> None:
    """No node promised more than it has, and what it counts as used is what is allocated."""
    for row in cloud.sql(
        """select i.node_id, i.class, i.used, i.total - i.reserved as free, coalesce(sum(a.amount), 0) as allocated
             from inventory i left join allocation a on a.node_id = i.node_id and a.class = i.class group by 1, 2, 3, 4"""
    ):
        assert row["allocated"] == row["used"] <= row["free"], row


def test_s4_200_parallel_creates_at_quota_make_exactly_that_many(cloud: Installation) -> None:
    limit = 120
    tenant = Tenant(cloud, cidr="10.9.0.0/24", quota={"vms": limit})
    replies = parallel_creates(tenant, 200)
    assert Counter(r.status for r in replies) == {201: limit, 403: 200 - limit}
    for reply in replies:
        if reply.status == 403:
            told = refused(reply, 403, "quota-exceeded")["quota"]
            assert (told["class"], told["limit"], told["asked"]) == ("vms", limit, 1)
    vms = tenant.all_running(limit)
    addresses = [a for v in vms for a in v["addresses"]]
    assert len(addresses) == len(set(addresses)) == 2 * limit  # one of each family
    assert len([a for a in addresses if a.startswith("10.9.0.")]) == limit
    quota = tenant.quota()
    assert {c: quota[c]["used"] for c in ("vms", "cores", "memory_mib", "volumes", "disk_gib")} == {
        "vms": limit, "cores": limit, "memory_mib": 128 * limit, "volumes": limit, "disk_gib": limit,
    }  # fmt: skip
    assert_capacity_holds(cloud)
    domains = cloud.domains()
    assert all(domains[v["id"]]["running"] and domains[v["id"]]["boots"] == 1 for v in vms)
    tenant.owner.delete("/v1/vms/" + vms[0]["id"] + "?wait=20").ok()
    assert tenant.owner.post("/v1/vms", tenant.wish("again")).status == 201  # what was given back can be used again


def test_s4_parallel_creates_at_the_end_of_capacity_make_exactly_what_fits(cloud: Installation) -> None:
    fits, asked = 30, 60
    operator = cloud.operator()
    nodes = operator.list("/v1/nodes")
    for n, node in enumerate(nodes):
        inventory = node["inventory"]["memory_mib"]
        left = 128 * fits + 100 if n == 0 else 0
        body = {"reserved_memory_mib": inventory["total"] - inventory["used"] - left}
        operator.patch(f"/v1/nodes/{node['id']}", body).ok()
    try:
        tenant = Tenant(cloud)
        replies = parallel_creates(tenant, asked)
        assert Counter(r.status for r in replies) == {201: fits, 507: asked - fits}
        for reply in replies:
            if reply.status == 507:
                assert refused(reply, 507, "no-capacity")["would_fit"] == {"memory_mib": 100}
        assert_capacity_holds(cloud)
        tenant.all_running(fits)
    finally:
        for node in nodes:
            operator.patch(f"/v1/nodes/{node['id']}", {"reserved_memory_mib": 1024}).ok()
    assert tenant.owner.post("/v1/vms", tenant.wish("later")).status == 201


def changes(cloud: Installation, cursor: str) -> list[dict[str, object]]:
    items: list[dict[str, object]] = cloud.operator().get(f"/v1/changes?after={cursor}&limit=1000").ok()["items"]
    return items


def test_s3_a_plan_shows_its_effects_writes_nothing_and_apply_makes_exactly_that(
    cloud: Installation, tenant: Tenant
) -> None:
    owner = tenant.owner
    with cloud.nothing_written() as cursor:
        plan = owner.post("/v1/vms?plan=1", tenant.wish("a")).ok()
        assert changes(cloud, cursor) == []
    by_kind = {e["kind"]: e for e in plan["effects"]}
    assert {e["action"] for e in plan["effects"]} == {"create"}
    assert by_kind["volume"]["details"]["size_gib"] == 1
    assert len(by_kind["port"]["details"]["addresses"]) == 2
    assert plan["quota_left"]["vms"] == {"limit": 1000, "used": 0, "after": 999}
    assert owner.get(f"/v1/plans/{plan['id']}").ok()["effects"] == plan["effects"]
    assert "node" not in json.dumps(plan)  # a tenant's plan

    made = owner.post(f"/v1/plans/{plan['id']}/apply?wait=20")
    assert made.status == 201, made
    vm = made.body["vm"]
    assert (vm["id"], vm["name"], vm["state"]) == (by_kind["vm"]["id"], "a", "running")
    assert sorted(vm["addresses"]) == sorted(by_kind["port"]["details"]["addresses"])
    assert [v["id"] for v in owner.list("/v1/volumes")] == [by_kind["volume"]["id"]]
    assert [(p["id"], p["mac"]) for p in owner.list("/v1/ports")] == [
        (by_kind["port"]["id"], by_kind["port"]["details"]["mac"])
    ]
    assert {c["id"] for c in changes(cloud, cursor) if c["action"] == "insert" and c["kind"] == "vm"} == {vm["id"]}
    refused(owner.post(f"/v1/plans/{plan['id']}/apply"), 404, "not-found")
    assert len(owner.list("/v1/vms")) == 1


def test_s3_after_another_change_apply_answers_was_and_is_now(cloud: Installation, tenant: Tenant) -> None:
    plan = tenant.owner.post("/v1/vms?plan=1", tenant.wish("a")).ok()
    cloud.operator().patch(f"/v1/projects/{tenant.name}", {"description": "other"}).ok()
    told = refused(tenant.owner.post(f"/v1/plans/{plan['id']}/apply"), 409, "stale")
    assert told["changed"] == [{"kind": "project", "id": tenant.id, "was": 1, "is_now": 2}]
    assert tenant.owner.list("/v1/vms") == []
    plan = tenant.owner.post("/v1/vms?plan=1", tenant.wish("a")).ok()
    assert tenant.owner.post(f"/v1/plans/{plan['id']}/apply").status == 201


def test_s3_a_plan_open_for_10_s_delays_no_create(tenant: Tenant) -> None:
    def timed(name: str) -> float:
        begin = time.monotonic()
        tenant.create(name)
        return time.monotonic() - begin

    timed("warm")
    without = [timed(f"a{n}") for n in range(15)]
    plan = tenant.owner.post("/v1/vms?plan=1", tenant.wish("planned")).ok()
    opened = time.monotonic()
    beside: list[float] = []
    while time.monotonic() - opened < 10:
        beside.append(timed(f"b{len(beside)}"))
        time.sleep(0.6)
    assert median(beside) < 3 * median(without) + 0.05, (beside, without)
    assert max(beside) < max(3.0, 5 * max(without))
    assert tenant.owner.post(f"/v1/plans/{plan['id']}/apply").status == 201


def test_s5_a_vm_too_big_is_refused_at_once_with_the_numbers(cloud: Installation, tenant: Tenant) -> None:
    operator = cloud.operator()
    huge: dict[str, Any] = {"name": f"huge-{tenant.name}", "cores": 1, "memory_mib": 16 << 20, "disk_gib": 1}
    operator.post("/v1/flavors", huge).ok()
    begin = time.monotonic()
    reply = tenant.owner.post("/v1/vms?wait=30", tenant.wish("big", flavor=huge["name"]))
    assert time.monotonic() - begin < 2
    told = refused(reply, 507, "no-capacity")
    short = int(told["short_of"]["memory"].split()[0])
    assert told["would_fit"] == {"memory_mib": huge["memory_mib"] - short}
    assert str(short) in told["detail"]
    nodes = operator.list("/v1/nodes")
    for secret in [n["name"] for n in nodes] + [n["id"] for n in nodes] + ["refusal", '"nodes"']:
        assert secret not in reply.raw.decode()
    assert tenant.owner.list("/v1/vms") == []
    kept = operator.get("/v1/decisions?refused=true&limit=1").ok()["items"][0]
    assert (kept["project"], kept["vm_id"], kept["node"]) == (tenant.name, None, None)
    assert kept["refusal"]["nearest"]["short"] == told["short_of"]

    fitting = {**huge, "name": f"fits-{tenant.name}", **told["would_fit"]}
    operator.post("/v1/flavors", fitting).ok()
    vm = tenant.running("big", flavor=fitting["name"])
    seen = tenant.owner.get(f"/v1/vms/{vm['id']}/placement")
    assert not any(n["name"] in seen.raw.decode() for n in nodes)
    assert set(seen.ok()["request"]) >= {"cores", "memory_mib", "disk_gib"}
    whole = operator.get(f"/v1/vms/{vm['id']}/placement").ok()
    assert whole["nodes"] == len(nodes)
    assert whole["ranking"][0]["node"] in [n["name"] for n in nodes]
    newest = operator.get("/v1/decisions?limit=2").ok()["items"]
    assert [(d["project"], d["vm_id"], d["node"]) for d in newest] == [
        (tenant.name, vm["id"], whole["ranking"][0]["node"]),
        (tenant.name, None, None),
    ]
    assert newest[0]["ranking"] == whole["ranking"]
    assert operator.get("/v1/decisions?limit=1&refused=false").ok()["items"] == newest[:1]
    following = operator.get("/v1/decisions?limit=1").ok()["next"]
    assert operator.get(following).ok()["items"] == newest[1:]
    tenant.owner.delete("/v1/vms/big?wait=20").ok()
