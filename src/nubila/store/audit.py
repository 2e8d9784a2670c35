"""`audit verify`: the change log against its seals, the seals against each other, and both against what agents saw.

Each finding is one of: a row altered, missing or inserted; a seal rewritten; the tail cut; and, no fault, what a restore
took back. Reads in pieces, so that a long log neither fills memory nor holds a snapshot open.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from nubila.store.database import Database, Record
from nubila.store.seal import DIGEST, LAST_XID, Seal, of_row, unpacked

BLOCKS = 200
FINDINGS_MAX = 1000

SEALS = """
select block, at, fabric_epoch, low::text::numeric as low, horizon::text::numeric as horizon, count, digests, digest, previous, hash
  from seal where block > $1 order by block limit $2
"""
ROWS = f"""
select seq, {DIGEST} as digest, kind, object_id, at, actor from change
 where fabric_epoch = $1 and xid >= $2::text::xid8 and xid < $3::text::xid8
"""
# in an epoch or of a transaction that has not been
STRANGE = """
select seq, kind, object_id, at, actor from change
 where fabric_epoch > $1 or (fabric_epoch = $1 and xid >= pg_snapshot_xmax(pg_current_snapshot()))
    or not exists (select from seal s where s.fabric_epoch = change.fabric_epoch) and fabric_epoch < $1 limit 1000
"""
UNSEALED = "select count(*) from change where fabric_epoch = $1 and xid >= $2::text::xid8"
ANCHORS = """
select coalesce(n.name, a.node_id::text) as source, a.fabric_epoch, a.block, a.hash from anchor a left join node n on n.id = a.node_id
"""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    what: str  # altered | missing | inserted | rewritten | tail-cut | restored
    detail: str
    block: int | None = None
    seq: int | None = None
    kind: str | None = None
    object_id: Any = None
    at: Any = None
    actor: str | None = None


class Anchor(msgspec.Struct, frozen=True, kw_only=True):
    """A seal that somebody outside has seen."""

    source: str
    fabric_epoch: int
    block: int
    hash: str


class Verdict(msgspec.Struct, kw_only=True):
    findings: list[Finding] = []
    seals: int = 0
    rows: int = 0
    dropped: int = 0  # rows that retention took; their seals are here
    unsealed: int = 0
    head: Seal | None = None

    @property
    def sound(self) -> bool:
        return all(f.what == "restored" for f in self.findings)


class AuditStore:
    def __init__(self, database: Database):
        self._db = database

    async def verify(self, present: int, anchors: Iterable[Anchor] = ()) -> Verdict:
        """`present`: the fabric epoch. Anchors that agents told are taken from the database, and these beside them."""
        verdict = Verdict()
        told = [msgspec.convert(dict(r), Anchor) for r in await self._db.fetch(ANCHORS)]
        wanted = {(a.fabric_epoch, a.block): a for a in (*anchors, *told)}
        hashes: dict[tuple[int, int], str] = {}
        while rows := await self._db.fetch(SEALS, verdict.head.block if verdict.head else 0, BLOCKS):
            for row in rows:
                seal = of_row(row)
                chain(verdict, seal, row["hash"])
                await self._block(verdict, seal, row)
                if (key := (seal.fabric_epoch, seal.block)) in wanted:
                    hashes[key] = row["hash"]
                verdict.head, verdict.seals = seal, verdict.seals + 1
            if len(verdict.findings) > FINDINGS_MAX:
                return verdict
        anchored(verdict, [*anchors, *told], hashes, present)
        await self._rest(verdict, present)
        return verdict

    async def _block(self, verdict: Verdict, seal: Seal, row: Record) -> None:
        found = await self._db.fetch(ROWS, seal.fabric_epoch, str(seal.low), str(seal.horizon))
        verdict.rows += len(found)
        if row["digests"] is None:
            verdict.dropped += seal.count
            known: dict[int, bytes] = {}
        else:
            if hashlib.sha256(row["digests"]).hexdigest() != seal.digest or len(unpacked(row["digests"])) != seal.count:
                _add(verdict, "rewritten", f"The digests in seal {seal.block} are not those it was made with.", seal)
            known = unpacked(row["digests"])
        compare(verdict, seal, known, found)

    async def _rest(self, verdict: Verdict, present: int) -> None:
        head = verdict.head
        low = head.horizon if head is not None and head.fabric_epoch == present else 0
        verdict.unsealed = int(await self._db.value(UNSEALED, present, str(min(low, LAST_XID))))
        for row in await self._db.fetch(STRANGE, present):
            _add(verdict, "inserted", "A row of a transaction or a fabric epoch that has not been.", None, row)


def chain(verdict: Verdict, seal: Seal, hash_: str) -> None:
    """Whether the seal is the one that follows the one before."""
    before = verdict.head
    if seal.hash != hash_:
        _add(verdict, "rewritten", f"Seal {seal.block} does not have the hash of what it says.", seal)
    if seal.block != (before.block if before else 0) + 1:
        gap = f"{(before.block if before else 0) + 1} to {seal.block - 1}"
        _add(verdict, "rewritten", f"The seals {gap} are missing.", seal)
    elif seal.previous != (before.hash if before else ""):
        _add(
            verdict, "rewritten", f"Seal {seal.block} was made after another seal than the one that is before it.", seal
        )


def compare(verdict: Verdict, seal: Seal, known: dict[int, bytes], rows: Sequence[Record]) -> None:
    """The rows of a block with what the seal says of them."""
    there = {r["seq"]: r for r in rows}
    for seq in sorted({*known, *there}):
        row = there.get(seq)
        if row is None:
            _add(verdict, "missing", f"Row {seq}, sealed at {seal.at.isoformat()}, is not there.", seal, seq=seq)
        elif seq not in known:
            _add(verdict, "inserted", f"Row {seq} was not there when its block was sealed.", seal, row)
        elif row["digest"] != known[seq]:
            _add(verdict, "altered", f"Row {seq} is not what was sealed at {seal.at.isoformat()}.", seal, row)


def anchored(verdict: Verdict, anchors: Sequence[Anchor], hashes: dict[tuple[int, int], str], present: int) -> None:
    """Against the seals that were seen outside."""
    last = verdict.head.block if verdict.head else 0
    for a in anchors:
        found = hashes.get((a.fabric_epoch, a.block))
        if found == a.hash:
            continue
        if found is None and a.fabric_epoch < present:
            words = f"Seal {a.block} of fabric epoch {a.fabric_epoch}, which {a.source} saw, was lost in the restore."
            _add(verdict, "restored", words)
        elif found is None:
            words = f"{a.source} saw seal {a.block}; the last one here is {last}: the log's end was cut off."
            _add(verdict, "tail-cut", words)
        else:
            words = f"{a.source} saw another seal {a.block} (hash {a.hash[:16]}...): seals were written anew."
            _add(verdict, "rewritten", words)


def _add(
    verdict: Verdict,
    what: str,
    detail: str,
    seal: Seal | None = None,
    row: Record | None = None,
    seq: int | None = None,
) -> None:
    more = {} if row is None else {k: row[k] for k in ("seq", "kind", "object_id", "at", "actor")}
    block = None if seal is None else seal.block
    verdict.findings.append(Finding(what=what, detail=detail, block=block, **{"seq": seq, **more}))
