"""How one wish for a volume is written: its row, its operation, the right to write it, and who is told. Pure."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec

from nubila import errors
from nubila.intent.asking import Asking, builtins, end_operation, wish
from nubila.intent.volume_create import holds
from nubila.model import operation, volume
from nubila.model.draft import Draft, Drafted, Effect, Row
from nubila.model.ids import text

View = dict[str, Any]

STANDING = frozenset({"active", "revoking"})


class Change(msgspec.Struct, kw_only=True):
    """One wish for a volume while it is drafted."""

    view: View
    asking: Asking
    draft: Draft
    row: Row
    spec: volume.Spec
    generation: int


def begin(view: View, asking: Asking) -> Change | errors.NubilaError:
    row = view["volume"]
    if row["spec"]["gone"]:
        return errors.Conflict(
            f"Volume '{row['name']}' is being removed.", state=row["state"], fix="Wait until it is gone."
        )
    return Change(
        view=view,
        asking=asking,
        draft=asking.draft(),
        row=row,
        spec=msgspec.convert(row["spec"], volume.Spec),
        generation=row["generation"] + 1,
    )


def touch_vm(draft: Draft, machine: Row) -> None:
    draft.changes("vm", machine, generation=machine["generation"] + 1)
    draft.wakes(UUID(machine["node_id"]), UUID(machine["id"]))


def grow(found: Change, view: View, more: int) -> None:
    node_id = UUID(found.row["node_id"])
    held = next(a for a in view["allocations"] if a["holder_id"] == found.row["id"])
    key = {"holder_id": held["holder_id"], "class": held["class"], "node_id": held["node_id"]}
    found.draft.deletes("allocation", **key)
    found.draft.inserts("allocation", **key, amount=held["amount"] + more)
    found.draft.takes_capacity(node_id, "disk_gib", more)
    found.draft.takes_quota(UUID(found.row["project_id"]), "disk_gib", more)


def renamed(found: Change, columns: Row, shown: dict[str, Any]) -> Drafted:
    draft, row = found.draft, found.row
    draft.changes("volume", row, generation=found.generation, spec=builtins(found.spec), **columns)
    wake(found)
    return Drafted(
        draft=draft,
        status=200,
        refers={"volume": UUID(row["id"])},
        effects=[_effect("change", row, shown)],
        hints=[f"node:{row['node_id']}"],
    )


def wake(found: Change) -> None:
    """Its node learns of the volume and, since that carries its disks, of the vm that has it."""
    node_id = UUID(found.row["node_id"])
    found.draft.wakes(node_id, UUID(found.row["id"]), "volume")
    for a in found.view["attachments"]:
        if a["vm_id"] is not None:
            found.draft.wakes(node_id, UUID(a["vm_id"]))


def _effect(action: str, row: Row, details: dict[str, Any]) -> Effect:
    return Effect(action=action, kind="volume", id=text("volume", UUID(row["id"])), name=row["name"], details=details)


def wished(
    found: Change,
    verb: operation.Verb,
    *,
    action: str = "change",
    count: int | None = None,
    stood: int | None = None,
    details: dict[str, Any] | None = None,
    columns: Row | None = None,
    overtakes: bool = False,
    writes: bool = False,
) -> Drafted:
    """`writes`: the node has to write the volume for it, and needs the right to while no vm has it."""
    draft, row = found.draft, found.row
    status = None if row["status"] is None else msgspec.convert(row["status"], volume.Status)
    state = volume.state(found.spec, status, was=volume.State(row["state"]))
    draft.changes(
        "volume", row, spec=builtins(found.spec), generation=found.generation, state=state.value, **(columns or {})
    )
    for older in found.view["operations"] if overtakes else ():
        end_operation(found.asking, draft, older, operation.State.OVERTAKEN, f"a later '{verb.value}' replaced it")
    op = wish(found.asking, draft, verb, kind="volume", row=row, generation=found.generation, count=count, stood=stood)
    hold(found, op, writes)
    wake(found)
    return Drafted(
        draft=draft,
        status=202,
        refers={"volume": UUID(row["id"]), "operation": op["id"]},
        effects=[_effect(action, row, details or {})],
        hints=[f"node:{row['node_id']}"],
    )


def hold(found: Change, op: Row, writes: bool) -> None:
    if writes and not any(a["state"] in STANDING for a in found.view["attachments"]):
        holds(found.draft, found.asking, found.row, epoch=found.view["epoch"] + 1, operation_id=op["id"])
