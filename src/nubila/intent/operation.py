"""Cancelling an operation: legal in every state, and always with an answer. Pure."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec

from nubila import errors
from nubila.intent import port_wish, volume_cancel
from nubila.intent.asking import Asking, Outcome, builtins, end_operation, next_number, wish
from nubila.intent.cancelling import taken_back, too_late
from nubila.intent.vm import barred, leave
from nubila.model import operation, vm
from nubila.model.draft import Row

# verb -> what a cancel does, said to the person who cancels
CANCELLING: dict[operation.Verb, str] = {
    operation.Verb.CREATE: "The VM is removed again.",
    operation.Verb.START: "The VM is wished stopped again.",
    operation.Verb.STOP: "The VM is wished running again; a guest that goes down still, since it was told to, is started again.",
    operation.Verb.REBOOT: "No reboot is wished any more; the guest may have been told already.",
    operation.Verb.RESET: "No reset is wished any more; it may have been done already.",
    operation.Verb.SUSPEND: "The VM is wished to go on.",
    operation.Verb.RESUME: "The VM is wished suspended again; its guest may have gone on for a moment.",
    operation.Verb.RESIZE: "Too late: the new size is wished and claimed already. Change it again.",
    operation.Verb.REPAIR: "No repair is wished any more; it may have been done already.",
    operation.Verb.INSERT: "The ISO is wished out of the drive again.",
    operation.Verb.EJECT: "Too late: the drive is wished empty already. Insert the ISO again.",
    operation.Verb.RESCUE: "The VM is wished stopped again, and out of rescue.",
    operation.Verb.REMOVE: "Too late: what was removed cannot be brought back. It will end by its deadline, or say why not.",
}


_TOO_LATE = frozenset({operation.Verb.REMOVE, operation.Verb.RESIZE, operation.Verb.EJECT})


def cancelling(spec: operation.Spec) -> str:
    """What a cancel of this operation means."""
    tables = {"volume": volume_cancel.CANCELLING, "snapshot": volume_cancel.CANCELLING, "port": port_wish.CANCELLING}
    return tables.get(spec.resource_kind, CANCELLING)[spec.verb]


def cancel(op: Row, view: dict[str, Any] | None, asking: Asking) -> Outcome:
    spec = msgspec.convert(op["spec"], operation.Spec)
    draft = asking.draft()
    ended = operation.State(op["state"]) in operation.TERMINAL
    if ended or spec.verb in _TOO_LATE or view is None:
        said = f"Too late: it is {op['state']} already, there is nothing to cancel." if ended else CANCELLING[spec.verb]
        return too_late(op, draft, said)
    row = view["vm"]
    wish_spec = msgspec.convert(row["spec"], vm.Spec)
    if wish_spec.holds and (held := barred(row, wish_spec)) is not None:
        return held
    if spec.verb is operation.Verb.CREATE and wish_spec.protected:
        return errors.Conflict(
            f"Cancelling would remove VM '{row['name']}', which is protected against removal.",
            state=row["state"],
            fix="Take the protection away first.",
        )
    wished = _back(spec, row, wish_spec)
    status = None if row["status"] is None else msgspec.convert(row["status"], vm.Status)
    generation = row["generation"] + 1
    state = vm.state(wished, status, was=vm.State(row["state"]))
    draft.changes("vm", row, spec=builtins(wished), generation=generation, state=state.value)
    for open_op in view["operations"]:
        mine = open_op["id"] == op["id"]
        reason = "cancelled on request" if mine else "the operation before it was cancelled"
        end_operation(asking, draft, open_op, operation.State.CANCELLED if mine else operation.State.OVERTAKEN, reason)
    refers = {}
    if wished.gone:
        leave(view, asking, draft)
        refers = {"vm": UUID(row["id"])}
        wish(asking, draft, operation.Verb.REMOVE, kind="vm", row=row, generation=generation)
    draft.wakes(UUID(row["node_id"]), UUID(row["id"]))
    hints = [f"node:{row['node_id']}", f"op:{op['id']}"]
    return taken_back(op, draft, CANCELLING[spec.verb], hints, refers)


def _back(spec: operation.Spec, row: Row, wished: vm.Spec) -> vm.Spec:
    """The vm's wish without the cancelled one. A number that is withdrawn is never given again (`next_number`)."""
    replace = msgspec.structs.replace
    match spec.verb:
        case operation.Verb.CREATE:
            return replace(wished, gone=True)
        case operation.Verb.START:
            return replace(wished, power=vm.Power.OFF, stop_mode=vm.StopMode.HARD)
        case operation.Verb.STOP:
            # A new start number: should the guest have powered off meanwhile, it is started again.
            return replace(wished, power=vm.Power.ON, starts=next_number(wished.starts, row, "starts"))
        case operation.Verb.REBOOT:
            return replace(wished, reboots=spec.stood or 0)
        case operation.Verb.INSERT:
            return replace(wished, media=None, repairs=next_number(wished.repairs, row, "repairs"))
        case operation.Verb.RESCUE:
            repairs = next_number(wished.repairs, row, "repairs")
            return replace(wished, rescue=False, power=vm.Power.OFF, stop_mode=vm.StopMode.HARD, repairs=repairs)
        case operation.Verb.RESET:
            return replace(wished, resets=spec.stood or 0)
        case operation.Verb.REPAIR:
            return replace(wished, repairs=spec.stood or 0)
        case operation.Verb.SUSPEND | operation.Verb.RESUME:
            return replace(wished, suspended=spec.verb is operation.Verb.RESUME)
        case _:
            return wished
