"""The same for volumes: each verb on a volume of its own, held by a running vm or by nobody."""

from __future__ import annotations

from typing import Any

from tests.crash.scenarios import Scenario, Subject, gone, running
from tests.fleet.caller import Reply
from tests.fleet.installation import until

Row = dict[str, Any]


def data(s: Subject) -> str:
    return f"{s.name}-data"


def volume(s: Subject, name: str = "") -> Row:
    reply = s.tenant.owner.get(f"/v1/volumes/{name or data(s)}")
    return reply.body if reply.status == 200 else {}


def on_disk(s: Subject, name: str = "") -> Row:
    found: Row = s.host.world()["volume"].get(volume(s, name).get("id", ""), {})
    return found


def held(s: Subject) -> bool:
    """The running domain has it."""
    return volume(s).get("id", "?") in s.host.domain(s.vm_id).get("disks", {})


def make(s: Subject, **more: Any) -> Reply:
    body = {"name": data(s), "size_gib": 2, "for_vm": s.name, **more}
    return s.tenant.owner.post("/v1/volumes", body, idempotency_key=data(s))


def on(s: Subject, verb: str, body: Any = None) -> Reply:
    return s.tenant.owner.post(f"/v1/volumes/{data(s)}/{verb}", body, idempotency_key=f"{data(s)}-{verb}")


def change(s: Subject, **body: Any) -> Reply:
    return s.tenant.owner.patch(f"/v1/volumes/{data(s)}", body)


def done(s: Subject, reply: Reply) -> None:
    path = f"/v1/operations/{reply.ok()['operation']['id']}"
    until(lambda: s.tenant.owner.get(path).ok()["state"] == "done", 20, 0.02, path)


def free(s: Subject) -> None:
    """A volume that nobody has, beside a running vm."""
    running(s)
    done(s, make(s))


def attached(s: Subject) -> None:
    free(s)
    done(s, on(s, "attach", {"vm": s.name}))


def kept(s: Subject) -> None:
    free(s)
    done(s, on(s, "snapshots", {"name": f"{s.name}-kept"}))


def kept_live(s: Subject) -> None:
    attached(s)
    done(s, on(s, "snapshots", {"name": f"{s.name}-kept"}))


def snapshots(s: Subject) -> list[Row]:
    found: list[Row] = s.tenant.owner.list("/v1/snapshots")
    return found


def drop(s: Subject) -> Reply:
    return s.tenant.owner.delete(f"/v1/snapshots/{s.name}-kept")


def clone(s: Subject) -> Reply:
    body = {"name": f"{s.name}-copy", "source": data(s)}
    return s.tenant.owner.post("/v1/volumes", body, idempotency_key=f"{s.name}-copy")


def is_kept(s: Subject) -> bool:
    return bool(on_disk(s).get("snapshots")) and all(x["state"] == "ready" for x in snapshots(s))


def is_copied(s: Subject) -> bool:
    return bool(on_disk(s, f"{s.name}-copy")) and bool(volume(s, f"{s.name}-copy")["state"] == "ready")


def picture(s: Subject) -> Row:
    reply = s.tenant.owner.get(f"/v1/images/{s.name}-image")
    return reply.body if reply.status == 200 else {}


def imaged(s: Subject, **source: str) -> Reply:
    body = {"name": f"{s.name}-image", "format": "qcow2", **source}
    return s.tenant.owner.post("/v1/images", body, idempotency_key=f"{s.name}-image")


def is_imaged(s: Subject) -> bool:
    """Whole in the store, and nothing of the copy is left on the host."""
    return picture(s).get("state") == "ready" and not s.host.world()["export"]


SCENARIOS: tuple[Scenario, ...] = (
    Scenario(name="volume-create", before=running, act=make, holds=lambda s: on_disk(s).get("size_gib") == 2),
    Scenario(name="volume-attach", before=free, act=lambda s: on(s, "attach", {"vm": s.name}), holds=held),
    Scenario(name="volume-detach", before=attached, act=lambda s: on(s, "detach"), holds=lambda s: not held(s)),
    Scenario(
        name="volume-grow",
        before=free,
        act=lambda s: change(s, size_gib=3),
        holds=lambda s: on_disk(s)["size_gib"] == 3,
    ),
    Scenario(
        name="volume-grow-live",
        before=attached,
        act=lambda s: change(s, size_gib=3),
        holds=lambda s: on_disk(s)["size_gib"] == 3,
    ),
    Scenario(
        name="volume-limit-live",
        before=attached,
        act=lambda s: change(s, limits={"read_iops": 100}),
        holds=lambda s: volume(s)["state"] == "ready",
    ),
    Scenario(name="snapshot", before=free, act=lambda s: on(s, "snapshots", {"name": f"{s.name}-kept"}), holds=is_kept),
    Scenario(
        name="snapshot-live",
        before=attached,
        act=lambda s: on(s, "snapshots", {"name": f"{s.name}-kept"}),
        holds=is_kept,
    ),
    Scenario(name="snapshot-remove", before=kept, act=drop, holds=lambda s: not snapshots(s)),
    Scenario(name="snapshot-remove-live", before=kept_live, act=drop, holds=lambda s: not snapshots(s)),
    Scenario(
        name="roll-back",
        before=kept,
        act=lambda s: on(s, "roll-back", {"snapshot": f"{s.name}-kept"}),
        holds=lambda s: volume(s)["state"] == "ready",
    ),
    Scenario(name="clone", before=free, act=clone, holds=is_copied),
    Scenario(name="clone-live", before=attached, act=clone, holds=is_copied),
    Scenario(
        name="image-of-volume",
        before=free,
        act=lambda s: imaged(s, volume=data(s)),
        holds=is_imaged,
        grace_s=1.0,
    ),
    Scenario(name="image-of-vm-live", before=running, act=lambda s: imaged(s, vm=s.name), holds=is_imaged, grace_s=1.0),
    Scenario(
        name="volume-remove",
        before=free,
        act=lambda s: s.tenant.owner.delete(f"/v1/volumes/{data(s)}"),
        holds=lambda s: not volume(s) and not on_disk(s),
    ),
    Scenario(
        name="remove-with-volume", before=attached, act=lambda s: s.tenant.owner.delete(f"/v1/vms/{s.name}"), holds=gone
    ),
)
