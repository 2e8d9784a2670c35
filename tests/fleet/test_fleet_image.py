"""Images over HTTP: uploads that go on where they broke off, one writer, checks at the end, sharing, removal.

What is looked at is the store's directory and what other clients and nodes get, not only what the API says.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from tests.fleet.image_client import Slow, part, small_iso, small_qcow2, upload
from tests.fleet.installation import Installation, until
from tests.fleet.tenant import Tenant, refused


def stored(cloud: Installation) -> set[str]:
    """The names in the image store: whole contents only."""
    return {p.name for p in cloud.settings.image_dir.iterdir() if p.is_file()}


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_an_upload_cut_at_half_way_resumes(cloud: Installation, tenant: Tenant) -> None:
    content = os.urandom(6 << 20)
    before = stored(cloud)
    body = {"name": "i", "format": "raw", "size_bytes": len(content), "sha256": digest(content)}
    made = tenant.owner.post("/v1/images", body).ok()
    assert (made["state"], made["project_id"], made["spec"]["public"]) == ("pending", tenant.id, False)
    slow = Slow(tenant.owner, "i", len(content))
    slow.send(content[: 3 << 20])
    until(lambda: tenant.owner.get("/v1/images/i/upload").ok()["received_bytes"] >= 2 << 20, why="half of it came")
    slow.cut()
    # another process of the control plane says what came, and takes the rest
    second = tenant.at("front2")

    def free() -> int | None:
        here: int = second.get("/v1/images/i/upload").ok()["received_bytes"]
        reply = part(second, "i", b"", here, len(content))
        return here if reply.status == 202 else None

    here = until(free, why="the broken writer is gone")
    assert 2 << 20 <= here <= 3 << 20
    assert stored(cloud) == before  # nothing half is seen
    wrong = refused(part(second, "i", content[here + 1 :], here + 1, len(content)), 409, "conflict")
    assert wrong["received_bytes"] == here
    done = part(second, "i", content[here:], here, len(content)).ok()
    assert (done["state"], done["sha256"]) == ("ready", digest(content))
    assert stored(cloud) - before == {digest(content)}
    got = tenant.owner.send("GET", "/v1/images/i/content")
    assert (got.status, got.headers["x-sha256"], got.raw) == (200, digest(content), content)
    assert tenant.quota()["images"]["used"] == 1
    tenant.owner.delete("/v1/images/i").ok()
    assert stored(cloud) == before
    assert tenant.quota()["images"]["used"] == 0


def test_a_second_writer_is_refused(cloud: Installation, tenant: Tenant) -> None:
    content = os.urandom(2 << 20)
    tenant.owner.post("/v1/images", {"name": "i", "format": "raw"}).ok()
    slow = Slow(tenant.owner, "i", len(content))
    slow.send(content[: 1 << 20])
    for caller in tenant.fronts():
        until(lambda c=caller: part(c, "i", b"evil", 0, 4).status == 409)
        refused(part(caller, "i", b"evil", 0, 4), 409, "conflict")
        refused(caller.put_bytes("/v1/images/i/content", b"evil"), 409, "conflict")
    slow.send(content[1 << 20 :])
    assert b"200 OK" in slow.answer()
    assert tenant.owner.get("/v1/images/i").ok()["sha256"] == digest(content)
    refused(part(tenant.owner, "i", b"evil", 0, 4), 409, "conflict")


@pytest.mark.parametrize(
    ("what", "announced"),
    [("sha256", {"sha256": "0" * 64}), ("bytes", {"size_bytes": 5}), ("size_bytes", {"size_bytes": 3})],
)
def test_what_was_announced_is_held_to(
    cloud: Installation, tenant: Tenant, what: str, announced: dict[str, object]
) -> None:
    before = stored(cloud)
    tenant.owner.post("/v1/images", {"name": "i", "format": "raw", **announced}).ok()
    problem = refused(part(tenant.owner, "i", b"four", 0, 4), 422, "invalid")
    assert what.lower() in problem["detail"].lower().replace("sha-256", "sha256")
    refused(tenant.owner.put_bytes("/v1/images/i/content", b"four"), 422, "invalid")
    assert tenant.owner.get("/v1/images/i").ok()["state"] == "pending"
    assert tenant.owner.get("/v1/images/i/upload").ok()["received_bytes"] == 0
    assert stored(cloud) == before


@pytest.mark.parametrize(
    ("declared", "content", "good"),
    [
        ("raw", b"anything", True),
        ("raw", small_qcow2(backing="/etc/shadow"), True),  # it stays data: nobody looks for a header in there
        ("qcow2", small_qcow2(), True),
        ("qcow2", b"x" * 65536, False),
        ("qcow2", small_qcow2(backing="/etc/shadow"), False),
        ("iso", small_iso(), True),
        ("iso", small_iso()[:-2048], False),
        ("iso", small_qcow2(), False),
        ("qcow2", small_iso(), False),
    ],
    ids=lambda v: v if isinstance(v, str) else None,
)
def test_the_format_is_stated_and_checked(
    cloud: Installation, tenant: Tenant, declared: str, content: bytes, good: bool
) -> None:
    content += os.urandom(16) if declared == "raw" else b""
    before = stored(cloud)
    tenant.owner.post("/v1/images", {"name": "i", "format": declared}).ok()
    reply = part(tenant.owner, "i", content, 0, len(content))
    if good:
        assert reply.ok()["state"] == "ready"
        assert digest(content) in stored(cloud)
        tenant.owner.delete("/v1/images/i").ok()
    else:
        refused(reply, 422, "invalid")
        refused(tenant.owner.put_bytes("/v1/images/i/content", content), 422, "invalid")
    assert stored(cloud) == before


def test_no_disk_is_made_from_an_iso(cloud: Installation, tenant: Tenant) -> None:
    tenant.owner.post("/v1/images", {"name": "cd", "format": "iso"}).ok()
    upload(tenant.owner, "cd", small_iso())
    assert tenant.owner.get("/v1/images/cd").ok()["spec"]["min_disk_gib"] == 0
    assert "ISO" in refused(tenant.owner.post("/v1/vms", tenant.wish("a", image="cd")), 422, "invalid")["detail"]


def test_a19_a_disk_larger_than_any_may_be_is_refused(cloud: Installation, tenant: Tenant) -> None:
    tenant.owner.post("/v1/images", {"name": "bomb", "format": "qcow2"}).ok()
    content = small_qcow2(16 << 40)
    assert len(content) < 1 << 20
    problem = refused(part(tenant.owner, "bomb", content, 0, len(content)), 422, "invalid")
    assert "16384 GiB" in problem["detail"]
    # one that may be is too large for the quota, and is refused before a node hears of it
    tenant.owner.post("/v1/images", {"name": "large", "format": "qcow2"}).ok()
    upload(tenant.owner, "large", small_qcow2(3 << 40))
    cloud.operator().put(f"/v1/projects/{tenant.name}/quota", {"quota": {"disk_gib": 100}}).ok()
    refused(tenant.owner.post("/v1/vms", tenant.wish("a", image="large")), 403, "quota-exceeded")


def test_the_same_bytes_are_kept_once_and_until_the_last_image(cloud: Installation, tenant: Tenant) -> None:
    content, other = os.urandom(4096), Tenant(cloud)
    for owner in (tenant.owner, other.owner):
        owner.post("/v1/images", {"name": "i", "format": "raw"}).ok()
        upload(owner, "i", content)
    assert digest(content) in stored(cloud)
    tenant.owner.delete("/v1/images/i").ok()
    assert other.owner.send("GET", "/v1/images/i/content").raw == content
    other.owner.delete("/v1/images/i").ok()
    assert digest(content) not in stored(cloud)


def test_a_pending_upload_leaves_nothing_when_its_image_is_deleted(cloud: Installation, tenant: Tenant) -> None:
    made = tenant.owner.post("/v1/images", {"name": "i", "format": "raw"}).ok()
    part(tenant.owner, "i", b"half", 0, 8).ok()
    file = cloud.settings.image_dir / "uploads" / made["id"]
    assert file.read_bytes() == b"half"
    tenant.owner.delete("/v1/images/i").ok()
    assert not file.exists()


# --- who may use one


def test_a_shared_image_is_used_by_chosen_projects_only(cloud: Installation, tenant: Tenant) -> None:
    friend, stranger = Tenant(cloud), Tenant(cloud)
    made = tenant.owner.post("/v1/images", {"name": f"mine-{tenant.name}", "format": "raw"}).ok()
    image_id, name = made["id"], made["name"]
    upload(tenant.owner, image_id, os.urandom(4096))
    address = f"/v1/images/{image_id}/shares/{friend.id}"
    refused(friend.owner.get(f"/v1/images/{image_id}"), 404, "not-found")
    plan = tenant.owner.put(f"{address}?plan=1", {}).ok()
    assert [(e["action"], e["kind"]) for e in plan["effects"]] == [("create", "share")]
    refused(friend.owner.get(f"/v1/images/{image_id}"), 404, "not-found")
    shares = tenant.owner.put(address, {}).ok()["shares"]
    assert shares == [{"project_id": friend.id, "right": "use"}]
    assert tenant.owner.put(address, {}).ok()["shares"] == shares
    assert image_id in [i["id"] for i in friend.owner.list("/v1/images")]
    assert friend.owner.post("/v1/vms?wait=20", friend.wish("a", image=image_id)).ok()["operation"]["state"] == "done"
    # a name does not find it: whoever shares could otherwise choose what a name means elsewhere
    refused(friend.owner.get(f"/v1/images/{name}"), 404, "not-found")
    refused(friend.owner.post("/v1/vms", friend.wish("b", image=name)), 422, "invalid")
    # the friend uses it, and no more than that
    for reply in (
        friend.owner.delete(f"/v1/images/{image_id}"),
        friend.owner.put(f"/v1/images/{image_id}/shares/{stranger.id}", {}),
        friend.owner.get(f"/v1/images/{image_id}/shares"),
        friend.owner.put_bytes(f"/v1/images/{image_id}/content", b"evil"),
    ):
        refused(reply, 403, "forbidden")
    refused(stranger.owner.get(f"/v1/images/{image_id}"), 404, "not-found")
    assert image_id not in [i["id"] for i in stranger.owner.list("/v1/images")]
    refused(stranger.owner.post("/v1/vms", stranger.wish("a", image=image_id)), 422, "invalid")
    refused(
        tenant.owner.put(f"/v1/images/{image_id}/shares/{stranger.name}", {}), 404, "not-found"
    )  # no trying of names
    # no longer: what was made stays
    tenant.owner.delete(address).ok()
    assert tenant.owner.delete(address).ok()["shares"] == []
    refused(friend.owner.get(f"/v1/images/{image_id}"), 404, "not-found")
    refused(friend.owner.post("/v1/vms", friend.wish("b", image=image_id)), 422, "invalid")
    assert friend.vm("a")["state"] == "running"


def test_an_operators_image_is_public_or_shared(cloud: Installation, tenant: Tenant) -> None:
    operator, stranger = cloud.operator(), Tenant(cloud)
    name = f"op-{tenant.name}"
    operator.post("/v1/images", {"name": name, "format": "raw", "public": False}).ok()
    upload(operator, name, os.urandom(512))
    refused(tenant.owner.get(f"/v1/images/{name}"), 404, "not-found")
    shares = operator.put(f"/v1/images/{name}/shares/{tenant.name}", {}).ok()["shares"]
    assert shares == [{"project_id": tenant.id, "right": "use", "project": tenant.name}]
    assert tenant.running("a", image=name)["image"] == name
    refused(stranger.owner.get(f"/v1/images/{name}"), 404, "not-found")
    refused(tenant.owner.post("/v1/images", {"name": "p", "format": "raw", "public": True}), 403, "forbidden")
    for method, path, body in (("DELETE", "", None), ("PUT", f"/shares/{stranger.id}", {})):
        refused(tenant.owner.call(method, f"/v1/images/mini{path}", body), 403, "forbidden")


def test_an_image_in_use_names_its_users(cloud: Installation, tenant: Tenant) -> None:
    friend = Tenant(cloud)
    made = tenant.owner.post("/v1/images", {"name": "i", "format": "raw"}).ok()
    upload(tenant.owner, "i", os.urandom(4096))
    tenant.owner.put(f"/v1/images/i/shares/{friend.id}", {}).ok()
    tenant.running("mine", image="i")
    friend.running("theirs", image=made["id"])
    problem = refused(tenant.owner.delete("/v1/images/i"), 409, "in-use")
    assert {(u["kind"], u["name"]) for u in problem["users"]} >= {("vm", "mine")}
    assert problem["others"] == 2  # the friend's vm and its disk, without their names
    assert "theirs" not in str(problem)
    whole = refused(cloud.operator().delete(f"/v1/images/{made['id']}"), 409, "in-use")
    assert {"mine", "theirs"} <= {u["name"] for u in whole["users"]}
    tenant.owner.delete("/v1/vms/mine?wait=20").ok()
    friend.owner.delete("/v1/vms/theirs?wait=20").ok()
    assert tenant.owner.delete("/v1/images/i").status == 200


def test_a_project_has_a_quota_of_images(cloud: Installation) -> None:
    tenant = Tenant(cloud, quota={"images": 1})
    tenant.owner.post("/v1/images", {"name": "one", "format": "raw"}).ok()
    over = tenant.owner.post("/v1/images", {"name": "two", "format": "raw"})
    assert over.status in (403, 409), over
    assert [i["name"] for i in tenant.owner.list("/v1/images") if i["project_id"]] == ["one"]


def test_a31_the_store_holds_nothing_but_hashes_and_ids(cloud: Installation, tenant: Tenant) -> None:
    """Names that people choose never become names of files."""
    for name in ("..%2f..%2fetc", "%2e%2e", "img-.."):
        refused(tenant.owner.put_bytes(f"/v1/images/{name}/content", b"x"), 404, "not-found")
    refused(tenant.owner.post("/v1/images", {"name": "../x", "format": "raw"}), 422, "invalid")
    for path in Path(cloud.settings.image_dir).rglob("*"):
        assert path.name == "uploads" or path.name.startswith(("img-", ".partial-")) or len(path.name) == 64, path
