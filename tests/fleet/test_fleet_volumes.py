"""Volumes and snapshots over HTTP, on fake disks whose journal says what is really there."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fleet.caller import Caller
from tests.fleet.installation import Installation, until
from tests.fleet.tenant import Tenant, refused


def disks(cloud: Installation) -> dict[str, dict[str, Any]]:
    """The fake pools' volumes by id."""
    return cloud.journal("volumes")


def done(reply: Any, status: int = 202) -> Any:
    assert reply.status == status, reply
    assert reply.body["operation"]["state"] == "done", reply
    return reply.body


def volume(owner: Caller, name: str, **body: Any) -> dict[str, Any]:
    made: dict[str, Any] = done(owner.post("/v1/volumes?wait=20", {"name": name, "size_gib": 2, **body}), 201)["volume"]
    return made


def test_a_volume_of_its_own_is_made_listed_and_removed(cloud: Installation, tenant: Tenant) -> None:
    owner = tenant.owner
    made = volume(owner, "data")
    assert (made["state"], made["vm_id"], made["status"]["size_gib"]) == ("ready", None, 2)
    assert disks(cloud)[made["id"]]["size_gib"] == 2
    assert "node_id" not in made
    assert [v["id"] for v in owner.list("/v1/volumes")] == [made["id"]]
    assert owner.get("/v1/volumes/data").ok()["id"] == made["id"]
    refused(owner.post("/v1/volumes", {"name": "data", "size_gib": 1}), 409, "name-taken")
    used = tenant.quota()
    assert (used["volumes"]["used"], used["disk_gib"]["used"]) == (1, 2)
    gone = done(owner.delete("/v1/volumes/data?wait=20"))
    assert gone["volume"]["state"] == "removed"
    assert made["id"] not in disks(cloud)
    used = tenant.quota()
    assert (used["volumes"]["used"], used["disk_gib"]["used"]) == (0, 0)
    assert until(lambda: cloud.sql("select state, proof from attachment where volume_id = $1", uuid(made["id"])))
    rows = cloud.sql(
        "select state, epoch, proof is not null as proven from attachment where volume_id = $1", uuid(made["id"])
    )
    assert sorted((r["epoch"], r["state"], r["proven"]) for r in rows) == [(1, "revoked", True), (2, "revoked", True)]


def uuid(typed: str) -> Any:
    from nubila.model.ids import KIND, parse

    return parse(KIND[typed.partition("-")[0]], typed)


def written(cloud: Installation, vm_id: str) -> dict[str, Any]:
    found: dict[str, Any] = cloud.domains()[vm_id]
    return found


def test_a_volume_goes_from_vm_to_vm_and_only_with_proof(cloud: Installation, tenant: Tenant) -> None:
    owner = tenant.owner
    a, b = tenant.running("a"), None
    made = volume(owner, "data", for_vm="a")
    for n in range(20):  # until one lands beside it
        b = tenant.running(f"b{n}")
        if b["host"] == a["host"]:
            break
    assert b is not None
    done(owner.post("/v1/volumes/data/attach?wait=20", {"vm": "a"}))
    assert made["id"] in cloud.domains()[a["id"]]["disks"]
    assert cloud.domains()[a["id"]]["disks"][made["id"]]["epoch"] == 2
    told = refused(owner.post("/v1/volumes/data/attach", {"vm": b["name"]}), 409, "conflict")
    assert "'a'" in told["detail"]
    told = refused(owner.delete("/v1/volumes/data"), 409, "in-use")
    assert [u["name"] for u in told["users"]["vm"]] == ["a"]
    with cloud.paused("agent"):
        waiting = owner.post("/v1/volumes/data/detach").ok()
        assert waiting["operation"]["state"] == "waiting"
        assert waiting["volume"]["detaching"]
        # The right stands until the node says that it ended: nobody else gets it, whatever is asked.
        refused(owner.post("/v1/volumes/data/attach", {"vm": b["name"]}), 409, "conflict")
        refused(owner.delete("/v1/volumes/data"), 409, "in-use")
    until(lambda: owner.get(f"/v1/operations/{waiting['operation']['id']}").ok()["state"] == "done")
    assert made["id"] not in cloud.domains()[a["id"]]["disks"]
    done(owner.post("/v1/volumes/data/attach?wait=20", {"vm": b["name"]}))
    assert cloud.domains()[b["id"]]["disks"][made["id"]]["epoch"] == 3
    rows = cloud.sql(
        "select epoch, state, proof->>'said' as said from attachment where volume_id = $1", uuid(made["id"])
    )
    assert {r["epoch"]: r["state"] for r in rows} == {1: "revoked", 2: "revoked", 3: "active"}
    assert all(r["said"] for r in rows if r["state"] == "revoked")
    done(owner.delete(f"/v1/vms/{b['name']}?wait=20"))
    assert made["id"] in disks(cloud)  # it outlives its vm
    assert owner.get("/v1/volumes/data").ok()["vm_id"] is None
    done(owner.delete("/v1/volumes/data?wait=20"))
    assert made["id"] not in disks(cloud)


