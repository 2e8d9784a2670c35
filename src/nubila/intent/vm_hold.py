"""Holds: a reason for which nothing may be changed about a vm until it is lifted. Pure.

Each plane holds for itself, with at most one hold: an operator's is not lifted by the project's people.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from nubila import errors
from nubila.intent.asking import Asking, Outcome, stamp
from nubila.intent.vm import View, amended, leaving, opened
from nubila.model import vm


class VmHold(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hold a VM: every change but lifting the hold is refused, with this reason."""

    reason: Annotated[str, Meta(min_length=1, max_length=500)]


def hold(body: VmHold, view: View, asking: Asking) -> Outcome:
    row, spec = opened(view)
    if spec.gone:
        return leaving(row)
    plane = _plane(asking)
    by = "an operator" if asking.operator else asking.actor
    made = vm.Hold(plane=plane, by=by, reason=body.reason, since=stamp(asking.now.replace(microsecond=0)))
    # operators' first: theirs is the one that a refusal names
    holds = sorted([h for h in spec.holds if h.plane != plane] + [made], key=lambda h: h.plane)
    return amended(asking, row, msgspec.structs.replace(spec, holds=tuple(holds)), {})


def unhold(view: View, asking: Asking) -> Outcome:
    """Lift one's own plane's hold; an operator without one lifts the project's."""
    row, spec = opened(view)
    mine = [h for h in spec.holds if h.plane == _plane(asking)]
    if not mine and not asking.operator and spec.holds:
        return errors.Forbidden(
            f"VM '{row['name']}' is held by an operator: {spec.holds[0].reason}",
            fix="Only an operator can lift it.",
        )
    if not spec.holds:
        return errors.Conflict(f"VM '{row['name']}' is not held.", state=row["state"])
    lifted = mine or list(spec.holds)
    left = tuple(h for h in spec.holds if h not in lifted)
    return amended(asking, row, msgspec.structs.replace(spec, holds=left), {})


def _plane(asking: Asking) -> str:
    return "operator" if asking.operator else "user"
