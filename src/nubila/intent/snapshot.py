"""Snapshots of a volume: create and remove. The node writes them into the volume, under the right of whoever holds it. Pure."""

from __future__ import annotations

from uuid import UUID

import msgspec

from nubila import errors
from nubila.intent.asking import Asking, Outcome, builtins, wish
from nubila.intent.refusing import over_quota
from nubila.intent.volume_refuse import busy, cannot_snapshot, not_ready
from nubila.intent.volume_wish import Change, View, begin, hold, wake
from nubila.model import operation, snapshot, volume
from nubila.model.draft import Draft, Drafted, Effect, Row
from nubila.model.fields import Labels, Name
from nubila.model.ids import text


class SnapshotCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Keep the bytes that a volume has now."""

    name: Name
    labels: Labels = {}


def create(body: SnapshotCreate, view: View, asking: Asking) -> Outcome:
    found = begin(view, asking)
    if isinstance(found, errors.NubilaError):
        return found
    size_gib = found.spec.size_gib
    fault = (
        not_ready(found.row, view)
        or busy(view)
        or cannot_snapshot(found.spec, view)
        or over_quota({"disk_gib": size_gib}, view["quota"] or {}, "snapshot")
    )
    if fault is not None:
        return fault
    if len(view["snapshots"]) >= volume.SNAPSHOTS_MAX:
        return errors.Conflict(
            f"Volume '{found.row['name']}' has {len(view['snapshots'])} snapshots, and {volume.SNAPSHOTS_MAX} are the most.",
            fix="Remove one first.",
        )
    project_id, node_id = UUID(found.row["project_id"]), UUID(found.row["node_id"])
    made = found.draft.inserts(
        "snapshot",
        id=asking.mint(),
        project_id=project_id,
        name=body.name,
        labels=body.labels,
        spec=builtins(snapshot.Spec(volume_id=text("volume", UUID(found.row["id"])), size_gib=size_gib)),
        generation=1,
        state=snapshot.State.PENDING.value,
        volume_id=found.row["id"],
        node_id=node_id,
    )
    # It may come to need as much room as the volume itself.
    found.draft.inserts("allocation", holder_id=made["id"], **{"class": "disk_gib"}, node_id=node_id, amount=size_gib)
    found.draft.takes_capacity(node_id, "disk_gib", size_gib)
    found.draft.takes_quota(project_id, "disk_gib", size_gib)
    return _wished(found, made, operation.Verb.CREATE, status=201)


def remove(view: View, row: Row, asking: Asking) -> Outcome:
    found = begin(view, asking)
    if isinstance(found, errors.NubilaError):
        return found
    if row["spec"]["gone"]:
        return errors.Conflict(f"Snapshot '{row['name']}' is being removed already.")
    if any(o["spec"]["verb"] == operation.Verb.ROLL_BACK for o in view["operations"]):
        return errors.Conflict(f"Volume '{found.row['name']}' is being rolled back.", fix="Wait until that is done.")
    gone(found.draft, row)
    return _wished(found, {**row, "generation": row["generation"] + 1}, operation.Verb.REMOVE, status=202)


def gone(draft: Draft, row: Row) -> None:
    """Wish it away."""
    draft.changes(
        "snapshot",
        row,
        spec={**row["spec"], "gone": True},
        generation=row["generation"] + 1,
        state=snapshot.State.REMOVING.value,
    )


def _wished(found: Change, made: Row, verb: operation.Verb, *, status: int) -> Drafted:
    draft, row = found.draft, found.row
    snapshot_id = made["id"] if isinstance(made["id"], UUID) else UUID(made["id"])
    draft.changes("volume", row, generation=found.generation)
    op = wish(found.asking, draft, verb, kind="snapshot", row=made, generation=made["generation"])
    hold(found, op, True)
    wake(found)
    effect = Effect(
        action=verb.value,
        kind="snapshot",
        id=text("snapshot", snapshot_id),
        name=made["name"],
        details={"volume": row["name"], "size_gib": made["spec"]["size_gib"]},
    )
    return Drafted(
        draft=draft,
        status=status,
        refers={"snapshot": snapshot_id, "operation": op["id"]},
        effects=[effect],
        hints=[f"node:{row['node_id']}"],
    )
