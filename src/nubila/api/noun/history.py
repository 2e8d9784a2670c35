"""The history of one object, of any kind that is logged: who changed what of it, when, by which request and why."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import msgspec

from nubila import errors
from nubila.api.context import ApiCall, is_operator, project_of, ref
from nubila.api.noun.change import actor_shown, content_shown, cursor_of
from nubila.api.route import LOGGED, Answer, Handler, Route
from nubila.model.ids import PREFIX, parse, text
from nubila.represent import difference
from nubila.represent.page import foreign, next_link
from nubila.store.change import ChangeStore
from nubila.store.database import Record
from nubila.store.tables import BY_NAME

_ONE = re.compile(r"/v1/[a-z-]+/\{([a-z_]+)(?::[a-z_]+)?\}")


def histories(rows: tuple[Route, ...], without: frozenset[str] = frozenset()) -> tuple[Route, ...]:
    """A row for each resource of the table that can be shown by itself. `without`: kinds that belong to no project."""
    made = []
    for row in rows:
        found = _ONE.fullmatch(row.path)
        if row.method == "GET" and found and found[1] in LOGGED - without and "id" in BY_NAME[found[1]].table.c:
            made.append(
                Route("GET", f"{row.path}/history", row.permission, historian(found[1]), listing=True, past=False)
            )
    return tuple(made)


def historian(kind: str) -> Handler:
    async def handler(call: ApiCall) -> Answer:
        object_id = await _object(call, kind, call.params[kind])
        before = None if call.page.after is None else _sequence(call.page.after[0])
        limit = call.page.limit
        changes = ChangeStore(call.context.database)
        rows = await changes.history(kind, object_id, project_id=project_of(call), before=before, limit=limit + 1)
        if not rows and before is None:
            raise _unknown(kind, call.params[kind])
        older: Iterable[Record | None] = [*rows[1:], None][: len(rows)]
        items = [_shown(call, row, was) for row, was in zip(rows, older, strict=True)][:limit]
        await _named(changes, items)
        link = next_link(call.path, call.query_text, (rows[limit - 1]["seq"],)) if len(rows) > limit else None
        return Answer(body={"id": text(kind, object_id), "kind": kind, "items": items, "next": link})

    handler.__doc__ = f"The changes of {'an' if kind[0] in 'aeiou' else 'a'} {kind.replace('_', ' ')}, newest first."
    return handler


async def _named(changes: ChangeStore, items: list[dict[str, Any]]) -> None:
    """Beside each actor's id what it is called; a tenant is shown users only."""
    acted = {i["actor"]: found for i in items if (found := _actor(i["actor"])) is not None}
    names = await changes.names([object_id for _, object_id in acted.values()])
    for item in items:
        item["actor_name"] = names.get(acted[item["actor"]]) if item["actor"] in acted else None


def _actor(shown: str) -> tuple[str, UUID] | None:
    kind, _, value = shown.partition(":")
    object_id = parse(kind, value) if kind in ("user", "operator", "node") else None
    return None if object_id is None else (kind, object_id)


async def _object(call: ApiCall, kind: str, value: str) -> UUID:
    """By id, also of what is gone for good; by name, of the one that has it, or had it last."""
    object_id, name = ref(kind, value)
    if object_id is not None:
        return object_id
    scoped = "project_id" in BY_NAME[kind].table.c
    if is_operator(call) and scoped:
        raise errors.NotFound(f"There is no {kind} '{value[:80]}'.", fix="Operators name it by its id.")
    for removed in (False, True):
        project_id = project_of(call) if scoped else None
        row = await call.context.resources.one(kind, project_id=project_id, name=name, removed=removed)
        if row is not None:
            found: UUID = row["id"]
            return found
    raise _unknown(kind, value)


def _unknown(kind: str, value: str) -> errors.NotFound:
    return errors.NotFound(f"There is no {kind.replace('_', ' ')} '{value[:80]}', and the change log knows of none.")


def _sequence(part: object) -> int:
    if not isinstance(part, int) or isinstance(part, bool):
        raise foreign()
    return part


def _shown(call: ApiCall, row: Record, older: Record | None) -> dict[str, Any]:
    now = content_shown(call, row["kind"], msgspec.json.decode(row["content"]))
    was = None if older is None else content_shown(call, older["kind"], msgspec.json.decode(older["content"]))
    return {
        "at": row["at"],
        "cursor": cursor_of(call, row),
        "actor": actor_shown(call, row["actor"]),
        "request": row["request"],
        "reason": row["reason"],
        "action": row["action"],
        "generation": row["generation"],
        "state": now.get("state"),
        "changes": difference.fields(_typed(was), _typed(now)),
    }


def _typed(content: dict[str, Any] | None) -> dict[str, Any] | None:
    """Ids as they are written outside."""
    if content is None:
        return None
    return {k: _id(k.removesuffix("_id"), v) if k.endswith("_id") and v else v for k, v in content.items() if k != "id"}


def _id(kind: str, value: Any) -> Any:
    try:
        return text(kind, UUID(value)) if kind in PREFIX else value
    except (ValueError, AttributeError, TypeError):
        return value
