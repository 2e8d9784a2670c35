"""Refusals in words and numbers for the one who asked: no node for a placement, a removal of what is used. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from nubila import errors
from nubila.intent.asking import builtins
from nubila.model.ids import text
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


def over_quota(needs: dict[str, int], quota: dict[str, list[int]], what: str = "VM") -> errors.QuotaExceeded | None:
    for class_, amount in needs.items():
        limit, used = quota.get(class_, (0, 0))
        if used + amount > limit:
            left = max(0, limit - used)
            return errors.QuotaExceeded(
                f"The project's quota of {class_} is {limit}; {used} are used, {left} left, and this {what} needs {amount}.",
                quota={"class": class_, "limit": limit, "used": used, "asked": amount, "left": left},
            )
    return None


SHOWN_MAX = 10  # users that the sentence names; the field names more
LISTED_MAX = 50
WORDS: dict[str, str] = {"vm": "VM", "keypair": "key pair"}  # kinds that people call otherwise


def in_use(kind: str, name: str, users: Sequence[Mapping[str, Any]], total: int, operator: bool) -> errors.InUse:
    """`users`: kind, id, name and project of those that the caller may know, `total` how many there are of all."""
    parts = []
    for of in dict.fromkeys(str(u["kind"]) for u in users):
        mine = [u for u in users if u["kind"] == of]
        names = [_called(u, operator) for u in mine[:SHOWN_MAX]]
        more = f" and {len(mine) - SHOWN_MAX} more" if len(mine) > SHOWN_MAX else ""
        parts.append(f"{len(mine)} {word(of)}{'s' if len(mine) > 1 else ''} ({', '.join(names)}{more})")
    by = _sentence(parts) or f"{total} object{'s' if total > 1 else ''}"
    listed = [{"kind": u["kind"], "id": text(str(u["kind"]), u["id"]), "name": u["name"]} for u in users[:LISTED_MAX]]
    return errors.InUse(f"{word(kind)[0].upper()}{word(kind)[1:]} '{name}' is used by {by}.", users=listed)


def word(kind: str) -> str:
    return WORDS.get(kind, kind.replace("_", " "))


def _called(user: Mapping[str, Any], operator: bool) -> str:
    return f"{user['name']} of project {user['project']}" if operator and user["project"] else str(user["name"])


def _sentence(parts: list[str]) -> str:
    """'a, b and c'."""
    return " and ".join(part for part in (", ".join(parts[:-1]), *parts[-1:]) if part)
