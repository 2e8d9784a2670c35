"""What a node's report on a volume changes: its status and state, its snapshots, its operations, who holds it. Pure.

Quota and capacity are given back here, and only when the node says that the bytes are gone.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from nubila.intent import operation_report
from nubila.intent.asking import builtins
from nubila.model import operation, snapshot, volume
from nubila.model.draft import Draft, Row
from nubila.model.ids import text
from nubila.protocol import DiskReport, VolumeReport

View = dict[str, Any]


def taken(report: VolumeReport, row: Row) -> str | None:
    """Why this report must be refused, or None."""
    if report.generation < row["observed_generation"]:
        return f"generation {report.generation} is older than {row['observed_generation']}, which was reported before"
    if report.generation > row["generation"]:
        return f"generation {report.generation} was never wished"
    return None


def apply(report: VolumeReport, view: View, draft: Draft, now: datetime) -> bool:
    """Add to the draft what this report changes; False when nothing does."""
    row = view["volume"]
    spec = msgspec.convert(row["spec"], volume.Spec)
    before = None if row["status"] is None else msgspec.convert(row["status"], volume.Status)
    current = report.generation == row["generation"]
    attached = any(a["vm_id"] is not None for a in view["attachments"])
    status = msgspec.structs.replace(
        before or volume.Status(),
        ready=report.ready,
        made=report.ready or (before is not None and (before.made or before.ready)),
        gone=report.gone and spec.gone,
        reason=report.reason,
        failing=report.failing,
        doing=report.doing,
        progress=report.progress,
        size_gib=report.size_gib,
        rollbacks=report.rollbacks,
    )
    if not attached and current:  # there is no vm for which limits would have to be set
        status = msgspec.structs.replace(status, applied=row["generation"], cache=None)
    settled = current and (report.settled or status.gone)
    at_it = frozenset() if settled else _at_it(view)
    touched = write(row, spec, status, report.generation, view["operations"], draft, now, at_it)
    touched |= _snapshots(report, view, draft, now, at_it)
    if settled:
        touched |= _end_jobs(view, draft, now, gone=status.gone)
    if status.gone and row["state"] != volume.State.REMOVED:
        _give_back(view, draft)
    return touched


def write(
    row: Row,
    spec: volume.Spec,
    status: volume.Status,
    observed: int,
    operations: list[Row],
    draft: Draft,
    now: datetime,
    at_it: frozenset[str] = frozenset(),
) -> bool:
    """The volume's row with a new status, and what follows of its operations; those `at_it` are not done yet."""
    was = volume.State(row["state"])
    before = None if row["status"] is None else msgspec.convert(row["status"], volume.Status)
    current = observed == row["generation"] or status.gone
    state = volume.state(spec, status, was=was) if current else was
    observed = max(observed, row["observed_generation"])
    touched = status != before or observed != row["observed_generation"] or state is not was
    if touched:
        columns: Row = {"status": builtins(status), "observed_generation": observed}
        if state is not was:
            columns["state"] = state.value
        if state is volume.State.REMOVED:
            columns["removed_at"] = now
        draft.changes("volume", row, version=True, **columns)
    mine = [o for o in operations if o["resource_id"] == row["id"]]
    return _follow(mine, state.value, observed, spec, status, draft, now, at_it) or touched


def disk(report: DiskReport, row: Row, operations: list[Row], draft: Draft, now: datetime) -> bool:
    """What a vm's report says of one of its disks."""
    spec = msgspec.convert(row["spec"], volume.Spec)
    before = volume.Status() if row["status"] is None else msgspec.convert(row["status"], volume.Status)
    status = msgspec.structs.replace(before, reason=report.reason or (before.reason if before.failing else None))
    if report.held:
        status = msgspec.structs.replace(
            status,
            ready=True,
            made=True,
            held_epoch=max(before.held_epoch, report.epoch),
            applied=max(before.applied, min(report.generation, row["generation"])),
            cache=report.cache,
        )
    # While nothing but the vm looks after it (it was made with it), the vm's report is the one that it has.
    own = row["observed_generation"] == 0 and row["generation"] == 1 and report.held
    observed = 1 if own else row["observed_generation"]
    return write(row, spec, status, observed, operations, draft, now)


def released(report: DiskReport, row: Row, operations: list[Row], draft: Draft, now: datetime) -> None:
    """The node's word that nothing of an attachment is left on it."""
    spec = msgspec.convert(row["spec"], volume.Spec)
    before = volume.Status() if row["status"] is None else msgspec.convert(row["status"], volume.Status)
    status = msgspec.structs.replace(
        before, released_epoch=max(before.released_epoch, report.epoch), cache=None, reason=None
    )
    write(row, spec, status, row["observed_generation"], operations, draft, now)


