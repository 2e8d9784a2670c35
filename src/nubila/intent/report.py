"""What a node's report changes: pure. One read made the views, one commit writes the drafts.

A removal that the node confirms gives back everything the vm held: capacity, quota, addresses, attachments. That is the
only place where they are given back, so nothing is free before the world let go of it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from nubila.intent import operation_report, port_report, volume_report
from nubila.intent.asking import builtins
from nubila.model import operation, vm
from nubila.model.draft import Draft, Row
from nubila.model.ids import text
from nubila.protocol import DiskReport, VmReport

View = dict[str, Any]

# verb -> field of the status that its number is compared with
COUNTER: dict[operation.Verb, str] = {
    operation.Verb.START: "starts",
    operation.Verb.REBOOT: "reboots",
    operation.Verb.RESET: "resets",
    operation.Verb.REPAIR: "repairs",
    operation.Verb.RESIZE: "repairs",
    operation.Verb.INSERT: "repairs",
    operation.Verb.EJECT: "repairs",
    operation.Verb.RESCUE: "starts",
}
RELEASED = "the device is gone from the vm, and nobody has the disk open"


def taken(report: VmReport, row: Row) -> str | None:
    """Why this report must be refused, or None."""
    if report.epoch != row["epoch"]:
        return f"epoch {report.epoch} is not the current one, {row['epoch']}"
    if report.generation < row["observed_generation"]:
        return f"generation {report.generation} is older than {row['observed_generation']}, which was reported before"
    if report.generation > row["generation"]:
        return f"generation {report.generation} was never wished"
    return None


def apply(report: VmReport, view: View, draft: Draft, now: datetime) -> bool:
    """Add to the draft what this report changes; False when nothing does."""
    row = view["vm"]
    spec = msgspec.convert(row["spec"], vm.Spec)
    was = vm.State(row["state"])
    status = _status(report, spec)
    # A report on an older wish says what is there, not yet what became of the new wish.
    current = report.generation == row["generation"]
    state = vm.state(spec, status, was=was) if current or status.gone else was
    before = None if row["status"] is None else msgspec.convert(row["status"], vm.Status)
    changed = status != before or report.generation != row["observed_generation"] or state is not was
    if changed:
        columns: Row = {
            "status": builtins(status),
            "observed_generation": max(report.generation, row["observed_generation"]),
        }
        if state is not was:
            columns["state"] = state.value
        if state is vm.State.REMOVED:
            columns["removed_at"] = now
        draft.changes("vm", row, version=True, **columns)
    touched = _operations(report, view, spec, status, state, draft, now)
    touched |= _belongings(report, view, draft, now)
    touched |= _shrunk(spec, status, view, draft) if current and not status.gone else False
    if state is vm.State.REMOVED and was is not vm.State.REMOVED:
        _give_back(view, draft, now)
    return changed or touched


def _status(report: VmReport, spec: vm.Spec) -> vm.Status:
    return vm.Status(
        power=report.power,
        starts=report.starts,
        reboots=report.reboots,
        repairs=report.repairs,
        resets=report.resets,
        paused=report.paused,
        gone=report.gone and spec.gone,
        since=report.since,
        doing=report.doing,
        progress=report.progress,
        reason=report.reason,
        failing=report.failing,
        last_crash=report.last_crash,
        cores=report.cores,
        cores_max=report.cores_max,
        memory_mib=report.memory_mib,
        memory_max_mib=report.memory_max_mib,
        media=report.media,
        at_next_start=report.at_next_start,
        guest=vm.Guest(addressed_at=report.addressed_at, metadata_at=report.metadata_at, agent=report.guest_agent),
    )


def _operations(
    report: VmReport, view: View, spec: vm.Spec, status: vm.Status, state: vm.State, draft: Draft, now: datetime
) -> bool:
    touched = False
    wished = "stopped" if spec.power is vm.Power.OFF else "suspended" if spec.suspended else "running"
    for op in view["operations"]:
        op_spec = msgspec.convert(op["spec"], operation.Spec)
        before = operation_report.status_of(op)
        counted = getattr(status, COUNTER[op_spec.verb]) if op_spec.verb in COUNTER else None
        becomes = operation.state(
            op_spec,
            was=operation.State(op["state"]),
            resource_state=state.value,
            observed_generation=report.generation,
            counted=counted,
            wished=wished,
        )
        after = msgspec.structs.replace(
            before,
            doing=None if becomes in operation.TERMINAL else report.doing,
            progress=report.progress,
            reason=report.reason,
        )
        touched |= operation_report.write(op, becomes, before, after, draft, now)
    return touched


def _belongings(report: VmReport, view: View, draft: Draft, now: datetime) -> bool:
    """Volumes that are there now and ports that are active now."""
    touched = False
    if report.gone:
        return False
    touched |= _disks(report, view, draft, now)
    touched |= port_report.apply(report, view, draft, now)
    return touched


def _shrunk(spec: vm.Spec, status: vm.Status, view: View, draft: Draft) -> bool:
    """A size that was lowered is free for others only when the node says that the guest can no longer have more."""
    if status.power == "on" and status.cores is None:  # not looked at yet
        return False
    needs = {
        "cores": max(spec.cores, status.cores or 0),
        "memory_mib": max(spec.memory_mib, status.memory_max_mib or 0),
    }
    touched = False
    for held in view["allocations"]:
        need = needs.get(held["class"], held["amount"])
        if held["holder_id"] == view["vm"]["id"] and held["amount"] > need:
            key = {k: held[k] for k in ("holder_id", "class", "node_id")}
            draft.updates("allocation", key, amount=need)
            draft.takes_capacity(UUID(held["node_id"]), held["class"], need - held["amount"])
            touched = True
    return touched


def _disks(report: VmReport, view: View, draft: Draft, now: datetime) -> bool:
    """What the vm has of its disks now, and the proof that it let go of others."""
    touched = False
    volumes = {v["id"]: v for v in view["volumes"]}
    standing = {(a["volume_id"], a["epoch"]): a for a in view["attachments"]}
    held = {d.volume_id: d for d in report.disks}
    ready = set(report.disks_ready)
    for (volume_id, epoch), a in standing.items():
        typed = text("volume", UUID(volume_id))
        told = held.get(typed)
        if told is not None and told.epoch == epoch and a["state"] == "active":
            touched |= volume_report.disk(told, volumes[volume_id], view["volume_operations"], draft, now)
        elif told is None and typed in ready and volumes[volume_id]["state"] == "pending":  # of an older agent
            told = DiskReport(volume_id=typed, epoch=epoch, held=True)
            touched |= volume_report.disk(told, volumes[volume_id], view["volume_operations"], draft, now)
    for told in report.released:
        volume_id = next((v for v in volumes if text("volume", UUID(v)) == told.volume_id), "")
        a = standing.get((volume_id, told.epoch), {})
        if a.get("state") == "revoking":
            proof = {"by": "node", "node": view["vm"]["node_id"], "at": now.isoformat(), "said": RELEASED}
            draft.changes("attachment", a, version=True, state="revoked", proof=proof)
            volume_report.released(told, volumes[volume_id], view["volume_operations"], draft, now)
            touched = True
    return touched


def _give_back(view: View, draft: Draft, now: datetime) -> None:
    row = view["vm"]
    node_id, project_id = UUID(row["node_id"]), UUID(row["project_id"])
    proof = {"by": "node", "node": row["node_id"], "at": now.isoformat(), "said": "the volume is removed"}
    for a in view["attachments"]:
        draft.changes("attachment", a, version=True, state="revoked", proof=proof)
    for v in view["volumes"]:
        if not v["spec"]["gone"]:
            draft.wakes(node_id, UUID(v["id"]), "volume")  # from now on it is wished for itself
            epoch = next(a["epoch"] for a in view["attachments"] if a["volume_id"] == v["id"])
            left = DiskReport(volume_id=text("volume", UUID(v["id"])), epoch=epoch, held=False)
            volume_report.released(left, v, view["volume_operations"], draft, now)
            continue
        draft.changes(
            "volume",
            v,
            version=True,
            state="removed",
            removed_at=now,
            status={"gone": True},
            observed_generation=v["generation"],
        )
        draft.takes_quota(project_id, "volumes", -1)
        draft.takes_quota(project_id, "disk_gib", -v["spec"]["size_gib"])
        _forget_snapshots(v["id"], view, draft, now)
    for p in view["ports"]:
        port_report.give_back(p, view, draft, now)
    stay = {v["id"] for v in view["volumes"] if not v["spec"]["gone"]}
    stay |= {s["id"] for s in view["snapshots"] if s["volume_id"] in stay}
    for held in view["allocations"]:
        if held["holder_id"] in stay:
            continue
        draft.deletes("allocation", holder_id=held["holder_id"], node_id=held["node_id"], **{"class": held["class"]})
        draft.takes_capacity(node_id, held["class"], -held["amount"])
    if row["user_data_secret"] is not None:
        draft.deletes("secret", id=row["user_data_secret"])
    draft.takes_quota(project_id, "vms", -1)
    draft.takes_quota(project_id, "cores", -row["spec"]["cores"])
    draft.takes_quota(project_id, "memory_mib", -row["spec"]["memory_mib"])


def _forget_snapshots(volume_id: str, view: View, draft: Draft, now: datetime) -> None:
    """They lay in the volume that is gone; their room is given back with all that the vm held."""
    for s in view["snapshots"]:
        if s["volume_id"] != volume_id:
            continue
        columns = {
            "state": "removed",
            "removed_at": now,
            "status": {"gone": True},
            "observed_generation": s["generation"],
        }
        draft.changes("snapshot", s, version=True, **columns)
        draft.takes_quota(UUID(s["project_id"]), "disk_gib", -s["spec"]["size_gib"])
        for op in [o for o in view["snapshot_operations"] if o["resource_id"] == s["id"]]:
            before = operation_report.status_of(op)
            operation_report.write(op, operation.State.DONE, before, before, draft, now)
