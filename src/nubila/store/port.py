"""Queries about ports and security groups: what intents look at, each in one snapshot."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec

from nubila.store.database import Database

GROUPS = """
select now() as now, (select jsonb_agg(to_jsonb(g) || jsonb_build_object(
    'ports', (select count(*) from port p where p.group_ids @> array[g.id] and p.removed_at is null),
    'users', jsonb_build_object(
       'ports', (select coalesce(jsonb_agg(p.name order by p.id), '[]') from (select * from port p where p.group_ids @> array[g.id]
                   and p.removed_at is null order by p.id limit 20) p),
       'security_groups', (select coalesce(jsonb_agg(o.name order by o.id), '[]') from security_group o where o.remote_ids @> array[g.id]
                   and o.removed_at is null and o.id <> g.id))) order by g.id)
  from security_group g where g.project_id = $1 and g.removed_at is null)::text as groups
"""


class PortStore:
    def __init__(self, database: Database):
        self._db = database

    async def groups(self, project_id: UUID) -> dict[str, Any]:
        """All groups of a project with who uses them; a project has few."""
        row = await self._db.row(GROUPS, project_id)
        assert row is not None
        return {"now": row["now"], "groups": msgspec.json.decode(row["groups"] or "[]")}
