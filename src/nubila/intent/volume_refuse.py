"""What stands in the way of a wish for a volume, as values: None, or the refusal that says why. Pure."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec

from nubila import errors
from nubila.intent.refusing import over_quota
from nubila.intent.vm import barred
from nubila.intent.volume_wish import Change, View
from nubila.model import node, operation, vm, volume
from nubila.model.draft import Row
from nubila.model.ids import text

DISKS_MAX = 26  # of one vm: vda to vdz


def held(view: View) -> errors.Conflict | None:
    """Attached somewhere, or a job is at it."""
    for a in view["attachments"]:
        if a["vm_id"] is not None:
            way = "being detached from" if a["state"] == "revoking" else "attached to"
            return errors.Conflict(
                f"The volume is {way} VM '{a['vm']['name']}'; one VM has it at a time.",
                users={"vm": [{"id": text("vm", UUID(a["vm_id"])), "name": a["vm"]["name"]}]},
                fix="Detach it first, and wait until that is done.",
            )
    return busy(view)


def busy(view: View) -> errors.Conflict | None:
    """A job of the node writes it, or will."""
    for a in view["attachments"]:
        if a["operation_id"] is not None or a["state"] == "revoking":
            op = next((o for o in view["operations"] if o["id"] == a["operation_id"]), None)
            doing = f"'{op['name']}' is under way" if op else "the node has not finished with the volume"
            more = {"operation": text("operation", UUID(op["id"]))} if op else {}
            return errors.Conflict(f"{doing[0].upper()}{doing[1:]}.", fix="Wait until it is done.", **more)
    if any(o["spec"]["verb"] == operation.Verb.ROLL_BACK for o in view["operations"]):
        return errors.Conflict("The volume is being rolled back.", fix="Wait until that is done.")
    return None


def barred_vm(machine: Row) -> errors.NubilaError | None:
    """A hold on the vm holds its disks too."""
    spec = msgspec.convert(machine["spec"], vm.Spec)
    return barred(machine, spec) if spec.holds else None


def not_ready(row: Row, view: View) -> errors.Conflict | None:
    if row["state"] == volume.State.READY:
        return None
    reason = (row["status"] or {}).get("reason")
    made = row["id"], operation.Verb.CREATE
    making = next((o for o in view["operations"] if (o["resource_id"], o["spec"]["verb"]) == made), None)
    more = (
        {} if making is None else {"operation": text("operation", UUID(making["id"])), "fix": "Wait until it is made."}
    )
    return errors.Conflict(
        f"Volume '{row['name']}' is {row['state']}" + (f": {reason}." if reason else "."), state=row["state"], **more
    )


def unfit(row: Row, machine: Row, vm_view: View, view: View) -> errors.NubilaError | None:
    if machine["spec"]["gone"]:
        return errors.Conflict(f"VM '{machine['name']}' is being removed.", state=machine["state"])
    if machine["node_id"] != row["node_id"]:
        return errors.Conflict(
            f"Volume '{row['name']}' lies on another host than VM '{machine['name']}', and its pool is local.",
            fix="Create the volume with 'for_vm', or copy it beside the VM.",
        )
    if len(vm_view["attachments"]) >= DISKS_MAX:
        return errors.Conflict(f"VM '{machine['name']}' has {DISKS_MAX} disks, and more are not possible.")
    says = _hypervisor_of(machine, view)
    if not says.get("more_disks", True):
        return errors.Unsupported(
            f"The virt method {machine['spec']['virt_method']} of VM '{machine['name']}' gives it no disk beside its root.",
            fix="Attach the volume to a VM that boots from a disk.",
        )
    running = (machine["status"] or {}).get("power") == "on"
    if running and not says.get("disk_hotplug", False):
        return errors.Unsupported(
            f"The hypervisor of VM '{machine['name']}' cannot attach a disk while it runs.", fix="Stop the VM first."
        )
    return None


def _hypervisor_of(machine: Row, view: View) -> dict[str, Any]:
    status = msgspec.convert(view["node"]["status"] or {}, node.Status)
    return status.hypervisor_of(machine["spec"]["virt_method"])


def _fixed(spec: volume.Spec, was: volume.Spec, view: View) -> errors.Unsupported | None:
    """What the hypervisor of the vm that has the volume cannot do to it."""
    machine = next((a["vm"] for a in view["attachments"] if a["vm"] is not None), None)
    says = {} if machine is None else _hypervisor_of(machine, view)
    if (spec.limits, spec.cache) != (was.limits, was.cache) and not says.get("disk_limits", True):
        return errors.Unsupported(
            "The hypervisor of the VM that has this volume can neither limit it nor change how it is cached.",
            fix="Leave 'limits' and 'cache' as they are.",
        )
    if spec.size_gib > was.size_gib and holder_runs(view) and not says.get("disk_hotplug", True):
        return errors.Unsupported(
            "The hypervisor of the VM that has this volume cannot enlarge it while it runs.", fix="Stop the VM first."
        )
    return None


def capable(view: View, kind: str, name: str) -> Any:
    """What the node's driver of that kind says of itself; an older agent says nothing, and can nothing of this."""
    status = msgspec.convert(view["node"]["status"] or {}, node.Status)
    return next(iter(status.drivers.get(kind, {}).values()), {}).get(name, False)


