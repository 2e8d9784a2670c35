"""What may be wished of an existing vm: start, stop, reboot, rename, label, remove; and what all its verbs share. Pure."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Meta

from nubila import errors
from nubila.intent.asking import Asking, Outcome, builtins, end_operation, next_number, wish
from nubila.model import operation, vm
from nubila.model.draft import Draft, Drafted, Effect, Row
from nubila.model.fields import Cores, Labels, MemoryMib, Name, Reference, TimeoutS
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
    """Change a VM's name (the guest's host name stays), labels, crash policy, protection against removal, boot order (at its
    next start), or size."""

    name: Name | None = None
    labels: Labels | None = None
    on_crash: vm.CrashPolicy | None = None
    protected: bool | None = None
    boot: Annotated[tuple[vm.Boot, ...], Meta(min_length=1, max_length=2)] | None = None
    cores: Cores | None = None
    memory_mib: MemoryMib | None = None
    flavor: Reference | None = None


def start(view: View, asking: Asking) -> Outcome:
    row, spec = opened(view)
    if (no := barred(row, spec)) is not None:
        return no
    if spec.power is vm.Power.ON and row["state"] not in (vm.State.STOPPED, vm.State.FAILED):
        return errors.Conflict(
            f"VM '{row['name']}' is {row['state']} already.", state=row["state"], already=row["state"] in _UP
        )
    wish_ = msgspec.structs.replace(
        spec, power=vm.Power.ON, suspended=False, starts=next_number(spec.starts, row, "starts")
    )
    return wished(view, asking, row, wish_, operation.Verb.START, count=wish_.starts)


def stop(body: VmStop, view: View, asking: Asking) -> Outcome:
    row, spec = opened(view)
    if (no := barred(row, spec)) is not None:
        return no
    if row["state"] == vm.State.STOPPED and spec.power is vm.Power.OFF:
        return errors.Conflict(f"VM '{row['name']}' is stopped already.", state=row["state"], already=True)
    wish_ = msgspec.structs.replace(
        spec, power=vm.Power.OFF, suspended=False, stop_mode=body.mode, stop_timeout_s=body.timeout_s
    )
    deadline = (body.timeout_s if body.mode is vm.StopMode.CLEAN else 0) + 60
    return wished(view, asking, row, wish_, operation.Verb.STOP, deadline_s=deadline)


def reboot(body: VmReboot, view: View, asking: Asking) -> Outcome:
    row, spec = opened(view)
    if (no := barred(row, spec)) is not None:
        return no
    if row["state"] not in (vm.State.RUNNING, vm.State.REBOOTING):
        return errors.Conflict(
            f"VM '{row['name']}' is {row['state']}; only a running VM can be rebooted.",
            state=row["state"],
            fix=_TO_RUN.get(vm.State(row["state"]), "Wait until it runs: see its state, and its reason in 'status'."),
        )
    wish_ = msgspec.structs.replace(
        spec, reboots=next_number(spec.reboots, row, "reboots"), reboot_timeout_s=body.timeout_s
    )
    deadline_s = body.timeout_s + 60
    return wished(
        view, asking, row, wish_, operation.Verb.REBOOT, count=wish_.reboots, stood=spec.reboots, deadline_s=deadline_s
    )


_UP = frozenset({vm.State.STARTING, vm.State.RUNNING, vm.State.REBOOTING})
# state -> what leads to a VM that runs
_TO_RUN: dict[vm.State, str] = {
    vm.State.STOPPED: "Start it first.",
    vm.State.STOPPING: "Wait until it has stopped, then start it.",
}


def remove(view: View, asking: Asking) -> Outcome:
    row, spec = opened(view)
    if (no := barred(row, spec)) is not None:
        return no
    if spec.protected:
        return errors.Conflict(
            f"VM '{row['name']}' is protected against removal.",
            state=row["state"],
            fix=f"Take the protection away first: 'nubila vm unprotect {row['name']}' (PATCH with \"protected\": false).",
        )
    wish_ = msgspec.structs.replace(spec, gone=True)
    return wished(view, asking, row, wish_, operation.Verb.REMOVE)


def change(body: VmChange, view: View, asking: Asking) -> Outcome:
    row, spec = opened(view)
    if (no := barred(row, spec)) is not None:
        return no
    if body.boot is not None and len(set(body.boot)) < len(body.boot):
        return errors.Invalid("A device is named twice in 'boot'.", field="boot")
    if body.boot is not None and body.boot != spec.boot and (no := driveless(view, spec)) is not None:
        return no
    if body.on_crash is vm.CrashPolicy.PRESERVE and not view["capabilities"].get("panic", True):
        return errors.Unsupported(
            f"The virt method {spec.virt_method} on this VM's node sees no panic of a guest, and cannot preserve one.",
            fix="Choose another crash policy.",
        )
    columns, wish_ = asked(body, row, spec)
    if (wish_.boot, wish_.on_crash) != (spec.boot, spec.on_crash):  # its definition has them too
        wish_ = msgspec.structs.replace(wish_, repairs=next_number(spec.repairs, row, "repairs"))
    return amended(asking, row, wish_, columns)


def asked(body: VmChange, row: Row, spec: vm.Spec) -> tuple[Row, vm.Spec]:
    """The columns and the spec with what the body gives, but for the size."""
    columns: Row = {}
    if body.name is not None and body.name != row["name"]:
        columns["name"] = body.name
    if body.labels is not None and body.labels != row["labels"]:
        columns["labels"] = body.labels
    given = {f: v for f in _CHANGED if (v := getattr(body, f)) is not None}
    return columns, msgspec.structs.replace(spec, **given)


# fields of VmChange that go into the spec as they are
_CHANGED = ("on_crash", "protected", "boot")


def amended(asking: Asking, row: Row, spec: vm.Spec, columns: Row) -> Outcome:
    """A change that no operation follows: the node is told, and nothing has to happen there at once."""
    draft = asking.draft()
    shown = {k: {"was": row[k], "becomes": v} for k, v in columns.items()} | differences(row, spec)
    if not shown:
        return Drafted(draft=draft, status=200, refers={"vm": UUID(row["id"])})
    if differences(row, spec):
        columns = {**columns, "spec": builtins(spec)}
    draft.changes("vm", row, generation=row["generation"] + 1, **columns)
    draft.wakes(UUID(row["node_id"]), UUID(row["id"]))
    return Drafted(
        draft=draft,
        status=200,
        refers={"vm": UUID(row["id"])},
        hints=[f"node:{row['node_id']}"],
        effects=[Effect(action="change", kind="vm", id=text("vm", UUID(row["id"])), name=row["name"], details=shown)],
    )


def differences(row: Row, spec: vm.Spec) -> dict[str, Any]:
    was = msgspec.convert(row["spec"], vm.Spec)
    fields = was.__struct_fields__
    return {f: {"was": a, "becomes": b} for f in fields if (a := getattr(was, f)) != (b := getattr(spec, f))}


def opened(view: View) -> tuple[Row, vm.Spec]:
    return view["vm"], msgspec.convert(view["vm"]["spec"], vm.Spec)


def barred(row: Row, spec: vm.Spec) -> errors.NubilaError | None:
    """Why nothing may be changed about this vm now, or None. Every verb of a vm, and of what belongs to it, asks."""
    if spec.gone:
        return leaving(row)
    if spec.holds:
        first = spec.holds[0]
        lift = (
            "An operator must lift it."
            if first.plane == "operator"
            else f"Lift it: 'nubila vm unhold {row['name']}' (POST /v1/vms/ID/unhold)."
        )
        return errors.Conflict(
            f"VM '{row['name']}' is held by {first.by} since {first.since}: {first.reason}",
            state=row["state"],
            holds=builtins(spec.holds),
            fix=lift,
        )
    return None


def driveless(view: View, spec: vm.Spec) -> errors.Unsupported | None:
    """Why it has no drive and no boot order, or None."""
    if view["capabilities"].get("media", True):
        return None
    return errors.Unsupported(
        f"The virt method {spec.virt_method} on this VM's node gives a VM no drive, and boots its root only.",
        fix="Run it from a disk image, by another virt method.",
    )


def leaving(row: Row) -> errors.Conflict:
    return errors.Conflict(
        f"VM '{row['name']}' is being removed.", state=row["state"], fix="Wait until it is gone, or create another."
    )


def wished(
    view: View,
    asking: Asking,
    row: Row,
    spec: vm.Spec,
    verb: operation.Verb,
    *,
    count: int | None = None,
    stood: int | None = None,
    deadline_s: float | None = None,
    columns: Row | None = None,
    details: Row | None = None,
) -> Outcome:
    """Put the wish, and the operation that follows it. `columns` change beside the spec, `details` are shown.

    `count` is the number of the wish, `stood` the one that a cancel goes back to."""
    draft = asking.draft()
    generation = row["generation"] + 1
    status = None if row["status"] is None else msgspec.convert(row["status"], vm.Status)
    state = vm.state(spec, status, was=vm.State(row["state"]))
    draft.changes("vm", row, spec=builtins(spec), generation=generation, state=state.value, **(columns or {}))
    for older in view["operations"]:
        end_operation(asking, draft, older, operation.State.OVERTAKEN, f"a later '{verb.value}' replaced it")
    effects = leave(view, asking, draft) if verb is operation.Verb.REMOVE else []
    op = wish(
        asking, draft, verb, kind="vm", row=row, generation=generation, count=count, stood=stood, deadline_s=deadline_s
    )
    draft.wakes(UUID(row["node_id"]), UUID(row["id"]))
    shown = differences(row, spec) | (details or {})
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


def leave(view: View, asking: Asking, draft: Draft) -> list[Effect]:
    """Volumes that go with their vm are wished away in the same commit, and the snapshots in them; the rest follows the
    node's report."""
    effects = []
    going = {v["id"] for v in view["volumes"] if v["spec"]["remove_with_vm"]}
    for s in view["snapshots"]:
        if s["volume_id"] in going:
            effects.append(_leave_snapshot(s, view, asking, draft))
    for op in view["volume_operations"]:  # a disk that it never had it will not get, and one that goes need not grow
        if op["resource_id"] in going or op["spec"]["verb"] == operation.Verb.ATTACH:
            end_operation(asking, draft, op, operation.State.OVERTAKEN, "its vm is removed")
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


def _leave_snapshot(row: Row, view: View, asking: Asking, draft: Draft) -> Effect:
    if not row["spec"]["gone"]:
        spec = {**row["spec"], "gone": True}
        draft.changes("snapshot", row, spec=spec, generation=row["generation"] + 1, state="removing")
    for op in view["snapshot_operations"]:
        if op["resource_id"] == row["id"] and op["spec"]["verb"] != operation.Verb.REMOVE:
            end_operation(asking, draft, op, operation.State.OVERTAKEN, "its vm is removed")
    details = {"size_gib": row["spec"]["size_gib"]}
    return Effect(
        action="remove", kind="snapshot", id=text("snapshot", UUID(row["id"])), name=row["name"], details=details
    )
