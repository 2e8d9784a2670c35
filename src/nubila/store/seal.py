"""Seals: the change log in blocks, each with the digests of its rows and the hash of the block before.

A block holds the rows of one fabric epoch whose transaction lies below a horizon that nothing running can fall under any
more. What a seal says of its rows is what `AuditStore` compares them with; that nobody wrote the seals anew is told by
the anchors, the newest seals that agents saw.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from nubila.store.database import Database, Record

ROWS_MAX = 5000
LAST_XID = 2**64 - 1
SEQ_BYTES, DIGEST_BYTES = 8, 16
ROW_BYTES = SEQ_BYTES + DIGEST_BYTES

# Every column, in words that do not hang on a session's settings.
DIGEST = f"""substr(sha256(convert_to(jsonb_build_array(seq, xid::text, fabric_epoch, extract(epoch from at)::text, actor, request,
    reason, kind, object_id, project_id, generation, schema_number, action, content)::text, 'UTF8')), 1, {DIGEST_BYTES})"""
HEAD = """
select f.fabric_epoch as present, pg_snapshot_xmin(pg_current_snapshot())::text::numeric as horizon, clock_timestamp() as now, s.*
  from fabric f left join lateral (select block, fabric_epoch, horizon::text::numeric as low, hash from seal order by block desc limit 1) s on true
"""
ROWS = f"""
select xid::text::numeric as xid, seq, {DIGEST} as digest from change
 where fabric_epoch = $1 and xid >= $2::text::xid8 and xid < $3::text::xid8 order by xid, seq limit $4
"""
ADD = """
insert into seal (block, at, fabric_epoch, low, horizon, count, digests, digest, previous, hash)
values ($1, $2, $3, $4::text::xid8, $5::text::xid8, $6, $7, $8, $9, $10) on conflict do nothing returning block
"""
NEWEST = "select fabric_epoch, block, hash from seal order by block desc limit 1"
ANCHOR = """
insert into anchor (node_id, fabric_epoch, block, hash)
select * from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::text[])
on conflict (node_id) do update set fabric_epoch = excluded.fabric_epoch, block = excluded.block, hash = excluded.hash, told_at = now()
 where (anchor.fabric_epoch, anchor.block, anchor.hash) is distinct from (excluded.fabric_epoch, excluded.block, excluded.hash)
"""


class SeenSeal(NamedTuple):
    fabric_epoch: int
    block: int
    hash: str


class Seal(msgspec.Struct, frozen=True, kw_only=True):
    block: int
    at: datetime
    fabric_epoch: int
    low: int
    horizon: int
    count: int
    digest: str
    previous: str

    @property
    def hash(self) -> str:
        words = [self.block, round(self.at.timestamp() * 1e6), self.fabric_epoch, self.low, self.horizon, self.count]
        return hashlib.sha256(msgspec.json.encode([*words, self.digest, self.previous])).hexdigest()


def packed(rows: list[Record]) -> bytes:
    return b"".join(r["seq"].to_bytes(SEQ_BYTES, "big") + r["digest"] for r in rows)


def unpacked(digests: bytes) -> dict[int, bytes]:
    """seq -> digest."""
    parts = [digests[i : i + ROW_BYTES] for i in range(0, len(digests), ROW_BYTES)]
    return {int.from_bytes(p[:SEQ_BYTES], "big"): p[SEQ_BYTES:] for p in parts}


class SealStore:
    def __init__(self, database: Database):
        self._db = database

    async def seal(self, *, rows_max: int = ROWS_MAX, closing: bool = False) -> Seal | None:
        """Seal what can be sealed, or a part of it; None when there is nothing. Called by the lease's holder only, and by
        an adoption (`closing`): the epoch before gets its last block, below which no transaction can come any more."""
        head = await self._db.row(HEAD)
        assert head is not None
        epoch = head["present"]
        low = int(head["low"]) if head["fabric_epoch"] == epoch else 0
        horizon = LAST_XID if closing else int(head["horizon"])
        if horizon <= low:
            return None
        rows = await self._rows(epoch, low, horizon, rows_max)
        if len(rows) > rows_max and rows[0]["xid"] != rows[-1]["xid"]:
            horizon = int(rows[-1]["xid"])  # a transaction is never divided
            rows = rows[: next(n for n, r in enumerate(rows) if r["xid"] == horizon)]
        if not rows:
            return None
        digests = packed(rows)
        made = Seal(
            block=(head["block"] or 0) + 1,
            at=head["now"],
            fabric_epoch=epoch,
            low=low,
            horizon=horizon,
            count=len(rows),
            digest=hashlib.sha256(digests).hexdigest(),
            previous=head["hash"] or "",
        )
        added = await self._db.value(ADD, *_columns(made, digests))
        return made if added is not None else None

    async def _rows(self, epoch: int, low: int, horizon: int, rows_max: int) -> list[Record]:
        """All of them, or more than `rows_max` of more than one transaction."""
        while True:
            rows = await self._db.fetch(ROWS, epoch, str(low), str(horizon), rows_max + 1)
            if len(rows) <= rows_max or rows[0]["xid"] != rows[-1]["xid"]:
                return rows
            rows_max *= 4

    async def newest(self) -> Record | None:
        """fabric_epoch, block and hash of the newest seal."""
        return await self._db.row(NEWEST)

    async def anchor(self, saw: Mapping[UUID, SeenSeal]) -> None:
        """The newest seal that each of these nodes says it saw."""
        await self._db.execute(ANCHOR, list(saw), *map(list, zip(*saw.values(), strict=True)))


def _columns(s: Seal, digests: bytes | None) -> tuple[Any, ...]:
    place = (s.block, s.at, s.fabric_epoch, str(s.low), str(s.horizon), s.count)
    return (*place, digests, s.digest, s.previous, s.hash)


def of_row(row: Mapping[str, Any]) -> Seal:
    fields = {f: row[f] for f in Seal.__struct_fields__}
    return Seal(**{**fields, "low": int(row["low"]), "horizon": int(row["horizon"])})