def test_attached_to_a_stopped_vm_it_is_there_at_the_start(cloud: Installation, tenant: Tenant) -> None:
    owner = tenant.owner
    vm = tenant.create("a", wait=20, power="off")["vm"]
    made = volume(owner, "data", for_vm="a")
    done(owner.post("/v1/volumes/data/attach?wait=20", {"vm": "a"}))
    done(owner.post("/v1/vms/a/start?wait=20"))
    assert made["id"] in cloud.domains()[vm["id"]]["disks"]
    done(owner.post("/v1/vms/a/stop?wait=20", {"mode": "hard"}))
    done(owner.post("/v1/volumes/data/detach?wait=20"))
    done(owner.post("/v1/vms/a/start?wait=20"))
    assert made["id"] not in cloud.domains()[vm["id"]]["disks"]


@pytest.mark.parametrize("running", [True, False])
def test_resized_limited_and_only_larger(cloud: Installation, tenant: Tenant, running: bool) -> None:
    owner = tenant.owner
    vm = tenant.create("a", wait=20, power="on" if running else "off")["vm"]
    made = volume(owner, "data", for_vm="a")
    done(owner.post("/v1/volumes/data/attach?wait=20", {"vm": "a"}))
    grown = done(owner.patch("/v1/volumes/data?wait=20", {"size_gib": 5}))
    assert grown["volume"]["status"]["size_gib"] == 5
    assert disks(cloud)[made["id"]]["size_gib"] == 5
    assert (cloud.domains().get(vm["id"], {}).get("sizes") or {}).get(made["id"]) == (5 if running else None)
    assert tenant.quota()["disk_gib"]["used"] == 5 + vm_disk(owner)
    told = refused(owner.patch("/v1/volumes/data", {"size_gib": 4}), 422, "invalid")
    assert "5 GiB" in told["detail"]
    limits = {"write_iops": 100, "write_iops_burst": 200, "burst_s": 5}
    done(owner.patch("/v1/volumes/data?wait=20", {"limits": limits, "cache": "writeback"}))
    if running:
        held = cloud.domains()[vm["id"]]["disks"][made["id"]]
        assert held["limits"] == [0, 100, 0, 0, 0, 200, 0, 0, 5]
        assert held.get("cache", "default") == "default"  # another one only with the next start
        assert owner.get("/v1/volumes/data").ok()["status"]["cache"] == "default"
    refused(owner.patch("/v1/volumes/data", {"limits": {"read_iops_burst": 5}}), 422, "invalid")
    refused(owner.patch("/v1/volumes/data", {"limits": {"read_iops": 5, "nonsense": 1}}), 422, "invalid")


def vm_disk(owner: Caller) -> int:
    return sum(v["spec"]["size_gib"] for v in owner.list("/v1/volumes") if v["name"].startswith("a-root"))


def test_detached_it_is_resized_by_a_job_with_its_own_epoch(cloud: Installation, tenant: Tenant) -> None:
    owner = tenant.owner
    made = volume(owner, "data")
    tenant.create("a", wait=20, power="off")
    with cloud.paused("agent"):
        op = owner.patch("/v1/volumes/data", {"size_gib": 3}).ok()["operation"]
        told = refused(owner.post("/v1/volumes/data/roll-back", {"snapshot": "x"}), 422, "invalid")
        told = refused(owner.post("/v1/volumes/data/snapshots", {"name": "s"}), 409, "conflict")
        assert told["operation"] == op["id"]
        rows = cloud.sql(
            "select state, epoch, operation_id from attachment where volume_id = $1 order by epoch", uuid(made["id"])
        )
        assert [(r["epoch"], r["state"]) for r in rows] == [(1, "revoked"), (2, "active")]
        assert rows[1]["operation_id"] == uuid(op["id"])
        assert owner.post(f"/v1/operations/{op['id']}/cancel").ok()["cancelled"] == "no"
    until(lambda: owner.get(f"/v1/operations/{op['id']}").ok()["state"] == "done")
    assert disks(cloud)[made["id"]]["size_gib"] == 3


