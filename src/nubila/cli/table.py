"""Objects as text: tables, and aligned 'name  value' lines. Every cell passes through `terminal.line`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from nubila.cli.terminal import line, paint

GAP = "  "
MISSING = "-"
FIRST = (
    "",
    "kind",
    "id",
    "name",
    "was",
    "is_now",
    "cidr",
    "gateway",
)  # of the columns that a table of unknown objects has


def render(headers: Sequence[str], rows: Iterable[Sequence[object]], colours: Mapping[int, Any] | None = None) -> str:
    """A table; `colours` maps a column's index to a function from its text to a colour's name. '' without rows."""
    cells = [[cell(v) for v in row] for row in rows]
    if not cells:
        return ""
    widths = [max(len(r[i]) for r in [list(headers), *cells]) for i in range(len(headers))]
    out = [paint(_row(headers, widths), "bold")]
    for row in cells:
        parts = [text.ljust(width) for text, width in zip(row, widths, strict=True)]
        for i, colour_of in (colours or {}).items():
            parts[i] = paint(row[i], colour_of(row[i])) + " " * (widths[i] - len(row[i]))
        out.append(GAP.join(parts).rstrip())
    return "\n".join(out)


def fields(pairs: Iterable[tuple[str, object]], indent: str = "") -> str:
    """Aligned lines of name and value."""
    shown = [(line(name), cell(value)) for name, value in pairs]
    width = max((len(name) for name, _ in shown), default=0)
    return "\n".join(f"{indent}{name.ljust(width)}{GAP}{text}".rstrip() for name, text in shown)


def anything(found: Mapping[str, Any], indent: str = "") -> str:
    """An object of which no more is known than that it is JSON: values as lines, lists of objects as tables."""
    flat = list(_flat(found))
    parts = [fields([(k, v) for k, v in flat if not is_rows(v)], indent)]
    for name, value in flat:
        if is_rows(value):
            parts.append(f"{indent}{line(name)}:\n" + shift(rows(value), indent + GAP))
    return "\n".join(p for p in parts if p)


def rows(items: Sequence[Mapping[str, Any]]) -> str:
    """A list of objects as a table with a column for each name that occurs."""
    flattened = [dict(_flat(item)) for item in items]
    names = list(dict.fromkeys(name for item in flattened for name in item))
    names.sort(key=lambda n: FIRST.index(n) if n in FIRST else len(FIRST))
    return render([n.replace("_", " ").upper() for n in names], [[item.get(n) for n in names] for item in flattened])


def is_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def shift(text: str, indent: str) -> str:
    return "\n".join(indent + part for part in text.splitlines())


def cell(value: object) -> str:
    if value is None or value in ("", [], {}, ()):
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(cell(v) for v in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{line(k)}={cell(v)}" for k, v in value.items())
    return line(value)


def pick(found: Mapping[str, Any], names: str) -> Any:
    """The first of 'a|b|c' that an object has: at the top, in its spec or in its status."""
    for name in names.split("|"):
        for place in (found, found.get("spec"), found.get("status")):
            if isinstance(place, Mapping) and place.get(name) is not None:
                return place[name]
    return None


def span(seconds: float) -> str:
    """A length of time in its two largest units at most: '42 s', '5 min', '3 h', '12 d'."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"


def seconds_since(moment: object, now: datetime | None = None) -> float | None:
    """Negative for a moment to come; None when it is not one."""
    if not isinstance(moment, str):
        return None
    try:
        then = datetime.fromisoformat(moment)
    except ValueError:
        return None
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    return ((now or datetime.now(UTC)) - then).total_seconds()


def age(moment: object) -> str | None:
    seconds = seconds_since(moment)
    return None if seconds is None else span(seconds)


def _flat(found: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in found.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _row(texts: Sequence[str], widths: Sequence[int]) -> str:
    return GAP.join(text.ljust(width) for text, width in zip(texts, widths, strict=True)).rstrip()