def cannot_snapshot(spec: volume.Spec, view: View) -> errors.Unsupported | None:
    formats = capable(view, "storage", "snapshot_formats") or ()
    if spec.format.value in formats:
        return None
    known = f"only of {', '.join(formats)}" if formats else "not at all"
    return errors.Unsupported(
        f"Pool '{spec.pool}' cannot take snapshots of {spec.format.value} volumes; {known}.",
        fix="Copy the volume with 'format': 'qcow2', and snapshot the copy.",
    )


def check_change(spec: volume.Spec, found: Change, view: View) -> errors.NubilaError | None:
    fault = volume.limits_fault(spec.limits)
    if fault is not None:
        return errors.Invalid(f"limits: {fault}.", field="limits")
    if (unable := _fixed(spec, found.spec, view)) is not None:
        return unable
    more = spec.size_gib - found.spec.size_gib
    if more < 0:
        return errors.Invalid(
            f"size_gib is {spec.size_gib}; the volume has {found.spec.size_gib} GiB, and volumes only grow.",
            field="size_gib",
            fix="Create a smaller volume and copy what is needed inside a VM.",
        )
    if not more:
        return None
    if not capable(view, "storage", "resize"):
        return errors.Unsupported(f"Pool '{spec.pool}' cannot enlarge volumes.")
    return not_ready(found.row, view) or busy(view) or over_quota({"disk_gib": more}, view["quota"] or {}, "change")


def users_of(view: View) -> dict[str, list[dict[str, str]]]:
    users: dict[str, list[dict[str, str]]] = {}
    for a in view["attachments"]:
        if a["vm_id"] is not None:
            users.setdefault("vm", []).append({"id": text("vm", UUID(a["vm_id"])), "name": a["vm"]["name"]})
    for kind, rows in (("snapshot", view["snapshots"]), ("volume", view["copies"])):
        for r in rows:
            users.setdefault(kind, []).append({"id": text(kind, UUID(r["id"])), "name": r["name"]})
    for e in view["volume"]["spec"].get("exports", ()):  # images that are being made from it
        users.setdefault("image", []).append({"id": e["image_id"], "name": e["image_id"]})
    return users


def snapshot_of(view: View, ref: str) -> Row | None:
    return next((s for s in view["snapshots"] if ref in (s["name"], text("snapshot", UUID(s["id"])))), None)


def holder_runs(view: View) -> bool:
    return any(a["vm"] is not None and (a["vm"]["status"] or {}).get("power") == "on" for a in view["attachments"])
