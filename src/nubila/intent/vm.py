"""What may be wished of an existing vm: start, stop, reboot, rename, label, remove. Pure."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec

from nubila import errors
from nubila.intent.asking import Asking, Outcome, builtins, end_operation, wish
from nubila.model import operation, vm
from nubila.model.draft import Draft, Drafted, Effect, Row
from nubila.model.fields import Labels, Name, TimeoutS
from nubila.model.ids import text

View = dict[str, Any]


class VmStop(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Stop a VM: clean asks the guest and pulls the plug at the timeout; hard pulls it at once."""

    mode: vm.StopMode = vm.StopMode.CLEAN
    timeout_s: TimeoutS = 60.0


class VmReboot(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Reboot a VM: asks the guest, and resets it at the timeout."""

    timeout_s: TimeoutS = 60.0


class VmChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rename or relabel a VM. The guest's host name stays."""

    name: Name | None = None
    labels: Labels | None = None


def start(view: View, asking: Asking) -> Outcome:
    row, spec = _opened(view)
    if spec.gone:
        return _leaving(row)
    if spec.power is vm.Power.ON and row["state"] not in (vm.State.STOPPED, vm.State.FAILED):
        return errors.Conflict(f"VM '{row['name']}' is {row['state']} already.", state=row["state"])
    wished = msgspec.structs.replace(spec, power=vm.Power.ON, starts=_next(spec.starts, row, "starts"))
    return _wished(view, asking, row, wished, operation.Verb.START, count=wished.starts)


def stop(body: VmStop, view: View, asking: Asking) -> Outcome:
    row, spec = _opened(view)
    if spec.gone:
        return _leaving(row)
    if row["state"] == vm.State.STOPPED and spec.power is vm.Power.OFF:
        return errors.Conflict(f"VM '{row['name']}' is stopped already.", state=row["state"])
    wished = msgspec.structs.replace(spec, power=vm.Power.OFF, stop_mode=body.mode, stop_timeout_s=body.timeout_s)
    deadline = (body.timeout_s if body.mode is vm.StopMode.CLEAN else 0) + 60
    return _wished(view, asking, row, wished, operation.Verb.STOP, deadline_s=deadline)


def reboot(body: VmReboot, view: View, asking: Asking) -> Outcome:
    row, spec = _opened(view)
    if spec.gone:
        return _leaving(row)
    if row["state"] not in (vm.State.RUNNING, vm.State.REBOOTING):
        return errors.Conflict(
            f"VM '{row['name']}' is {row['state']}; only a running VM can be rebooted.",
            state=row["state"],
            fix="Start it first.",
        )
    wished = msgspec.structs.replace(spec, reboots=_next(spec.reboots, row, "reboots"), reboot_timeout_s=body.timeout_s)
    return _wished(
        view, asking, row, wished, operation.Verb.REBOOT, count=wished.reboots, deadline_s=body.timeout_s + 60
    )


def remove(view: View, asking: Asking) -> Outcome:
    row, spec = _opened(view)
    if spec.gone:
        return _leaving(row)
    wished = msgspec.structs.replace(spec, gone=True)
    return _wished(view, asking, row, wished, operation.Verb.REMOVE)


def change(body: VmChange, view: View, asking: Asking) -> Outcome:
    row, spec = _opened(view)
    if spec.gone:
        return _leaving(row)
    columns: Row = {}
    if body.name is not None and body.name != row["name"]:
        columns["name"] = body.name
    if body.labels is not None and body.labels != row["labels"]:
        columns["labels"] = body.labels
    draft = asking.draft()
    if not columns:
        return Drafted(draft=draft, status=200, refers={"vm": UUID(row["id"])})
    draft.changes("vm", row, generation=row["generation"] + 1, **columns)
    draft.wakes(UUID(row["node_id"]), UUID(row["id"]))
    shown = {k: {"was": row[k], "becomes": v} for k, v in columns.items()}
    return Drafted(
        draft=draft,
        status=200,
        refers={"vm": UUID(row["id"])},
        hints=[f"node:{row['node_id']}"],
        effects=[Effect(action="change", kind="vm", id=text("vm", UUID(row["id"])), name=row["name"], details=shown)],
    )


def _opened(view: View) -> tuple[Row, vm.Spec]:
    return view["vm"], msgspec.convert(view["vm"]["spec"], vm.Spec)


def _leaving(row: Row) -> errors.Conflict:
    return errors.Conflict(
        f"VM '{row['name']}' is being removed.", state=row["state"], fix="Wait until it is gone, or create another."
    )


def _next(wished: int, row: Row, counter: str) -> int:
    """One more than what was ever wished or done, so that a cancelled wish is never taken for a new one."""
    done: int = (row["status"] or {}).get(counter, 0)
    return max(wished, done) + 1


def _wished(
    view: View,
    asking: Asking,
    row: Row,
    spec: vm.Spec,
    verb: operation.Verb,
    *,
    count: int | None = None,
    deadline_s: float | None = None,
) -> Outcome:
    draft = asking.draft()
    generation = row["generation"] + 1
    status = None if row["status"] is None else msgspec.convert(row["status"], vm.Status)
    state = vm.state(spec, status, was=vm.State(row["state"]))
    draft.changes("vm", row, spec=builtins(spec), generation=generation, state=state.value)
    for older in view["operations"]:
        end_operation(asking, draft, older, operation.State.OVERTAKEN, f"a later '{verb.value}' replaced it")
    effects = _leave(view, draft) if verb is operation.Verb.REMOVE else []
    op = wish(asking, draft, verb, kind="vm", row=row, generation=generation, count=count, deadline_s=deadline_s)
    draft.wakes(UUID(row["node_id"]), UUID(row["id"]))
    was = msgspec.convert(row["spec"], vm.Spec)
    shown = {
        f: {"was": a, "becomes": b} for f in was.__struct_fields__ if (a := getattr(was, f)) != (b := getattr(spec, f))
    }
    action = "remove" if verb is operation.Verb.REMOVE else "change"
    return Drafted(
        draft=draft,
        status=202,
        refers={"vm": UUID(row["id"]), "operation": op["id"]},
        hints=[f"node:{row['node_id']}"],
        effects=[
            Effect(action=action, kind="vm", id=text("vm", UUID(row["id"])), name=row["name"], details=shown),
            *effects,
        ],
    )


def _leave(view: View, draft: Draft) -> list[Effect]:
    """Volumes that go with their vm are wished away in the same commit; the rest follows the node's report."""
    effects = []
    for v in view["volumes"]:
        if v["spec"]["remove_with_vm"]:
            draft.changes(
                "volume", v, spec={**v["spec"], "gone": True}, generation=v["generation"] + 1, state="removing"
            )
            effects.append(
                Effect(
                    action="remove",
                    kind="volume",
                    id=text("volume", UUID(v["id"])),
                    name=v["name"],
                    details={"size_gib": v["spec"]["size_gib"]},
                )
            )
    for p in view["ports"]:
        effects.append(
            Effect(
                action="remove", kind="port", id=text("port", UUID(p["id"])), name=p["name"], details={"mac": p["mac"]}
            )
        )
    return effects