@pytest.mark.parametrize("attached", [True, False])
def test_snapshots_are_kept_listed_rolled_back_to_and_dropped(
    cloud: Installation, tenant: Tenant, attached: bool
) -> None:
    owner = tenant.owner
    tenant.running("a")
    made = volume(owner, "data", for_vm="a")
    if attached:
        done(owner.post("/v1/volumes/data/attach?wait=20", {"vm": "a"}))
    snap = done(owner.post("/v1/volumes/data/snapshots?wait=20", {"name": "s1"}), 201)["snapshot"]
    assert (snap["state"], snap["volume_id"]) == ("ready", made["id"])
    assert disks(cloud)[made["id"]]["snapshots"] == [snap["id"]]
    assert tenant.quota()["disk_gib"]["used"] == vm_disk(owner) + 4  # it may come to need as much again
    refused(owner.post("/v1/volumes/data/snapshots", {"name": "s1"}), 409, "name-taken")
    assert [s["name"] for s in owner.list("/v1/snapshots")] == ["s1"]
    if attached:
        refused(owner.post("/v1/volumes/data/roll-back", {"snapshot": "s1"}), 409, "conflict")
        done(owner.post("/v1/vms/a/stop?wait=20", {"mode": "hard"}))
    done(owner.post("/v1/volumes/data/roll-back?wait=20", {"snapshot": "s1"}))
    assert owner.get("/v1/volumes/data").ok()["status"]["rollbacks"] > 0
    told = refused(owner.delete("/v1/volumes/data"), 409, "in-use")
    assert [u["name"] for u in told["users"]["snapshot"]] == ["s1"]
    gone = done(owner.delete("/v1/snapshots/s1?wait=20"))
    assert gone["snapshot"]["state"] == "removed"
    assert disks(cloud)[made["id"]]["snapshots"] == []
    assert tenant.quota()["disk_gib"]["used"] == vm_disk(owner) + 2


def test_raw_volumes_have_no_snapshots_and_the_api_says_why(tenant: Tenant) -> None:
    volume(tenant.owner, "data", format="raw")
    told = refused(tenant.owner.post("/v1/volumes/data/snapshots", {"name": "s"}), 422, "unsupported")
    assert "raw" in told["detail"]
    assert tenant.owner.list("/v1/snapshots") == []


@pytest.mark.parametrize("attached", [True, False])
def test_a_copy_is_made_beside_its_source(cloud: Installation, tenant: Tenant, attached: bool) -> None:
    owner = tenant.owner
    tenant.running("a")
    source = volume(owner, "data", for_vm="a")
    if attached:
        done(owner.post("/v1/volumes/data/attach?wait=20", {"vm": "a"}))
    refused(owner.post("/v1/volumes", {"name": "small", "source": "data", "size_gib": 1}), 422, "invalid")
    copy = done(owner.post("/v1/volumes?wait=20", {"name": "copy", "source": "data"}), 201)["volume"]
    assert (copy["spec"]["size_gib"], copy["host"]) == (2, source["host"])
    assert disks(cloud)[copy["id"]]["size_gib"] == 2
    done(owner.delete("/v1/volumes/copy?wait=20"))


def test_the_boot_disk_stays_with_its_vm(tenant: Tenant) -> None:
    tenant.running("a")
    root = tenant.owner.list("/v1/volumes")[0]
    told = refused(tenant.owner.post(f"/v1/volumes/{root['id']}/detach"), 409, "conflict")
    assert "boots from" in told["detail"]
    refused(tenant.owner.delete(f"/v1/volumes/{root['id']}"), 409, "in-use")


def test_volumes_of_others_are_as_absent(cloud: Installation, tenant: Tenant) -> None:
    other = Tenant(cloud)
    made = volume(other.owner, "data")
    done(other.owner.post("/v1/volumes/data/snapshots?wait=20", {"name": "s"}), 201)
    snap = other.owner.get("/v1/snapshots/s").ok()["id"]
    owner = tenant.owner
    vm = tenant.running("a")
    for method, path, body in (
        ("GET", f"/v1/volumes/{made['id']}", None), ("PATCH", f"/v1/volumes/{made['id']}", {"size_gib": 9}),
        ("DELETE", f"/v1/volumes/{made['id']}", None), ("POST", f"/v1/volumes/{made['id']}/attach", {"vm": "a"}),
        ("POST", f"/v1/volumes/{made['id']}/detach", None), ("POST", f"/v1/volumes/{made['id']}/snapshots", {"name": "x"}),
        ("POST", f"/v1/volumes/{made['id']}/roll-back", {"snapshot": snap}), ("GET", f"/v1/snapshots/{snap}", None),
        ("DELETE", f"/v1/snapshots/{snap}", None),
    ):  # fmt: skip
        refused(owner.call(method, path, body), 404, "not-found")
    refused(owner.post("/v1/volumes", {"name": "copy", "source": made["id"]}), 422, "invalid")
    refused(other.owner.post("/v1/volumes/data/attach", {"vm": vm["id"]}), 422, "invalid")
    mine = volume(owner, "mine")
    refused(owner.post(f"/v1/volumes/{mine['id']}/roll-back", {"snapshot": snap}), 422, "invalid")


