"""Queries about drifts: the open lines of one node's ledger, of one moment."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from nubila.store.database import Database

OPEN = """
select now() as now, (select jsonb_agg(to_jsonb(d) order by d.id) from drift d
  where d.node_id = $1 and (d.removed_at is null) is true)::text as drifts
"""


class DriftStore:
    def __init__(self, database: Database):
        self._db = database

    async def open(self, node_id: UUID) -> tuple[list[dict[str, Any]], datetime]:
        """The node's lines that are not resolved, whole, and the database's time."""
        row = await self._db.row(OPEN, node_id)
        assert row is not None
        return msgspec.json.decode(row["drifts"] or "[]"), row["now"]
