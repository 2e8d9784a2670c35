"""The ledger of drifts: what a node's report makes of it, and what operators do about a line of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from nubila import errors
from nubila.intent.asking import Asking, Outcome, builtins, end_operation, next_number, wish
from nubila.intent.vm import VmChange, barred
from nubila.intent.vm_size import resize
from nubila.model import drift, operation, vm
from nubila.model.draft import Draft, Drafted, Effect, Row
from nubila.model.fields import Reason
from nubila.model.ids import Mint, parse, text
from nubila.protocol import Drift

View = dict[str, Any]
NAME_MAX = 200


class DriftIgnore(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Say that a drift is known and shall rest for a time. It goes on being watched."""

    hours: drift.Hours = 24.0
    reason: Reason = ""


def observe(rows: list[Row], found: Iterable[Drift], node_id: UUID, now: datetime, draft: Draft, mint: Mint) -> None:
    """Add to the draft how the ledger of one node changes: new lines, changed ones, and those that are over."""
    seen: dict[tuple[str, str], Drift] = {}
    for one in found:
        seen.setdefault((one.kind, _name(one)), one)
    for row in rows:
        now_seen = seen.pop((row["thing_kind"], row["name"]), None)
        if now_seen is None:
            draft.changes("drift", row, version=True, state=drift.State.RESOLVED.value, removed_at=now)
        elif builtins(_status(now_seen)) != row["status"]:
            draft.changes("drift", row, version=True, status=builtins(_status(now_seen)), cause=now_seen.cause)
    for (kind, name), one in seen.items():
        vm_id = parse("vm", one.vm_id) if one.vm_id else None
        draft.inserts(
            "drift", id=mint(), name=name, labels={}, spec=builtins(drift.Spec()), generation=1,
            status=builtins(_status(one)), state=drift.State.OPEN.value, node_id=node_id, vm_id=vm_id,
            thing_kind=kind, cause=one.cause,
        )  # fmt: skip


def _name(one: Drift) -> str:
    return f"{one.thing}/{one.field}"[:NAME_MAX]


def _status(one: Drift) -> drift.Status:
    return drift.Status(
        kind=one.kind,
        thing=one.thing,
        field=one.field,
        wished=one.wished,
        observed=one.observed,
        cause=drift.Cause(one.cause),
    )


def ignore(body: DriftIgnore, row: Row, asking: Asking) -> Outcome:
    spec = drift.Spec(ignore_until=asking.now + timedelta(hours=body.hours), ignore_reason=body.reason)
    return _spec(
        row, spec, asking, {"ignore_until": {"was": row["spec"]["ignore_until"], "becomes": spec.ignore_until}}
    )


def heed(row: Row, asking: Asking) -> Outcome:
    """No longer ignored."""
    if row["state"] != drift.State.IGNORED:
        return errors.Conflict(f"Drift '{row['name']}' is {row['state']}, not ignored.", state=row["state"])
    return _spec(row, drift.Spec(), asking, {"ignore_until": {"was": row["spec"]["ignore_until"], "becomes": None}})


def _spec(row: Row, spec: drift.Spec, asking: Asking, shown: dict[str, Any]) -> Outcome:
    draft, drift_id = asking.draft(), UUID(row["id"])
    state = drift.state(spec, asking.now, was=drift.State(row["state"]))
    draft.changes("drift", row, spec=builtins(spec), generation=row["generation"] + 1, state=state.value)
    effect = Effect(action="change", kind="drift", id=text("drift", drift_id), name=row["name"], details=shown)
    return Drafted(draft=draft, status=200, refers={"drift": drift_id}, effects=[effect])


def repair(row: Row, view: View | None, asking: Asking) -> Outcome:
    """The vm's node makes its domain as it is wished, in what can be changed while it runs."""
    no = _refused(row, view, drift.Verb.REPAIR)
    if no is not None:
        return no
    assert view is not None
    spec = msgspec.convert(view["vm"]["spec"], vm.Spec)
    wished = msgspec.structs.replace(spec, repairs=next_number(spec.repairs, view["vm"], "repairs"))
    return _wished(row, view, asking, wished)


def adopt(row: Row, view: View | None, asking: Asking) -> Outcome:
    """The wish becomes what was seen: a change like any other, with its claims and refusals."""
    no = _refused(row, view, drift.Verb.ADOPT)
    if no is not None:
        return no
    assert view is not None
    field, seen = row["status"]["field"], row["status"]["observed"]
    try:
        body = msgspec.convert({field: seen.split() if field == "boot" else int(seen)}, VmChange)
        outcome = resize(body, view, asking)
    except (ValueError, msgspec.ValidationError):
        outcome = errors.Invalid("it is not well formed")
    if isinstance(outcome, errors.Invalid):
        return errors.Conflict(
            f"What is there, {field} = {seen[:40]}, is nothing that a VM may be wished to have.", fix="Repair it."
        )
    if isinstance(outcome, Drafted):
        outcome.draft.rests_on("drift", row)
        outcome.refers["drift"] = UUID(row["id"])
    return outcome


def _refused(row: Row, view: View | None, verb: drift.Verb) -> errors.NubilaError | None:
    status = row["status"]
    no = drift.refused(verb, drift.Cause(status["cause"]), status["field"])
    if no is not None:
        return errors.Conflict(
            f"The drift of {status['kind']} '{status['thing']}' cannot be met by '{verb.value}': {no[0]}.",
            fix=no[1],
            cause=status["cause"],
        )
    if view is None:
        return errors.Conflict(f"The VM of '{row['name']}' is gone.", fix="The drift ends with its node's next report.")
    return barred(view["vm"], msgspec.convert(view["vm"]["spec"], vm.Spec))


def _wished(row: Row, view: View, asking: Asking, spec: vm.Spec) -> Outcome:
    draft, whose, drift_id = asking.draft(), view["vm"], UUID(row["id"])
    vm_id, generation = UUID(whose["id"]), whose["generation"] + 1
    status = None if whose["status"] is None else msgspec.convert(whose["status"], vm.Status)
    state = vm.state(spec, status, was=vm.State(whose["state"]))
    draft.rests_on("drift", row)
    draft.changes("vm", whose, spec=builtins(spec), generation=generation, state=state.value)
    for older in view["operations"]:
        if older["spec"]["verb"] == operation.Verb.REPAIR:
            end_operation(asking, draft, older, operation.State.OVERTAKEN, "a later 'repair' replaced it")
    verb = operation.Verb.REPAIR
    was = msgspec.convert(whose["spec"], vm.Spec)
    op = wish(asking, draft, verb, kind="vm", row=whose, generation=generation, count=spec.repairs, stood=was.repairs)
    draft.wakes(UUID(whose["node_id"]), vm_id)
    shown = {
        f: {"was": a, "becomes": b} for f in was.__struct_fields__ if (a := getattr(was, f)) != (b := getattr(spec, f))
    }
    shown[row["status"]["field"]] = {"was": row["status"]["observed"], "becomes": row["status"]["wished"]}
    return Drafted(
        draft=draft,
        status=202,
        refers={"drift": drift_id, "operation": op["id"]},
        hints=[f"node:{whose['node_id']}"],
        effects=[Effect(action="change", kind="vm", id=text("vm", vm_id), name=whose["name"], details=shown)],
    )
