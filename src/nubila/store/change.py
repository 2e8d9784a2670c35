"""The change log, read in an order that loses nothing: below the oldest running transaction, by (xid, sequence).

By sequence alone a row would be lost for good: a transaction that took its number early and commits late appears behind
a reader that has already passed it. A cursor carries the fabric epoch, since a restored database counts anew.
"""

from __future__ import annotations

from uuid import UUID

import msgspec

from nubila.store.database import Database, Record

READ = """
select xid::text::bigint as xid, seq, at, actor, request, reason, kind, object_id, generation, action, content::text as content
  from change
 where (xid, seq) > ($1::text::xid8, $2) and xid < pg_snapshot_xmin(pg_current_snapshot())
   and ($3::uuid is null or project_id = $3) and ($4::uuid is null or object_id = $4) and ($5::text[] is null or kind = any($5))
 order by xid, seq limit $6
"""
# where a reader that wants only what comes starts
LAST_SEQ = 10**18 - 1  # 18 digits: what `Cursor.parse` takes
END = "select (pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1) as xid"


class Cursor(msgspec.Struct, frozen=True, order=True):
    fabric_epoch: int
    xid: int
    seq: int

    def __str__(self) -> str:
        return f"{self.fabric_epoch}.{self.xid}.{self.seq}"

    @classmethod
    def parse(cls, value: str) -> Cursor | None:
        parts = value.split(".")
        if len(parts) != 3 or not all(p.isascii() and p.isdigit() and len(p) < 19 for p in parts):
            return None
        return cls(*map(int, parts))


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
        limit: int = 500,
    ) -> list[Record]:
        """Rows after the cursor, in the order of cursors. A row that is not here yet may still come, never before these."""
        return await self._db.fetch(
            READ, str(after.xid), after.seq, project_id, object_id, None if kinds is None else list(kinds), limit
        )

    async def end(self, fabric_epoch: int) -> Cursor:
        return Cursor(fabric_epoch, int(await self._db.value(END)), LAST_SEQ)
