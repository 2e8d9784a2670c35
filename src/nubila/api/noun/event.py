"""`GET /v1/events`: the change log as server-sent events, on all three planes. Resumed by Last-Event-ID, which is a cursor.

A stream holds one batch of rows at most: the next is read when the client has taken the last, so a slow client costs
nothing but its place in the log. Who may read is asked again all the time; a token that was revoked ends the stream.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any
from uuid import UUID

import msgspec

from nubila import errors
from nubila.access import policy
from nubila.api.context import ApiCall, is_operator, project_of
from nubila.api.noun.change import change_shown, cursor_of, object_of
from nubila.api.route import Answer
from nubila.model.catalog import Plane
from nubila.model.ids import parse
from nubila.model.shapes import TENANT_KINDS
from nubila.represent import json
from nubila.store.change import ChangeStore
from nubila.store.cursor import Cursor
from nubila.store.database import Record
from nubila.store.notify import CHANGED

MEDIA = "text/event-stream"
BATCH = 200
CLOCK_S = 1.0
SPACING_S = 0.05  # a burst of commits is one batch
NODE_KINDS = ("vm", "volume", "port", "attachment", "node")


class EventQuery(msgspec.Struct, frozen=True):
    after: str | None = None  # as Last-Event-ID; without both only what comes
    kind: list[str] = []
    object: str | None = None
    project: str | None = None
    heartbeat: Annotated[
        float, msgspec.Meta(ge=0.1, le=60, description="seconds between comments when nothing comes")
    ] = 15.0


class Wanted(msgspec.Struct, frozen=True):
    """What of the log a stream carries."""

    kinds: tuple[str, ...] | None
    project_id: UUID | None
    object_id: UUID | None
    node_id: UUID | None


async def events(call: ApiCall) -> Answer:
    """Follow the change log as server-sent events; Last-Event-ID goes on where a stream broke off."""
    changes = ChangeStore(call.context.database)
    given = call.headers.get("last-event-id") or call.query.after
    cursor = None if given is None else Cursor.parse(given)
    if given is not None and cursor is None:
        raise errors.BadRequest(
            "Last-Event-ID is not a cursor of the change log.", fix="Send the id of an earlier event."
        )
    wanted = _wanted(call)
    epoch = call.context.fabric_epoch
    reset = cursor is not None and (cursor.fabric_epoch != epoch or not await changes.covers(cursor))
    if cursor is None or reset:
        cursor = await changes.end(epoch)
    return Answer(body=_follow(call, changes, wanted, cursor, reset=reset), media=MEDIA)


def _wanted(call: ApiCall) -> Wanted:
    query: EventQuery = call.query
    allowed = None if is_operator(call) else NODE_KINDS if call.principal.plane is Plane.INTERNAL else TENANT_KINDS
    kinds = tuple(query.kind) or None
    if kinds is not None and allowed is not None and (foreign := sorted({*kinds} - {*allowed})):
        raise errors.BadRequest(
            f"There are no events of the kind '{foreign[0][:40]}' here.", fix=f"Known are {', '.join(allowed)}."
        )
    project_id = project_of(call)
    if query.project is not None:
        if not is_operator(call):
            raise errors.BadRequest("Only operators choose a project; your token names yours.")
        project_id = parse("project", query.project)
        if project_id is None:
            raise errors.BadRequest("'project' must be an id such as 'prj-...'.")
    object_id = None if query.object is None else object_of(query.object)
    return Wanted(kinds or allowed, project_id, object_id, call.principal.node_id)


async def _follow(
    call: ApiCall, changes: ChangeStore, wanted: Wanted, cursor: Cursor, *, reset: bool
) -> AsyncIterator[bytes]:
    # The first piece says where the stream stands: who reconnects before anything came loses nothing.
    yield _event("reset" if reset else "begin", str(cursor), {"cursor": str(cursor), "reset": reset})
    said, asked = time.monotonic(), time.monotonic()
    while not call.gate.stopping:
        expected = call.context.hub.expect(CHANGED)
        rows = await changes.read(
            cursor,
            project_id=wanted.project_id,
            object_id=wanted.object_id,
            kinds=wanted.kinds,
            node_id=wanted.node_id,
            limit=BATCH,
        )
        if time.monotonic() - asked >= CLOCK_S:
            asked = time.monotonic()
            if (refusal := await _refused(call)) is not None:
                expected.close()
                yield _event("end", str(cursor), {"slug": refusal.slug, "detail": refusal.detail})
                return
        if rows:
            cursor, said = _place(call, rows[-1]), time.monotonic()
            expected.close()
            yield b"".join(_event("change", cursor_of(call, r), change_shown(call, r)) for r in rows)
            continue
        if time.monotonic() - said >= call.query.heartbeat:
            said = time.monotonic()
            yield b": nothing new\n\n"
        await _pause(call, expected.wait(min(CLOCK_S, call.query.heartbeat)))
        await asyncio.sleep(SPACING_S)


def _place(call: ApiCall, row: Record) -> Cursor:
    return Cursor.at(call.context.fabric_epoch, row["fabric_epoch"], row["xid"], row["seq"])


async def _refused(call: ApiCall) -> errors.NubilaError | None:
    """Why who opened the stream may not read any more."""
    assert call.again is not None
    try:
        principal = await call.again()
        policy.allow("event.read", principal)
    except errors.NubilaError as e:
        return None if isinstance(e, errors.Transient) else e
    if (principal.project_id, principal.role) != (call.principal.project_id, call.principal.role):
        return errors.Forbidden("Your rights have changed.", fix="Open the stream again.")
    return None


async def _pause(call: ApiCall, happened: Any) -> None:
    """Until it happened or Nubila stops."""
    stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiting = asyncio.ensure_future(happened)
    call.gate.held.add(stop)
    try:
        await asyncio.wait((waiting, stop), return_when=asyncio.FIRST_COMPLETED)
    finally:
        call.gate.held.discard(stop)
        waiting.cancel()


def _event(name: str, cursor: str, data: dict[str, Any]) -> bytes:
    """JSON has no line feeds: one data line is enough."""
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (cursor.encode(), name.encode(), json.encode(data))
