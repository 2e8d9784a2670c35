"""What the reconcile loop looks at: a bounded snapshot per noun."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from nubila.store.database import Database

BATCH = 200

# noun -> its snapshot: what may need a step, at most a batch of it
SNAPSHOT: dict[str, str] = {
    "vm": "select to_jsonb(v)::text as row from vm v where v.removed_at is null and v.state = 'stopped' and v.spec->>'power' = 'on' order by v.id limit 200",
    "operation": """select to_jsonb(o)::text as row from operation o where o.ended_at is null and o.deadline_at < now()
                     and not coalesce((o.status->>'overdue')::boolean, false) order by o.deadline_at limit 200""",
}


class WorkStore:
    def __init__(self, database: Database):
        self._db = database

    async def snapshot(self, noun: str) -> list[dict[str, Any]]:
        return [msgspec.json.decode(r["row"]) for r in await self._db.fetch(SNAPSHOT[noun])]

    async def now(self) -> datetime:
        now: datetime = await self._db.value("select now()")
        return now