def test_what_cannot_be_done_says_so_and_is_cancelled(cloud: Installation, tenant: Tenant) -> None:
    owner = tenant.owner
    with cloud.paused("agent"):
        made = owner.post("/v1/volumes", {"name": "data", "size_gib": 1}).ok()
        why = owner.get(f"/v1/operations/{made['operation']['id']}/why").ok()
        assert "wait" in why["summary"].lower()
        assert why["can_cancel"]
        early = refused(owner.patch("/v1/volumes/data", {"size_gib": 2}), 409, "conflict")
        assert (early["state"], early["operation"]) == ("pending", made["operation"]["id"])
        answer = owner.post(f"/v1/operations/{made['operation']['id']}/cancel").ok()
        assert (answer["cancelled"], answer["operation"]["state"]) == ("yes", "cancelled")
    until(lambda: owner.get("/v1/volumes/data").status == 404)
    assert made["volume"]["id"] not in disks(cloud)
    assert tenant.quota()["volumes"]["used"] == 0


def test_a_plan_of_a_volume_is_applied_as_shown(cloud: Installation, tenant: Tenant) -> None:
    owner = tenant.owner
    plan = owner.post("/v1/volumes?plan=1", {"name": "data", "size_gib": 2}).ok()
    assert [(e["action"], e["kind"], e["details"]["size_gib"]) for e in plan["effects"]] == [("create", "volume", 2)]
    assert owner.list("/v1/volumes") == []
    applied = owner.post(f"/v1/plans/{plan['id']}/apply?wait=20").ok()
    assert applied["volume"]["id"] == plan["answer"]["volume"]
    assert applied["operation"]["state"] == "done"
    tenant.running("a")
    near = volume(owner, "near", for_vm="a")
    plan = owner.post("/v1/volumes/near/attach?plan=1", {"vm": "a"}).ok()
    assert plan["effects"][0]["details"]["when"] == "now"
    assert near["id"] in disks(cloud)
    owner.post(f"/v1/plans/{plan['id']}/apply?wait=20").ok()
    assert owner.get("/v1/volumes/near").ok()["vm"] == "a"


def test_with_a_vm_go_the_snapshots_of_its_disk_and_what_was_asked_of_its_volumes(
    cloud: Installation, tenant: Tenant
) -> None:
    owner = tenant.owner
    a = tenant.running("a")
    root = next(v for v in owner.list("/v1/volumes") if v["vm_id"] == a["id"])
    kept = volume(owner, "kept", for_vm="a")
    done(owner.post("/v1/volumes/kept/attach?wait=20", {"vm": "a"}))
    done(owner.post("/v1/volumes/kept/snapshots?wait=20", {"name": "of-kept"}), 201)
    done(owner.post(f"/v1/volumes/{root['id']}/snapshots?wait=20", {"name": "of-root"}), 201)
    with cloud.paused("agent"):
        growing = owner.patch(f"/v1/volumes/{root['id']}", {"size_gib": root["spec"]["size_gib"] + 1}).ok()
        leaving = owner.post("/v1/volumes/kept/detach").ok()
        gone = owner.delete("/v1/vms/a").ok()
    ended = {o: owner.get(f"/v1/operations/{r['operation']['id']}?wait=20").ok() for o, r in
             {"grow": growing, "detach": leaving, "remove": gone}.items()}  # fmt: skip
    assert {o: e["state"] for o, e in ended.items()} == {"grow": "overtaken", "detach": "done", "remove": "done"}
    assert [s["name"] for s in owner.list("/v1/snapshots")] == ["of-kept"]
    used = tenant.quota()
    assert used["disk_gib"]["used"] == 2 * kept["spec"]["size_gib"]
    done(owner.delete("/v1/snapshots/of-kept?wait=20"))
    done(owner.delete("/v1/volumes/kept?wait=20"))
    assert tenant.quota()["disk_gib"]["used"] == 0


def test_a_detach_overtakes_the_attach_that_nobody_carried_out(cloud: Installation, tenant: Tenant) -> None:
    owner = tenant.owner
    tenant.running("a")
    volume(owner, "data", for_vm="a")
    with cloud.paused("agent"):
        attaching = owner.post("/v1/volumes/data/attach", {"vm": "a"}).ok()
        leaving = owner.post("/v1/volumes/data/detach").ok()
    assert owner.get(f"/v1/operations/{leaving['operation']['id']}?wait=20").ok()["state"] == "done"
    assert owner.get(f"/v1/operations/{attaching['operation']['id']}").ok()["state"] == "overtaken"
