"""A plan as text: what would be created, changed and removed, what it rests on, and what would be left of the quota."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Mapping
from typing import Any

from nubila.cli import table
from nubila.cli.terminal import paint

Json = dict[str, Any]

SIGN: dict[str, str] = {"create": "+", "change": "~", "remove": "-"}
COLOUR: dict[str, str] = {"create": "green", "change": "yellow", "remove": "red"}
WIDTH = 100  # where there is no terminal
INDENT = " " * 10
_PAINT = re.compile(r"\x1b\[[0-9;]*m")
# ends of names -> the unit that they stand for
UNITS: dict[str, str] = {"_mib": " MiB", "_gib": " GiB", "_s": " s"}
# what is no level but a verb, as people say it; '' where the action says it already
VERBS: dict[str, str] = {
    "starts": "started once more",
    "reboots": "rebooted once more",
    "resets": "reset once more",
    "gone": "",
}
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
    colours = {0: lambda t: COLOUR.get(t[2:])}
    whole = table.render(("ACTION", "KIND", "NAME", "ID", "WHAT"), rows, colours)
    width = shutil.get_terminal_size((WIDTH, 24)).columns
    if all(len(line) <= width for line in _PAINT.sub("", whole).splitlines()):
        return whole
    # Too wide: what each line says goes below it.
    head, *lines = table.render(("ACTION", "KIND", "NAME", "ID"), [r[:4] for r in rows], colours).splitlines()
    out = [head]
    for line, row in zip(lines, rows, strict=True):
        out += [line, *textwrap.wrap(str(row[4]), width, initial_indent=INDENT, subsequent_indent=INDENT)]
    return "\n".join(out)


def quota(classes: Mapping[str, Any], *, width: int = 24) -> str:
    """Each class with a bar: '#' used, '+' what a plan would add, '.' left. A plan's 'after' is what would be left."""
    planned = any("after" in of for of in classes.values())
    rows = []
    for name, of in sorted(classes.items()):  # stored plans come back in another order
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
    writes = plan.get("rows") or []
    if facts and table.is_rows(writes):
        parts.append("Writes:\n" + table.shift(table.rows(writes), "  "))
    rests = plan.get("facts") or []
    if facts and table.is_rows(rests):
        parts.append("Rests on:\n" + table.shift(table.rows(rests), "  "))
    elif rests:
        many = "1 fact" if len(rests) == 1 else f"{len(rests)} facts"
        parts.append(f"Rests on {many}: see `{apply_line.replace('plan apply', 'plan show', 1)}`.")
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
            told = (_detail(name, v) for name, v in sorted(inner.items()) if v not in (None, "", [], {}))
            said += [words for words in told if words]
    return "; ".join(said)


def _detail(name: str, value: Any) -> str:
    """'memory 512 MiB', 'power on -> off', 'rebooted once more'."""
    if isinstance(value, Mapping) and "was" in value and name in VERBS:
        return VERBS[name]
    bare, unit = next(((name.removesuffix(s), u) for s, u in UNITS.items() if name.endswith(s)), (name, ""))
    return f"{bare.replace('_', ' ')} {_change(value, unit)}"


def _change(value: Any, unit: str = "") -> str:
    if isinstance(value, Mapping) and "was" in value:
        becomes = value.get("becomes", value.get("is_now", value.get("is")))
        when = f" ({value['when']})" if value.get("when") else ""
        return f"{_with(value['was'], unit)} -> {_with(becomes, unit)}{when}"
    return _with(value, unit)


def _with(value: Any, unit: str) -> str:
    return f"{table.cell(value)}{unit}" if isinstance(value, int | float) else table.cell(value)


def _bar(used: int, after: int, limit: int, width: int) -> str:
    if limit <= 0:
        return "." * width
    full = min(width, round(width * min(used, after) / limit))
    added = min(width - full, round(width * max(after - used, 0) / limit))
    return "#" * full + "+" * added + "." * (width - full - added)
