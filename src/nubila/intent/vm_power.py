"""Reset, suspend and resume of a vm. Pure."""

from __future__ import annotations

import msgspec

from nubila import errors
from nubila.intent.asking import Asking, Outcome, next_number
from nubila.intent.vm import View, barred, opened, wished
from nubila.model import operation, vm
from nubila.model.draft import Row


def reset(view: View, asking: Asking) -> Outcome:
    """At most once: after a crash of its node's agent in that moment, whether it was done is unknown, and said so."""
    row, spec = opened(view)
    no = _refused(view, row, spec, "reset", (vm.State.RUNNING, vm.State.REBOOTING), "reset")
    if no is not None:
        return no
    wish = msgspec.structs.replace(spec, resets=next_number(spec.resets, row, "resets"))
    return wished(view, asking, row, wish, operation.Verb.RESET, count=wish.resets, stood=spec.resets)


def suspend(view: View, asking: Asking) -> Outcome:
    row, spec = opened(view)
    no = _refused(view, row, spec, "suspend", (vm.State.RUNNING,), "suspended")
    if no is not None:
        return no
    return wished(view, asking, row, msgspec.structs.replace(spec, suspended=True), operation.Verb.SUSPEND)


def resume(view: View, asking: Asking) -> Outcome:
    row, spec = opened(view)
    no = barred(row, spec)
    if no is None and row["state"] != vm.State.SUSPENDED and not spec.suspended:
        no = errors.Conflict(
            f"VM '{row['name']}' is {row['state']}; only a suspended VM can be resumed.",
            state=row["state"],
            fix="Start it." if row["state"] == vm.State.STOPPED else None,
        )
    if no is not None:
        return no
    return wished(view, asking, row, msgspec.structs.replace(spec, suspended=False), operation.Verb.RESUME)


def _refused(
    view: View, row: Row, spec: vm.Spec, capability: str, states: tuple[vm.State, ...], done: str
) -> errors.NubilaError | None:
    if (no := barred(row, spec)) is not None:
        return no
    if not view["capabilities"].get(capability, True):
        return errors.Unsupported(
            f"The virt method {spec.virt_method} on this VM's node cannot {capability} a VM.",
            fix="Stop and start it instead.",
        )
    if row["state"] not in states or spec.power is vm.Power.OFF or spec.suspended:
        return errors.Conflict(
            f"VM '{row['name']}' is {'being suspended' if spec.suspended else row['state']}; only a running VM can be {done}.",
            state=row["state"],
            fix="Resume it first." if spec.suspended else "Start it first.",
        )
    return None
