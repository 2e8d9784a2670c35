"""Volumes and snapshots over HTTP, on fake disks whose journal says what is really there."""

from __future__ import annotations

import json
from typing import Any

from tests.fleet.caller import Caller
from tests.fleet.installation import Installation, until
from tests.fleet.tenant import Tenant, refused


def disks(cloud: Installation) -> dict[str, dict[str, Any]]:
    """The fake pools' volumes by id: what a person at the machine would see."""
    found: dict[str, Any] = {}
    for journal in cloud.var.glob("node*/fake/volumes"):
        for line in journal.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                key, row = json.loads(line)
                found[key] = row
    return {k: v for k, v in found.items() if v is not None}


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