# what an operation waits for -> what the status says of it
def _counted(verb: operation.Verb, spec: volume.Spec, status: volume.Status) -> int | None:
    match verb:
        case operation.Verb.ATTACH:
            return status.held_epoch
        case operation.Verb.DETACH:
            return status.released_epoch
        case operation.Verb.RESIZE:
            return status.size_gib
        case operation.Verb.ROLL_BACK:
            return status.rollbacks
        case operation.Verb.CHANGE:
            return status.applied if status.size_gib is None or status.size_gib >= spec.size_gib else 0
        case _:
            return None


def _follow(
    operations: list[Row],
    state: str,
    observed: int,
    spec: volume.Spec | None,
    status: volume.Status | snapshot.Status,
    draft: Draft,
    now: datetime,
    at_it: frozenset[str],
) -> bool:
    touched = False
    for op in operations:
        wished = msgspec.convert(op["spec"], operation.Spec)
        counted = (
            _counted(wished.verb, spec, status) if spec is not None and isinstance(status, volume.Status) else None
        )
        reached = wished.count is not None and counted is not None and counted >= wished.count
        becomes = operation.state(
            wished,
            was=operation.State(op["state"]),
            resource_state=state,
            observed_generation=wished.generation if reached else observed,
            counted=counted,
            wished="ready",
        )
        if becomes is operation.State.DONE and op["id"] in at_it:
            becomes = operation.State.RUNNING
        before = operation_report.status_of(op)
        ended = becomes in operation.TERMINAL
        after = msgspec.structs.replace(
            before,
            doing=None if ended else getattr(status, "doing", None),
            progress=None if ended else getattr(status, "progress", None),
            reason=None if ended else status.reason,
        )
        touched |= operation_report.write(op, becomes, before, after, draft, now)
    return touched


def _at_it(view: View) -> frozenset[str]:
    """Operations whose job may still write: done is said when the volume can be asked for something else."""
    return frozenset([a["operation_id"] for a in view["attachments"] if a["operation_id"] is not None])


def _snapshots(report: VolumeReport, view: View, draft: Draft, now: datetime, at_it: frozenset[str]) -> bool:
    """Those that the report names are there; of the others, those that were to go are gone."""
    touched = False
    current = report.generation == view["volume"]["generation"]
    for row in view["snapshots"]:
        spec = msgspec.convert(row["spec"], snapshot.Spec)
        here = text("snapshot", UUID(row["id"])) in report.snapshots
        if not here and not current:
            continue
        gone = report.gone or (spec.gone and not here)
        fails = report.failing and here is spec.gone
        status = snapshot.Status(ready=here, gone=gone, failing=fails, reason=report.reason if fails else None)
        was = snapshot.State(row["state"])
        state = snapshot.state(spec, status, was=was) if not gone else snapshot.State.REMOVED
        before = None if row["status"] is None else msgspec.convert(row["status"], snapshot.Status)
        if status != before or state is not was:
            columns: Row = {"status": builtins(status), "observed_generation": row["generation"]}
            if state is not was:
                columns["state"] = state.value
            if state is snapshot.State.REMOVED:
                columns["removed_at"] = now
                _give_back_room(row["id"], view, draft)
            draft.changes("snapshot", row, version=True, **columns)
            touched = True
        mine = [o for o in view["operations"] if o["resource_id"] == row["id"]]
        touched |= _follow(mine, state.value, row["generation"], None, status, draft, now, at_it)
    return touched


def _end_jobs(view: View, draft: Draft, now: datetime, *, gone: bool) -> bool:
    """A job's right ends with the node's word that nothing is left to do, or that there is no volume any more."""
    node_id = view["volume"]["node_id"]
    said = "the volume is removed" if gone else "nothing of the job is left to do"
    ended = [a for a in view["attachments"] if a["operation_id"] is not None or gone]
    for a in ended:
        proof = {"by": "node", "node": node_id, "at": now.isoformat(), "said": said}
        draft.changes("attachment", a, version=True, state="revoked", proof=proof)
    return bool(ended)


def _give_back(view: View, draft: Draft) -> None:
    row = view["volume"]
    _give_back_room(row["id"], view, draft)
    draft.takes_quota(UUID(row["project_id"]), "volumes", -1)


def _give_back_room(holder_id: str, view: View, draft: Draft) -> None:
    for held in view["allocations"]:
        if held["holder_id"] == holder_id:
            draft.deletes("allocation", holder_id=holder_id, node_id=held["node_id"], **{"class": held["class"]})
            draft.takes_capacity(UUID(held["node_id"]), held["class"], -held["amount"])
            draft.takes_quota(UUID(view["volume"]["project_id"]), "disk_gib", -held["amount"])
