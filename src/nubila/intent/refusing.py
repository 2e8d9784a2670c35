"""A placement that found no node, in words and numbers for the one who asked. Pure; called by intents that place."""

from __future__ import annotations

from typing import Any

import msgspec

from nubila import errors
from nubila.intent.asking import builtins
from nubila.placement.decide import Refusal
from nubila.placement.filters import BY_NAME
from nubila.placement.nodes import Request


def refused(refusal: Refusal, request: Request, operator: bool) -> errors.NoCapacity:
    """The refusal in words and numbers; tenants see no node and no count of nodes."""
    change = ", or ".join(f"{k} = {v}" for k, v in refusal.would_fit.items())
    short = refusal.nearest.short if refusal.nearest else {}
    fields: dict[str, Any] = {"would_fit": refusal.would_fit}
    if refusal.nearest is not None:
        fields["short_of"] = refusal.nearest.short
    if operator:
        fields["refusal"] = builtins(refusal)
    worst = _sentence([BY_NAME[k].one.format(v) for k, v in short.items()])
    detail = (
        f"No node can hold this VM: the nearest one {worst}." if worst else "No node can hold this VM: there is none."
    )
    if not refusal.would_fit:
        fixes = [BY_NAME[k].fix for k in short if BY_NAME[k].fix]
        fields["fix"] = fixes[0] if fixes else "Ask your operator for more capacity."
    kept = msgspec.json.encode({"request": request, "refusal": refusal}).decode()
    return errors.NoCapacity(detail + (f" It would fit with {change}." if change else ""), inside=kept, **fields)


def _sentence(parts: list[str]) -> str:
    """'a, b and c'."""
    return " and ".join(part for part in (", ".join(parts[:-1]), *parts[-1:]) if part)
