"""Images made from volumes and vms' disks over HTTP: what the store then has are the bytes that the fake disk had.

Also how it is ended: by a cancel, by removing the image or the volume, by a store that refuses; and who may send.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from nubila.drivers.storage import qcow2
from tests.fleet.caller import Caller
from tests.fleet.installation import Installation, until
from tests.fleet.tenant import Tenant, refused
from tests.fleet.test_fleet_volumes import done, uuid, volume

BYTES = b"nothing was written"  # what the fake says of a disk in which nobody wrote


def exports(cloud: Installation) -> set[str]:
    """The copies on their way."""
    return set(cloud.journal("volumes.exports"))


def stored(cloud: Installation) -> set[str]:
    return {p.name for p in cloud.settings.image_dir.iterdir() if p.is_file()}


def image(owner: Caller, wait: float = 20, **body: Any) -> Any:
    return owner.post(f"/v1/images?wait={wait}", {"name": "i", "format": "raw", **body})


def wished(owner: Caller, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = owner.get(f"/v1/volumes/{name}").ok()["spec"]["exports"]
    return found


@pytest.mark.parametrize(("format_", "content"), [("raw", BYTES), ("qcow2", qcow2.empty(2 << 30) + BYTES)])
def test_an_image_of_a_volume_has_its_bytes(cloud: Installation, tenant: Tenant, format_: str, content: bytes) -> None:
    owner = tenant.owner
    made = volume(owner, "data")
    answer = done(image(owner, volume="data", format=format_), 201)
    row = owner.get("/v1/images/i").ok()
    assert (row["state"], row["spec"]["origin"], row["spec"]["volume_id"]) == ("ready", "volume", made["id"])
    assert row["sha256"] == hashlib.sha256(content).hexdigest()
    assert owner.send("GET", "/v1/images/i/content").raw == content
    assert answer["operation"]["resource_id"] == row["id"]
    assert tenant.quota()["images"]["used"] == 1
    until(lambda: not exports(cloud), why="the copy is removed")
    assert wished(owner, "data") == []
    done(owner.delete("/v1/volumes/data?wait=20"))  # the image stands alone
    assert tenant.running("v", image="i")["state"] == "running"


def test_an_image_of_a_vm_is_of_its_boot_disk_while_it_runs_and_the_plan_says_so(
    cloud: Installation, tenant: Tenant
) -> None:
    owner = tenant.owner
    vm = tenant.running("v")
    body = {"name": "i", "format": "raw", "vm": "v"}
    plan = owner.post("/v1/images?plan=1", body).ok()
    assert "power cut" in json.dumps(plan)
    assert "'v'" in json.dumps(plan)
    boot = next(v["id"] for v in owner.list("/v1/volumes") if v["vm_id"] == vm["id"])
    done(owner.post(f"/v1/plans/{plan['id']}/apply?wait=20"), 201)
    assert owner.get("/v1/images/i").ok()["spec"]["volume_id"] == boot
    # made by its vm's lane a moment ago, it is nobody's loss that its own lane has not seen it yet
    past = cloud.sql(
        "select content->>'state' as state from change where kind = 'volume' and object_id = $1 order by xid, seq",
        uuid(boot),
    )
    assert past[0]["state"] == "pending"
    assert {r["state"] for r in past} == {"pending", "ready"}
    done(owner.post("/v1/vms/v/stop?wait=20", {"mode": "hard"}))
    plan = owner.post("/v1/images?plan=1", {**body, "name": "j"}).ok()
    assert "nothing writes them" in json.dumps(plan)
    done(image(owner, name="j", vm="v"), 201)


def test_a_wrong_wish_is_refused_and_changes_nothing(cloud: Installation, tenant: Tenant) -> None:
    owner = tenant.owner
    volume(owner, "data")
    before = tenant.quota()
    for body, status in (
        ({"volume": "absent"}, 422),
        ({"vm": "absent"}, 422),
        ({"volume": "data", "vm": "v"}, 422),
        ({"volume": "data", "url": "http://x/y"}, 422),
        ({"volume": "data", "sha256": "0" * 64}, 422),
        ({"volume": "data", "format": "iso"}, 422),
        ({"volume": "data", "public": True}, 403),
    ):
        assert image(owner, **body).status == status, body
    assert cloud.operator().post("/v1/images", {"name": "o", "format": "raw", "volume": "data"}).status in (403, 422)
    other = Tenant(cloud)
    assert image(other.owner, volume=owner.get("/v1/volumes/data").ok()["id"]).status == 422
    assert tenant.quota() == before
    assert [i["name"] for i in owner.list("/v1/images")] == ["mini"]


@pytest.mark.parametrize("how", ["cancel", "remove-image"])
def test_what_is_given_up_leaves_nothing(cloud: Installation, tenant: Tenant, how: str) -> None:
    owner = tenant.owner
    volume(owner, "data")
    before = stored(cloud)
    with cloud.paused("agent"):
        answer = image(owner, wait=0, volume="data").ok()
        assert [e["image_id"] for e in wished(owner, "data")] == [answer["image"]["id"]]
        told = refused(owner.delete("/v1/volumes/data"), 409, "in-use")
        assert [u["id"] for u in told["users"]["image"]] == [answer["image"]["id"]]
        if how == "cancel":
            assert owner.post(f"/v1/operations/{answer['operation']['id']}/cancel").ok()["cancelled"] == "yes"
            assert owner.get("/v1/images/i").ok()["state"] == "failed"
        else:
            owner.delete("/v1/images/i").ok()
        assert wished(owner, "data") == []
    assert owner.get(f"/v1/operations/{answer['operation']['id']}").ok()["state"] in ("cancelled", "overtaken")
    if how == "cancel":
        owner.delete("/v1/images/i").ok()
    until(lambda: not exports(cloud), why="nothing is left on the host")
    assert stored(cloud) == before
    assert tenant.quota()["images"]["used"] == 0
    done(owner.delete("/v1/volumes/data?wait=20"))


def test_an_image_of_a_vm_that_is_removed_meanwhile_fails_with_the_reason(cloud: Installation, tenant: Tenant) -> None:
    owner = tenant.owner
    tenant.running("v")
    with cloud.paused("agent"):
        answer = image(owner, wait=0, vm="v").ok()
        owner.delete("/v1/vms/v").ok()
        row = until(lambda: (r := owner.get("/v1/images/i").ok())["state"] == "failed" and r, 30)
        assert "removed" in row["status"]["reason"]
    assert owner.get(f"/v1/operations/{answer['operation']['id']}").ok()["state"] == "cancelled"
    until(lambda: not owner.list("/v1/vms"))


def test_only_the_volumes_own_node_may_send(cloud: Installation, tenant: Tenant) -> None:
    """Users cannot bring the content either: it would be another's than the volume's."""
    owner = tenant.owner
    volume(owner, "data")
    with cloud.paused("agent"):
        answer = image(owner, wait=0, volume="data").ok()
        refused(owner.put_bytes("/v1/images/i/content", b"evil"), 409, "conflict")
        path = f"/internal/v1/images/{answer['image']['id']}/upload"
        assert cloud.caller("internal").get(path).status == 401
    until(lambda: owner.get("/v1/images/i").ok()["state"] == "ready")
    assert owner.get("/v1/images/i").ok()["sha256"] == hashlib.sha256(BYTES).hexdigest()


def test_the_control_plane_may_die_while_it_takes_the_bytes(fragile: Installation) -> None:
    tenant = Tenant(fragile)
    owner = tenant.owner
    volume(owner, "data")
    fragile.kill("core")
    try:
        answer = image(owner, wait=0, volume="data").ok()
    finally:
        fragile.start("core")
    until(lambda: owner.get(f"/v1/operations/{answer['operation']['id']}").ok()["state"] == "done", 30)
    assert owner.get("/v1/images/i").ok()["sha256"] == hashlib.sha256(BYTES).hexdigest()
