"""`GET /v1/events`: the change log as server-sent events, on all three planes. Resumed by Last-Event-ID, which is a cursor.

A stream that resumes reads its own way up to the present, and then takes from the feed that all streams of the process
share (store/feed.py). It holds one batch at most: a client that takes its events so slowly that the feed has forgotten
what comes next is cut, and resumes from its last id. Who may read is asked again all the time; a token that was revoked
ends the stream.
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
from nubila.store.feed import Feed, Ring, Told

MEDIA = "text/event-stream"
BATCH = 200
CLOCK_S = 1.0
TOO_SLOW = "Events came faster than you took them. Open the stream again with this id as Last-Event-ID."
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
        raise errors.Invalid(
            f"There are no events of the kind '{foreign[0][:40]}' here.",
            fix=f"Known are {', '.join(allowed)}.",
            field="kind",
            where="query",
        )
    project_id = project_of(call)
    if query.project is not None:
        if not is_operator(call):
            raise errors.Invalid(
                "Only operators choose a project; your token names yours.", field="project", where="query"
            )
        project_id = parse("project", query.project)
        if project_id is None:
            raise errors.Invalid("'project' must be an id such as 'prj-...'.", field="project", where="query")
    object_id = None if query.object is None else object_of(query.object)
    return Wanted(kinds or allowed, project_id, object_id, call.principal.node_id)


async def _follow(
    call: ApiCall, changes: ChangeStore, wanted: Wanted, cursor: Cursor, *, reset: bool
) -> AsyncIterator[bytes]:
    # The first piece says where the stream stands: who reconnects before anything came loses nothing.
    yield _event("reset" if reset else "begin", str(cursor), {"cursor": str(cursor), "reset": reset})
    source = Source(call.context.feed, changes, wanted, cursor)
    said, asked = time.monotonic(), time.monotonic()
    try:
        while not call.gate.stopping:
            news = call.context.feed.expect()
            rows = await source.next()
            if time.monotonic() - asked >= CLOCK_S:
                asked = time.monotonic()
                if (refusal := await _refused(call)) is not None:
                    yield _event("end", str(cursor), {"slug": refusal.slug, "detail": refusal.detail})
                    return
            if rows is None:
                yield _event("cut", str(cursor), {"cursor": str(cursor), "detail": TOO_SLOW})
                return
            if rows:
                cursor, said = _place(call, rows[-1]), time.monotonic()
                yield b"".join(_event("change", cursor_of(call, r), change_shown(call, r)) for r in rows)
            elif source.rests:
                if time.monotonic() - said >= call.query.heartbeat:
                    said = time.monotonic()
                    yield b": nothing new\n\n"
                await _pause(call, news, min(CLOCK_S, call.query.heartbeat))
            else:
                await asyncio.sleep(0)  # a batch of which nothing is for this stream
    finally:
        source.close()


class Source:
    """The rows of one stream: from the database until it has come up to the feed, from the feed after that."""

    def __init__(self, feed: Feed, changes: ChangeStore, wanted: Wanted, cursor: Cursor):
        self._feed, self._changes, self._wanted, self._cursor = feed, changes, wanted, cursor
        self._place = cursor.place
        self._ring: Ring | None = None  # the one it has come up to
        self.rests = False  # there was nothing more
        feed.join()

    def close(self) -> None:
        self._feed.leave()

    async def next(self) -> list[Record] | None:
        """At most a batch; None when the feed went on without this stream."""
        ring = self._feed.ring
        found = None if ring is None else ring.after(self._place, BATCH)
        if found is not None:
            self._ring = ring
            self.rests = len(found) < BATCH
            if found:
                self._place = found[-1].place
            return [t.row for t in found if _takes(self._wanted, t)]
        if ring is not None and self._ring is ring:
            return None
        return await self._behind(ring)

    async def _behind(self, ring: Ring | None) -> list[Record]:
        # What the feed had read before is visible to this statement too: without more rows it has come up to there.
        high = None if ring is None else ring.high
        w = self._wanted
        rows = await self._changes.read(
            Cursor.at(self._cursor.fabric_epoch, *self._place),
            project_id=w.project_id,
            object_id=w.object_id,
            kinds=w.kinds,
            node_id=w.node_id,
            limit=BATCH,
        )
        if rows:
            self._place = rows[-1]["fabric_epoch"], rows[-1]["xid"], rows[-1]["seq"]
        if len(rows) < BATCH and high is not None:
            self._place = max(self._place, high)
        self.rests = len(rows) < BATCH
        return rows


def _takes(wanted: Wanted, t: Told) -> bool:
    """What the database's statement says of a row, of one in memory."""
    row = t.row
    return (
        row["action"] != "baseline"
        and (wanted.project_id is None or row["project_id"] == wanted.project_id)
        and (wanted.object_id is None or row["object_id"] == wanted.object_id)
        and (wanted.kinds is None or row["kind"] in wanted.kinds)
        and (wanted.node_id is None or t.node_id == str(wanted.node_id))
    )


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


async def _pause(call: ApiCall, news: asyncio.Future[None], timeout_s: float) -> None:
    """Until there is news, the time is over, or Nubila stops."""
    stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    call.gate.held.add(stop)
    try:
        await asyncio.wait((news, stop), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        call.gate.held.discard(stop)


def _event(name: str, cursor: str, data: dict[str, Any]) -> bytes:
    """JSON has no line feeds: one data line is enough."""
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (cursor.encode(), name.encode(), json.encode(data))
