"""What the reconcile loop looks at, a bounded snapshot per noun, and the lease that lets one process run it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from nubila.store.database import Database, Record

BATCH = 200
PARKED_SHOWN = 1000

# noun -> its snapshot: what may need a step but for some ids, at most a batch of it
SNAPSHOT: dict[str, str] = {
    "vm": "select to_jsonb(v)::text as row from vm v where v.removed_at is null and not v.id = any($1) and v.state = 'stopped' and v.spec->>'power' = 'on' order by v.id limit 200",
    "image": """select to_jsonb(i)::text as row from image i where i.state = 'pending' and not i.id = any($1) and i.spec->>'origin' in ('url', 'volume')
                 and i.removed_at is null order by i.id limit 200""",
    "operation": """select to_jsonb(o)::text as row from operation o where o.ended_at is null and not o.id = any($1) and o.deadline_at < now()
                     and not coalesce((o.status->>'overdue')::boolean, false) order by o.deadline_at limit 200""",
    "drift": """select to_jsonb(d)::text as row from drift d where d.removed_at is null and not d.id = any($1) and d.state = 'ignored'
                 and (d.spec->>'ignore_until')::timestamptz <= now() order by d.id limit 200""",
}

# One that was parked before keeps the time since when.
PARK = """
insert into parked (kind, object_id, reason, until) values ($1, $2, $3, now() + make_interval(secs => $4))
on conflict (kind, object_id) do update set reason = excluded.reason, until = excluded.until
"""
UNPARK = "delete from parked where kind = $1 and object_id = $2"
RESTING = "select kind, object_id, until > now() as rests from parked"
# Past its time and not tried again: nothing was left to do on it.
PARKED = """
select p.kind, p.object_id, coalesce(v.name, o.name, d.name) as name, p.reason, p.since, p.until, now() as now
  from parked p
  left join vm v on p.kind = 'vm' and v.id = p.object_id
  left join operation o on p.kind = 'operation' and o.id = p.object_id
  left join drift d on p.kind = 'drift' and d.id = p.object_id
 where p.until > now() - interval '1 minute' and ($1::uuid[] is null or p.object_id = any($1))
 order by p.since, p.kind, p.object_id limit $2
"""

# The fence grows when the lease moves to another holder.
LEAD = """
insert into lease (name, holder, fence, until) values ($1, $2, 1, now() + make_interval(secs => $3))
on conflict (name) do update set holder = excluded.holder, until = excluded.until,
       fence = lease.fence + (lease.holder <> excluded.holder)::int
 where lease.holder = excluded.holder or lease.until < now()
returning fence
"""


# It stays as a row, so that the fence goes on growing.
RELEASE = "update lease set until = now() where name = $1 and holder = $2"


class WorkStore:
    def __init__(self, database: Database):
        self._db = database

    async def snapshot(self, noun: str, without: Sequence[UUID] = ()) -> list[dict[str, Any]]:
        return [msgspec.json.decode(r["row"]) for r in await self._db.fetch(SNAPSHOT[noun], list(without))]

    async def now(self) -> datetime:
        now: datetime = await self._db.value("select now()")
        return now

    async def park(self, kind: str, object_id: UUID, reason: str, rest_s: float) -> None:
        """Have an object left alone for so long, by whoever leads then."""
        await self._db.execute(PARK, kind, object_id, reason, rest_s)

    async def unpark(self, kind: str, object_id: UUID) -> None:
        await self._db.execute(UNPARK, kind, object_id)

    async def resting(self) -> dict[tuple[str, str], bool]:
        """(kind, id) of all that is parked -> whether its time is not over."""
        return {(r["kind"], str(r["object_id"])): r["rests"] for r in await self._db.fetch(RESTING)}

    async def parked(self, of: Sequence[UUID] | None = None, limit: int = PARKED_SHOWN) -> list[Record]:
        """What is parked, the longest first; `of`: of these objects."""
        return await self._db.fetch(PARKED, None if of is None else list(of), limit)

    async def lead(self, name: str, holder: str, ttl_s: float) -> int | None:
        """Take or keep the lease for so long by the database's clock; its fence, or None while another holds it."""
        fence: int | None = await self._db.value(LEAD, name, holder, ttl_s)
        return fence

    async def release(self, name: str, holder: str) -> None:
        """Give the lease back before its time; nothing happens when another holds it."""
        await self._db.execute(RELEASE, name, holder)
