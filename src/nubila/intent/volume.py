"""What may be wished of an existing volume: change, resize, remove, attach, detach, roll back; and its snapshots. Pure.

At most one attachment of a volume stands, under an epoch that only grows. Whatever writes is under it: the vm that holds
the volume, or, while none does, a job of the node. An attachment that is revoked stands until the node proves its end.
"""

from __future__ import annotations

from uuid import UUID

import msgspec

from nubila import errors
from nubila.intent.asking import Asking, Outcome, builtins, end_operation, next_number
from nubila.intent.volume_refuse import (
    DISKS_MAX,
    barred_vm,
    busy,
    check_change,
    held,
    holder_runs,
    not_ready,
    snapshot_of,
    unfit,
    users_of,
)
from nubila.intent.volume_wish import Change, View, begin, grow, renamed, touch_vm, wished
from nubila.model import operation, snapshot, vm, volume
from nubila.model.draft import Draft, Drafted, Row
from nubila.model.fields import Labels, Name, Reference, SizeGib
from nubila.model.ids import text


class VolumeAttach(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Attach a volume to a VM, running or not."""

    vm: Reference


class VolumeChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Change a volume: enlarge it, limit it, choose its cache mode, rename or relabel it. Limits hold at once, also for
    a running VM; another cache mode holds from the VM's next start."""

    name: Name | None = None
    labels: Labels | None = None
    size_gib: SizeGib | None = None
    limits: volume.Limits | None = None
    cache: volume.Cache | None = None
    remove_with_vm: bool | None = None


class VolumeRollBack(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bring back the bytes of a snapshot. What was written since is lost."""

    snapshot: Reference


def attach(body: VolumeAttach, view: View, vm_view: View | None, asking: Asking) -> Outcome:
    found = begin(view, asking)
    if isinstance(found, errors.NubilaError):
        return found
    if vm_view is None:
        return errors.Invalid(f"There is no VM '{body.vm}'.", field="vm", fix="See 'nubila vm list'.")
    machine = vm_view["vm"]
    fault = held(view) or not_ready(found.row, view) or barred_vm(machine) or unfit(found.row, machine, vm_view, view)
    if fault is not None:
        return fault
    index = min(set(range(1, DISKS_MAX)) - {a["index"] for a in vm_view["attachments"]})
    epoch = view["epoch"] + 1
    found.draft.inserts(
        "attachment",
        id=asking.mint(),
        project_id=found.row["project_id"],
        volume_id=found.row["id"],
        vm_id=machine["id"],
        node_id=found.row["node_id"],
        epoch=epoch,
        index=index,
        state="active",
    )
    touch_vm(found.draft, machine)
    live = (machine["status"] or {}).get("power") == "on"
    details = {"vm": machine["name"], "index": index, "when": "now" if live else "at the VM's next start"}
    return wished(found, operation.Verb.ATTACH, count=epoch, details=details)


def detach(view: View, asking: Asking) -> Outcome:
    found = begin(view, asking)
    if isinstance(found, errors.NubilaError):
        return found
    own = next((a for a in view["attachments"] if a["vm_id"] is not None), None)
    if own is None:
        return errors.Conflict(f"Volume '{found.row['name']}' is attached to no VM.")
    machine = own["vm"]
    if own["state"] == "revoking":
        return errors.Conflict(f"Volume '{found.row['name']}' is being detached from VM '{machine['name']}' already.")
    if (fault := barred_vm(machine)) is not None:
        return fault
    if own["index"] == 0:
        return errors.Conflict(
            f"VM '{machine['name']}' boots from volume '{found.row['name']}'.",
            fix="Make a copy of it (POST /v1/volumes with 'source'), and attach that elsewhere.",
        )
    if machine["spec"]["gone"]:
        return errors.Conflict(f"VM '{machine['name']}' is being removed, and lets go of the volume with that.")
    revoke(found.draft, own)
    touch_vm(found.draft, machine)
    for older in view["operations"]:
        if older["spec"]["verb"] == operation.Verb.ATTACH:  # its vm may never have had it, and now never will
            end_operation(asking, found.draft, older, operation.State.OVERTAKEN, "a later 'detach' replaced it")
    return wished(found, operation.Verb.DETACH, count=own["epoch"], details={"vm": machine["name"]})


def revoke(draft: Draft, held: Row) -> None:
    """The right stands until the node says that the device is gone and nobody has the disk open."""
    draft.changes("attachment", held, version=True, state="revoking")


def change(body: VolumeChange, view: View, asking: Asking) -> Outcome:
    found = begin(view, asking)
    if isinstance(found, errors.NubilaError):
        return found
    fields = {f: v for f in ("limits", "cache", "size_gib", "remove_with_vm") if (v := getattr(body, f)) is not None}
    spec = msgspec.structs.replace(found.spec, **fields)
    columns = {f: v for f in ("name", "labels") if (v := getattr(body, f)) is not None and v != found.row[f]}
    if spec == found.spec and not columns:
        return Drafted(draft=found.draft, status=200, refers={"volume": UUID(found.row["id"])})
    fault = check_change(spec, found, view)
    if fault is not None:
        return fault
    more = spec.size_gib - found.spec.size_gib
    if more:
        grow(found, view, more)
    was, found.spec = found.spec, spec
    shown = {
        f: {"was": builtins(a), "becomes": builtins(b)}
        for f in spec.__struct_fields__
        if (a := getattr(was, f)) != (b := getattr(spec, f))
    } | {k: {"was": found.row[k], "becomes": v} for k, v in columns.items()}
    if spec.cache is not was.cache and holder_runs(view):
        shown["cache"] |= {"when": "at the VM's next start"}
    if spec == was or set(fields) == {"remove_with_vm"}:  # nothing for a node to do
        return renamed(found, columns, shown)
    only_size = spec.limits == was.limits and spec.cache is was.cache
    verb = operation.Verb.RESIZE if only_size else operation.Verb.CHANGE
    count = spec.size_gib if only_size else found.generation
    return wished(found, verb, count=count, details=shown, columns=columns, writes=bool(more))


def remove(view: View, asking: Asking) -> Outcome:
    found = begin(view, asking)
    if isinstance(found, errors.NubilaError):
        return found
    users = users_of(view)
    if users:
        words = "; ".join(f"{kind} {', '.join(u['name'] for u in of)}" for kind, of in users.items())
        return errors.InUse(f"Volume '{found.row['name']}' is used by {words}.", users=users)
    return gone(found)


def gone(found: Change) -> Outcome:
    """Wish it away. A job of the node that holds it now goes on to remove it, under the same epoch."""
    found.spec = msgspec.structs.replace(found.spec, gone=True)
    standing = any(a["state"] == "active" for a in found.view["attachments"])
    return wished(found, operation.Verb.REMOVE, action="remove", overtakes=True, writes=not standing)


def roll_back(body: VolumeRollBack, view: View, asking: Asking) -> Outcome:
    found = begin(view, asking)
    if isinstance(found, errors.NubilaError):
        return found
    to = snapshot_of(view, body.snapshot)
    if to is None:
        return errors.Invalid(f"Volume '{found.row['name']}' has no snapshot '{body.snapshot}'.", field="snapshot")
    fault = not_ready(found.row, view) or busy(view)
    if fault is not None:
        return fault
    if to["state"] != snapshot.State.READY:
        return errors.Conflict(f"Snapshot '{to['name']}' is {to['state']}.", state=to["state"])
    machine = next((a["vm"] for a in view["attachments"] if a["vm_id"] is not None), None)
    if machine is not None and (machine["spec"]["power"] != vm.Power.OFF or machine["state"] != vm.State.STOPPED):
        return errors.Conflict(
            f"VM '{machine['name']}', which has the volume, is {machine['state']}: its disk cannot change under it.",
            fix="Stop it, or detach the volume.",
        )
    stood = found.spec.rollbacks
    found.spec = msgspec.structs.replace(
        found.spec,
        rollbacks=next_number(stood, found.row, "rollbacks"),
        rollback_to=text("snapshot", UUID(to["id"])),
    )
    if machine is not None:  # it must not be started meanwhile
        touch_vm(found.draft, machine)
    return wished(
        found,
        operation.Verb.ROLL_BACK,
        count=found.spec.rollbacks,
        stood=stood,
        details={"to": to["name"], "lost": f"what was written since {to['created_at']}"},
        writes=True,
    )
