"""What differs between two objects, field by field; and between two pages of a list. Pure.

Called for the history of an object and for `?as_of=&until=`. A field is named by its path ('spec.power'); lists are
compared whole, since their order means something.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Json = Mapping[str, Any]

# They say when something was written or looked at, not what.
NOISE = frozenset({"version", "updated_at", "observed_generation", "last_report_age_s"})


def fields(was: Json | None, now: Json | None) -> list[dict[str, Any]]:
    """[{field, was, is_now}], in the order of the fields; None stands for what was not there."""
    before, after = dict(_flat(was or {})), dict(_flat(now or {}))
    names = [*after, *(n for n in before if n not in after)]
    return [{"field": n, "was": before.get(n), "is_now": after.get(n)} for n in names if before.get(n) != after.get(n)]


def objects(was: list[Json], now: list[Json]) -> list[dict[str, Any]]:
    """[{id, kind, name, action, changes}] of the objects that appeared, changed or went, in the order of ids."""
    before, after = ({str(o["id"]): o for o in side} for side in (was, now))
    found = []
    for object_id in sorted({*before, *after}):
        old, new = before.get(object_id), after.get(object_id)
        changes = fields(old, new)
        if changes:
            action = "appeared" if old is None else "gone" if new is None else "changed"
            shown = new or old or {}
            found.append(
                {"id": object_id, "kind": shown.get("kind"), "name": shown.get("name"), "action": action}
                | {"changes": changes}
            )
    return found


def _flat(found: Json, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in found.items():
        if prefix == "" and name in NOISE:
            continue
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        elif value not in (None, {}, []):
            yield f"{prefix}{name}", value
