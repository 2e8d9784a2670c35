"""What a draft would write, told before it does: the rows that the change log will have of it. Pure.

Made from the draft itself, so that no verb can forget one; the effects beside it are what a person wants to know.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Any
from uuid import UUID

from nubila.model.draft import Draft
from nubila.model.ids import PREFIX, text
from nubila.store.past_views import holder
from nubila.store.shape import Table
from nubila.store.tables import TABLES

ACTIONS = ("delete", "update", "insert")


def rows(draft: Draft, kinds: Container[str] | None) -> list[dict[str, Any]]:
    """One line for each row of these kinds (None: of all), in the order of writing, named as the change log names it."""
    return [line for t in TABLES if t.logged and (kinds is None or t.name in kinds) for line in _of(draft, t)]


def _of(draft: Draft, t: Table) -> Iterator[dict[str, Any]]:
    for action in ACTIONS:
        for row in getattr(draft, action).get(t.name, ()):
            if action != "update" or set(row) - {*t.key, *t.unlogged_columns}:
                yield {"action": action, "kind": str(t.name), "id": _id(t.name, row.get(holder(t)))}


def _id(kind: str, value: UUID | str | None) -> str | None:
    """None where nothing holds it, as an address that belongs to no port."""
    if value is None or kind not in PREFIX:
        return None
    return text(kind, value if isinstance(value, UUID) else UUID(value))
