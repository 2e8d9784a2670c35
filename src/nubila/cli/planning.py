"""A plan as text: what would be created, changed and removed, what it rests on, and what would be left of the quota."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nubila.cli import table
from nubila.cli.terminal import paint

Json = dict[str, Any]

SIGN: dict[str, str] = {"create": "+", "change": "~", "remove": "-"}
COLOUR: dict[str, str] = {"create": "green", "change": "yellow", "remove": "red"}
_NAMED = frozenset({"action", "kind", "id", "name", "changes", "details"})


def effects(plan: Json) -> str:
    found: list[Json] = plan.get("effects") or []
    if not found:
        return "Nothing would change."
    rows = [
        (
            f"{SIGN.get(str(e.get('action')), '?')} {e.get('action')}",
            e.get("kind"),
            e.get("name"),
            e.get("id"),
            _words(e),
        )
        for e in found
    ]
    return table.render(("ACTION", "KIND", "NAME", "ID", "WHAT"), rows, {0: lambda t: COLOUR.get(t[2:])})


def quota(classes: Mapping[str, Any], *, width: int = 24) -> str:
    """Each class with a bar: '#' used, '+' what a plan would add, '.' left. A plan's 'after' is what would be left."""
    planned = any("after" in of for of in classes.values())
    rows = []
    for name, of in classes.items():
        limit, used = int(of.get("limit") or 0), int(of.get("used") or 0)
        left = int(of.get("after", limit - used))
        rows.append((name, _bar(used, limit - left, limit, width), used, limit, left))
    headers = ("CLASS", "", "USED NOW" if planned else "USED", "LIMIT", "LEFT AFTER" if planned else "LEFT")
    return table.render(headers, rows)


def whole(plan: Json, apply_line: str, *, facts: bool = False) -> str:
    """The plan, and the line that applies it, alone on the last line."""
    parts = [effects(plan)]
    if plan.get("quota_left"):
        parts.append(quota(plan["quota_left"]))
    rests = plan.get("facts") or []
    if facts and table.is_rows(rests):
        parts.append("Rests on:\n" + table.shift(table.rows(rests), "  "))
    elif rests:
        parts.append(f"Rests on {len(rests)} facts: `{apply_line.replace('plan apply', 'plan show', 1)}` lists them.")
    left_s = table.seconds_since(plan.get("expires_at"))
    until = f" It can be applied for {table.span(1 - left_s)}." if left_s is not None and left_s < 0 else ""
    parts.append(f"Nothing has been changed or reserved.{until} To apply it:\n{paint(apply_line, 'bold')}")
    return "\n\n".join(parts)


def _words(effect: Json) -> str:
    """What an effect says beyond its name: plain values, then changes as 'field: was -> is'."""
    said = [
        f"{k.replace('_', ' ')} {table.cell(v)}"
        for k, v in effect.items()
        if k not in _NAMED and v not in (None, "", [], {})
    ]
    for part in ("details", "changes"):
        inner = effect.get(part)
        if isinstance(inner, Mapping):
            said += [
                f"{name.replace('_', ' ')} {_change(v)}" for name, v in inner.items() if v not in (None, "", [], {})
            ]
    return "; ".join(said)


def _change(value: Any) -> str:
    if isinstance(value, Mapping) and "was" in value:
        return f"{table.cell(value['was'])} -> {table.cell(value.get('becomes', value.get('is_now', value.get('is'))))}"
    return table.cell(value)


def _bar(used: int, after: int, limit: int, width: int) -> str:
    if limit <= 0:
        return "." * width
    full = min(width, round(width * min(used, after) / limit))
    added = min(width - full, round(width * max(after - used, 0) / limit))
    return "#" * full + "+" * added + "." * (width - full - added)
