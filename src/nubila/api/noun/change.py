"""The change log as people read it: who changed what, when and why, with a cursor to go on from."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

import msgspec

from nubila import errors
from nubila.api.context import CLOCK_S, ApiCall, is_operator, project_of
from nubila.api.route import Answer
from nubila.model.ids import KIND, PREFIX, parse, text
from nubila.model.shapes import SHAPES, TENANT_KINDS
from nubila.represent import visibility
from nubila.store.change import ChangeStore, Cursor
from nubila.store.database import Record

# Of these kinds tenants see no such columns.
OPERATOR_COLUMNS = frozenset({"node_id", "epoch", "version", "user_data_secret", "fetch_secret"})


class ChangeQuery(msgspec.Struct, frozen=True):
    after: str | None = (
        None  # a cursor from an earlier answer; without it from the beginning, 'end' for only what comes
    )
    object: str | None = None
    limit: int = 100


async def list_changes(call: ApiCall) -> Answer:
    """Read the change log from a cursor on; with ?wait= until there is something to read."""
    epoch = call.context.fabric_epoch
    changes = ChangeStore(call.context.database)
    if call.query.after == "end":
        return Answer(body={"items": [], "cursor": str(await changes.end(epoch)), "reset": False})
    cursor = Cursor(epoch, 0, 0, of=0) if call.query.after is None else Cursor.parse(call.query.after)
    if cursor is None:
        raise errors.BadRequest(
            "'after' is not a cursor of the change log.", fix="Use the 'cursor' of an earlier answer, or 'end'."
        )
    if cursor.fabric_epoch != epoch:
        return Answer(body={"items": [], "cursor": str(Cursor(epoch, 0, 0)), "reset": True})
    kinds = None if is_operator(call) else TENANT_KINDS
    object_id = None if call.query.object is None else object_of(call.query.object)
    until = time.monotonic() + call.wait_s
    while True:
        rows = await changes.read(
            cursor,
            project_id=project_of(call),
            object_id=object_id,
            kinds=kinds,
            limit=max(1, min(call.query.limit, 1000)),
        )
        left = until - time.monotonic()
        if rows or left <= 0 or call.gate.stopping or call.departed:
            break
        await call.until(call.context.hub.expect("change").wait(min(left, CLOCK_S)), min(left, CLOCK_S))
    last = cursor_of(call, rows[-1]) if rows else cursor
    return Answer(body={"items": [change_shown(call, r) for r in rows], "cursor": str(last), "reset": False})


def object_of(value: str) -> UUID:
    kind = KIND.get(value.partition("-")[0])
    object_id = parse(kind, value) if kind else None
    if object_id is None:
        raise errors.Invalid("'object' must be an id such as 'vm-...'.", field="object", where="query")
    return object_id


def content_shown(call: ApiCall, kind: str, content: dict[str, Any]) -> dict[str, Any]:
    """A logged row as this viewer may see it: by the columns of the table, and by the marks in spec and status."""
    if not is_operator(call):
        content = {k: v for k, v in content.items() if k not in OPERATOR_COLUMNS}
    for part, shape in zip(("spec", "status"), SHAPES.get(kind, (None, None)), strict=True):
        if shape is not None and content.get(part) is not None:
            content[part] = visibility.dropped(content[part], shape, call.viewer)
    return content


def actor_shown(call: ApiCall, actor: str | None) -> str:
    if actor is not None and not is_operator(call) and not actor.startswith("user:"):
        actor = actor.partition(":")[0]
    return actor or "changed in the database by hand"


def cursor_of(call: ApiCall, row: Record) -> str:
    return str(Cursor.at(call.context.fabric_epoch, row["fabric_epoch"], row["xid"], row["seq"]))


def change_shown(call: ApiCall, row: Record) -> dict[str, Any]:
    return {
        "at": row["at"],
        "cursor": cursor_of(call, row),
        "actor": actor_shown(call, row["actor"]),
        "request": row["request"],
        "reason": row["reason"],
        "kind": row["kind"],
        "id": text(row["kind"], row["object_id"]) if row["kind"] in PREFIX and row["object_id"] else None,
        "action": row["action"],
        "generation": row["generation"],
        "content": content_shown(call, row["kind"], msgspec.json.decode(row["content"])),
    }
