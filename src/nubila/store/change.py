"""The change log, read in an order that loses nothing: below the oldest running transaction, by (xid, sequence).

By sequence alone a row would be lost for good: a transaction that took its number early and commits late appears behind
a reader that has already passed it. A cursor carries the fabric epoch, since a restored database counts anew. Rows of
one object are folded by sequence: who writes last waited for the one before.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from nubila.store.cursor import LAST_SEQ, Cursor
from nubila.store.database import Database, Record

__all__ = ["LAST_SEQ", "ChangeStore", "Cursor"]

COLUMNS = """fabric_epoch, xid::text::bigint as xid, seq, at, actor, request, reason, kind, object_id, project_id, generation,
       action, content::text as content"""
# Rows of an older epoch are all committed, whatever number the transactions of this server have.
READ = f"""
select {COLUMNS}
  from change
 where (fabric_epoch, xid, seq) > ($1, $2::text::xid8, $3)
   and ($9::text is null or content->>'node_id' = $9) and (fabric_epoch < $7 or xid < pg_snapshot_xmin(pg_current_snapshot())) and action <> 'baseline'
   and ($4::uuid is null or project_id = $4) and ($5::uuid is null or object_id = $5) and ($6::text[] is null or kind = any($6))
 order by fabric_epoch, xid, seq limit $8
"""
# where a reader that wants only what comes starts
END = "select (pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1) as xid"
COVERS = """
select not exists (select from seal where digests is null and (fabric_epoch, horizon) > ($1, ($2::text::numeric + 1)::text::xid8))
"""
# newest first; the row before each is what it is compared with
OBJECT = f"""
select {COLUMNS} from change
 where object_id = $1 and kind = $2 and seq < $3 and ($4::uuid is null or project_id = $4)
 order by seq desc limit $5
"""
NAMES = """
select 'user' as kind, id, name from "user" where id = any($1)
union all select 'operator', id, name from operator where id = any($1)
union all select 'node', id, name from node where id = any($1)
"""
# what was answered then can only be asked for a moment that is over, and that the log still covers
MOMENT = """
select now() as now, (select max(at) from seal where digests is null) as kept_since,
       (select at from change where fabric_epoch = $1 and xid = $2::text::xid8 and seq = $3) as at
"""


class ChangeStore:
    def __init__(self, database: Database):
        self._db = database

    async def read(
        self,
        after: Cursor,
        *,
        project_id: UUID | None = None,
        object_id: UUID | None = None,
        kinds: tuple[str, ...] | None = None,
        node_id: UUID | None = None,
        limit: int = 500,
    ) -> list[Record]:
        """Rows after the cursor, in the order of cursors. A row that is not here yet may still come, never before these."""
        epoch, xid, seq = after.place
        wanted = None if kinds is None else list(kinds)
        return await self._db.fetch(
            READ,
            epoch,
            str(xid),
            seq,
            project_id,
            object_id,
            wanted,
            after.fabric_epoch,
            limit,
            None if node_id is None else str(node_id),
        )

    async def covers(self, cursor: Cursor) -> bool:
        """Whether every row after the cursor is still here."""
        epoch, xid, _ = cursor.place
        return bool(await self._db.value(COVERS, epoch, str(xid)))

    async def end(self, fabric_epoch: int) -> Cursor:
        return Cursor(fabric_epoch, int(await self._db.value(END)), LAST_SEQ)

    async def history(
        self, kind: str, object_id: UUID, *, project_id: UUID | None, before: int | None, limit: int
    ) -> list[Record]:
        """The rows of one object, newest first, below the sequence `before`."""
        below = LAST_SEQ if before is None else before
        return await self._db.fetch(OBJECT, object_id, kind, below, project_id, limit)

    async def names(self, ids: list[UUID]) -> dict[tuple[str, UUID], str]:
        """What those who acted are called today: (kind, id) -> name."""
        return {(r["kind"], r["id"]): r["name"] for r in await self._db.fetch(NAMES, ids)} if ids else {}

    async def moment(self, cursor: Cursor | None) -> tuple[datetime, datetime | None, datetime | None]:
        """The present, since when the log is whole (None: from the beginning), and the time of the cursor's row."""
        epoch, xid, seq = (0, 0, 0) if cursor is None else cursor.place
        row = await self._db.row(MOMENT, epoch, str(xid), seq)
        assert row is not None
        return row["now"], row["kept_since"], row["at"]
