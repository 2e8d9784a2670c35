"""A node's life as operators decide it: let in, drained, in maintenance, returned, lost, retired. Pure.

What is wished stands in its spec; its state follows from that by the model's one function, and the database refuses steps
that are not in the model's table.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec

from nubila import errors
from nubila.intent.asking import Asking, Outcome, builtins
from nubila.intent.node_change import View, not_yet
from nubila.model import node
from nubila.model.draft import Drafted, Effect
from nubila.model.fields import Reason
from nubila.model.ids import text


class NodeAway(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why a node gets nothing new."""

    reason: Reason = ""


def approve(view: View, asking: Asking) -> Outcome:
    """The machine is let in: from now on it is told what is placed there. What a refused one comes to is `retire`."""
    return _wished(view, asking, approved=True)


def drain(body: NodeAway, view: View, asking: Asking) -> Outcome:
    """It gets nothing new and is to be emptied; what is still there keeps running."""
    wished = {"draining": True, "maintenance": False, "maintenance_reason": body.reason}
    return _lost(view) or _wished(view, asking, **wished)


def maintain(body: NodeAway, view: View, asking: Asking) -> Outcome:
    """It gets nothing new; what is there stays."""
    wished = {"draining": False, "maintenance": True, "maintenance_reason": body.reason}
    return _lost(view) or _wished(view, asking, **wished)


def come_back(view: View, asking: Asking) -> Outcome:
    """It gets VMs again. One that was lost has to say first what it runs."""
    wished = {"draining": False, "maintenance": False, "came_back": False, "maintenance_reason": ""}
    return _lost(view) or not_yet(view) or _wished(view, asking, **wished)


def lose(body: NodeAway, view: View, asking: Asking) -> Outcome:
    """It is silent, and an operator says that it does not come back by itself. Its session ends with that: if it speaks
    again after all, it has to open a new one, and stands in maintenance."""
    row, silent_s = view.row, view.silent_s
    if row["state"] == node.State.ENROLLING or view.session is None or silent_s is None:
        return errors.Conflict(
            f"Node '{row['name']}' was never heard from: it holds nothing that could be lost.",
            state=row["state"],
            fix=f"If it is not wanted: 'nubila node retire {row['name']}'.",
        )
    if row["state"] == node.State.LOST:
        return Drafted(draft=asking.draft(), status=200, refers={"node": UUID(row["id"])})
    if silent_s <= node.SILENT_AFTER_S:
        return errors.Conflict(
            f"Node '{row['name']}' was heard from {silent_s:.0f} s ago: what speaks is not lost.",
            state=row["state"],
            fix=f"That it gets nothing new: 'nubila node maintenance {row['name']}'.",
        )
    done = _wished(view, asking, lost=True, came_back=False, maintenance_reason=body.reason)
    assert isinstance(done, Drafted)
    done.draft.updates("node_seen", {"node_id": row["id"]}, session=-abs(view.session))
    return done


def retire(view: View, asking: Asking) -> Outcome:
    """The machine is a node no more; its agent is refused from now on. What is placed there forbids it."""
    row, draft = view.row, asking.draft()
    object_id = UUID(row["id"])
    draft.removes("node", row, state=node.State.RETIRED.value, removed_at=asking.now, generation=row["generation"] + 1)
    for i in view.inventory:
        draft.deletes("inventory", node_id=row["id"], **{"class": i["class"]})
    for m in view.methods:
        draft.deletes("virt_method", node_id=row["id"], name=m["name"])
    effect = Effect(action="remove", kind="node", id=text("node", object_id), name=row["name"])
    return Drafted(draft=draft, status=200, refers={"node": object_id}, effects=[effect], hints=["fleet"])


def _lost(view: View) -> errors.NubilaError | None:
    row = view.row
    if row["state"] != node.State.LOST:
        return None
    return errors.Conflict(
        f"Node '{row['name']}' is lost: it gets nothing, and nothing can be asked of it.",
        state=row["state"],
        fix="When its agent speaks again it stands in maintenance by itself; if it never will: "
        f"'nubila node retire {row['name']}'.",
    )


def _wished(view: View, asking: Asking, **wished: Any) -> Outcome:
    """The node's wish becomes this, and its state what follows from that."""
    row = view.row
    was = msgspec.convert(row["spec"], node.Spec)
    spec, object_id = msgspec.structs.replace(was, **wished), UUID(row["id"])
    if spec == was:
        return Drafted(draft=asking.draft(), status=200, refers={"node": object_id})
    status = None if row["status"] is None else msgspec.convert(row["status"], node.Status)
    state = node.state(spec, status, was=node.State(row["state"]))
    draft = asking.draft()
    draft.changes("node", row, generation=row["generation"] + 1, state=state.value, spec=builtins(spec))
    changed = {k: {"was": getattr(was, k), "becomes": v} for k, v in wished.items() if getattr(was, k) != v}
    effect = Effect(action="change", kind="node", id=text("node", object_id), name=row["name"], details=changed)
    hints = ["fleet", f"node:{object_id}"]
    return Drafted(draft=draft, status=200, refers={"node": object_id}, effects=[effect], hints=hints)
