"""Another size for a vm: cores and memory, each or by a flavor. Pure.

Quota is claimed and given back in the draft. A node's capacity is claimed in the draft, and given back only when the
node reports that the guest can no longer have more: a balloon is the guest's to take back.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec

from nubila import errors
from nubila.intent.asking import Asking, Outcome, next_number
from nubila.intent.vm import View, VmChange, asked, barred, change, opened, wished
from nubila.model import operation, vm
from nubila.model.draft import Drafted, Row

CLASSES = ("cores", "memory_mib")
UNITS = {"cores": "cores", "memory_mib": "MiB of memory"}


def resized(body: VmChange) -> bool:
    return body.cores is not None or body.memory_mib is not None or body.flavor is not None


def resize(body: VmChange, view: View, asking: Asking) -> Outcome:
    """`view` has beside the vm's: quota and inventory by class, and the flavor that the body names."""
    row, spec = opened(view)
    if (no := barred(row, spec)) is not None:
        return no
    flavor = view["flavor"]
    if body.flavor is not None and flavor is None:
        return errors.Invalid(f"There is no flavor '{body.flavor}'.", field="flavor", fix="See 'nubila flavor list'.")
    size = {c: _size(body, flavor, spec, c) for c in CLASSES}
    if size == {c: getattr(spec, c) for c in CLASSES} and (flavor is None or flavor["id"] == row["flavor_id"]):
        return change(msgspec.structs.replace(body, cores=None, memory_mib=None, flavor=None), view, asking)
    running = (row["status"] or {}).get("power") == "on" or spec.power is vm.Power.ON
    if running and not view["capabilities"].get("live_resize", True):
        return errors.Unsupported(
            f"The virt method {spec.virt_method} on this VM's node cannot change the size of a running VM.",
            fix="Stop it first.",
        )
    refusal = _refused(size, row, spec, view)
    if refusal is not None:
        return refusal
    columns, wish = asked(body, row, spec)
    if flavor is not None:
        columns["flavor_id"] = UUID(flavor["id"])
    wish = msgspec.structs.replace(wish, **size, repairs=next_number(spec.repairs, row, "repairs"))
    details = _details(size, row, spec)
    outcome = wished(
        view, asking, row, wish, operation.Verb.RESIZE, count=wish.repairs, columns=columns, details=details
    )
    if isinstance(outcome, Drafted):
        _claim(outcome, size, row, spec, view)
        if flavor is not None:
            outcome.draft.rests_on("flavor", flavor)
    return outcome


def _size(body: VmChange, flavor: Row | None, spec: vm.Spec, class_: str) -> int:
    given = getattr(body, class_)
    found = given if given is not None else flavor["spec"][class_] if flavor is not None else getattr(spec, class_)
    return int(found)


def _held(view: View, class_: str) -> int:
    mine = [a["amount"] for a in view["allocations"] if a["holder_id"] == view["vm"]["id"] and a["class"] == class_]
    return sum(mine)


def _refused(size: dict[str, int], row: Row, spec: vm.Spec, view: View) -> errors.NubilaError | None:
    for class_ in CLASSES:
        limit, used = (view["quota"] or {}).get(class_, (0, 0))
        more = size[class_] - getattr(spec, class_)
        if more > 0 and used + more > limit:
            left = max(0, limit - used)
            return errors.QuotaExceeded(
                f"The project's quota of {class_} is {limit}; {used} are used, {left} left, and this needs {more} more.",
                quota={"class": class_, "limit": limit, "used": used, "asked": more, "left": left},
            )
    short = {}
    for class_ in CLASSES:
        total, taken = (view["inventory"] or {}).get(class_, (0, 0))
        more = size[class_] - _held(view, class_)
        if more > 0 and taken + more > total:
            short[class_] = taken + more - total
    if short:
        said = " and ".join(f"{n} {UNITS[c]}" for c, n in short.items())
        return errors.NoCapacity(
            f"The node of VM '{row['name']}' falls short by {said}.",
            short_of=short,
            fix="Ask for less, or create another VM, which may go to another node.",
        )
    return None


def _claim(outcome: Drafted, size: dict[str, int], row: Row, spec: vm.Spec, view: View) -> None:
    draft = outcome.draft
    for class_ in CLASSES:
        draft.takes_quota(UUID(row["project_id"]), class_, size[class_] - getattr(spec, class_))
        more = size[class_] - _held(view, class_)
        if more > 0:
            key = {"holder_id": row["id"], "class": class_, "node_id": row["node_id"]}
            draft.updates("allocation", key, amount=size[class_])
            draft.takes_capacity(UUID(row["node_id"]), class_, more)


def _details(size: dict[str, int], row: Row, spec: vm.Spec) -> dict[str, Any]:
    """When each change takes effect, by what the node last said."""
    status = msgspec.convert(row["status"], vm.Status) if row["status"] is not None else vm.Status()
    shown = {}
    for class_ in CLASSES:
        was, becomes = getattr(spec, class_), size[class_]
        if was != becomes:
            shown[class_] = {"was": was, "becomes": becomes, "when": _when(class_, becomes, status)}
    return shown


def _when(class_: str, becomes: int, status: vm.Status) -> str:
    if status.power != "on":
        return "at the next start"
    if class_ == "memory_mib":
        live = status.memory_max_mib is not None and becomes <= status.memory_max_mib
        return "now, as far as the guest's balloon gives and takes it" if live else "at the next start"
    if status.cores is None or status.cores_max is None or becomes > status.cores_max:
        return "at the next start"
    if becomes < status.cores:
        return "now, as far as they were plugged in while it runs and the guest lets go of them; else at the next start"
    return "now; the guest may have to bring new cores online"
