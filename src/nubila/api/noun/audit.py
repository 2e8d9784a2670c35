"""`GET /v1/audit`: whether the change log is what was written, row by row."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from nubila import errors
from nubila.api.context import ApiCall
from nubila.api.route import Answer
from nubila.model.ids import PREFIX, text
from nubila.store.audit import Anchor, AuditStore, Finding

_ANCHOR = re.compile(r"([0-9]{1,18})\.([0-9]{1,18})\.([0-9a-f]{64})")


class AuditQuery(msgspec.Struct, frozen=True):
    anchor: list[str] = []  # seals noted elsewhere: EPOCH.BLOCK.HASH


async def verify(call: ApiCall) -> Answer:
    """Verify the change log against its seals and what nodes saw of them; names each row that was tampered with."""
    anchors = [_anchor(a) for a in call.query.anchor]
    verdict = await AuditStore(call.context.database).verify(call.context.fabric_epoch, anchors)
    head = verdict.head
    return Answer(
        body={
            "sound": verdict.sound,
            "seals": verdict.seals,
            "rows": verdict.rows,
            "dropped_rows": verdict.dropped,
            "unsealed_rows": verdict.unsealed,
            "head": None if head is None else f"{head.fabric_epoch}.{head.block}.{head.hash}",
            "sealed_at": None if head is None else head.at,
            "findings": [_shown(f) for f in verdict.findings],
        }
    )


def _anchor(value: str) -> Anchor:
    found = _ANCHOR.fullmatch(value)
    if found is None:
        raise errors.Invalid(
            f"'{value[:100]}' is not a seal.",
            fix="Write it as the 'head' of an earlier answer: EPOCH.BLOCK.HASH.",
            field="anchor",
            where="query",
        )
    return Anchor(source="you", fabric_epoch=int(found[1]), block=int(found[2]), hash=found[3])


def _shown(f: Finding) -> dict[str, Any]:
    known = f.kind in PREFIX and f.object_id is not None
    return {
        "what": f.what,
        "detail": f.detail,
        "block": f.block,
        "sequence": f.seq,
        "kind": f.kind,
        "id": text(f.kind, f.object_id) if known and f.kind is not None else None,
        "at": f.at,
        "actor": f.actor,
    }
