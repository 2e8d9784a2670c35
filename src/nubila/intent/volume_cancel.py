"""Cancelling an operation on a volume or a snapshot: legal in every state, and always with an answer. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from nubila.intent.asking import Asking, Outcome, builtins, end_operation
from nubila.intent.cancelling import taken_back, too_late
from nubila.intent.snapshot import gone as gone_snapshot
from nubila.intent.volume import gone, revoke
from nubila.intent.volume_wish import Change, begin, touch_vm, wake
from nubila.model import operation, volume
from nubila.model.draft import Drafted, Row

TOO_LATE = "Too late: it may be under way. It will end by its deadline, or say why not."
# verb -> what a cancel does, said to the person who cancels
CANCELLING: dict[operation.Verb, str] = {
    operation.Verb.CREATE: "It is removed again.",
    operation.Verb.REMOVE: "Too late: what was removed cannot be brought back. It will end by its deadline, or say why not.",
    operation.Verb.ATTACH: "The volume is detached again.",
    operation.Verb.DETACH: "Too late: the guest was asked to let go. It ends when it does, or when its VM stops.",
    operation.Verb.RESIZE: "Too late: it may be larger already, and volumes only grow.",
    operation.Verb.CHANGE: TOO_LATE,
    operation.Verb.ROLL_BACK: "No roll-back is wished any more; the node may have done it already.",
}


_TOO_LATE = frozenset({operation.Verb.REMOVE, operation.Verb.DETACH, operation.Verb.RESIZE, operation.Verb.CHANGE})


def cancel(op: Row, view: dict[str, Any] | None, asking: Asking) -> Outcome:
    spec = msgspec.convert(op["spec"], operation.Spec)
    if operation.State(op["state"]) in operation.TERMINAL:
        return too_late(op, asking.draft(), f"It is {op['state']} already: there is nothing to cancel.")
    found = None if view is None else begin(view, asking)
    done = _back(op, spec, found, asking) if isinstance(found, Change) and spec.verb not in _TOO_LATE else False
    if not done:
        return too_late(op, asking.draft(), CANCELLING[spec.verb] if spec.verb in _TOO_LATE else TOO_LATE)
    assert isinstance(found, Change)
    draft = done.draft if isinstance(done, Drafted) else found.draft
    draft.update["operation"] = [o for o in draft.update.get("operation", []) if str(o["id"]) != op["id"]]
    end_operation(asking, draft, op, operation.State.CANCELLED, "cancelled on request")
    return taken_back(op, draft, CANCELLING[spec.verb], [f"node:{op['node_id']}", f"op:{op['id']}"])


def _back(op: Row, spec: operation.Spec, found: Change, asking: Asking) -> Drafted | bool:
    """The wish without the cancelled one; False when there is no way back."""
    match (spec.resource_kind, spec.verb):
        case ("volume", operation.Verb.CREATE):
            outcome = gone(found)
            return outcome if isinstance(outcome, Drafted) else False
        case ("snapshot", operation.Verb.CREATE):
            return _without_snapshot(op, found)
        case ("volume", operation.Verb.ATTACH):
            held = next((a for a in found.view["attachments"] if a["vm_id"] and a["epoch"] == spec.count), None)
            if held is None or held["state"] != "active":
                return False
            revoke(found.draft, held)
            touch_vm(found.draft, held["vm"])
        case ("volume", operation.Verb.ROLL_BACK):
            found.spec = msgspec.structs.replace(found.spec, rollbacks=spec.stood or 0)
        case _:
            return False
    return _rewritten(found)


def _rewritten(found: Change) -> bool:
    row = found.row
    status = None if row["status"] is None else msgspec.convert(row["status"], volume.Status)
    state = volume.state(found.spec, status, was=volume.State(row["state"]))
    found.draft.changes("volume", row, spec=builtins(found.spec), generation=found.generation, state=state.value)
    wake(found)
    return True


def _without_snapshot(op: Row, found: Change) -> bool:
    row = next((s for s in found.view["snapshots"] if s["id"] == op["resource_id"]), None)
    if row is None or row["spec"]["gone"]:
        return False
    gone_snapshot(found.draft, row)
    return _rewritten(found)
