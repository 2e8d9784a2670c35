"""Queries about ports and security groups: what intents look at, each in one snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec

from nubila.store.database import Database
from nubila.store.vm import SUBNETS, decode

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

# $2/$3 the network's name and id, $4 random numbers, $5 the vm's node
PLACE = (
    """
select (select to_jsonb(n) || jsonb_build_object('subnets', """
    + SUBNETS.replace("$10", "$4")
    + """) from network n where n.project_id = $1 and n.removed_at is null and (n.id = $3 or n.name = $2))::text as network,
 (select jsonb_build_object('mine', s.cidr, 'theirs', o.cidr) from network n join subnet s on s.network_id = n.id and s.removed_at is null
    join subnet o on o.cidr && s.cidr and o.network_id <> n.id and o.removed_at is null
   where n.project_id = $1 and n.removed_at is null and (n.id = $3 or n.name = $2)
     and exists (select from port p where p.network_id = o.network_id and p.node_id = $5 and p.removed_at is null) limit 1)::text as clash,
 (select d.value from node h, jsonb_each(h.status->'drivers'->'network') d where h.id = $5 limit 1)::text as wires
"""
)


class PortStore:
    def __init__(self, database: Database):
        self._db = database

    async def groups(self, project_id: UUID) -> dict[str, Any]:
        """All groups of a project with who uses them; a project has few."""
        row = await self._db.row(GROUPS, project_id)
        assert row is not None
        return {"now": row["now"], "groups": msgspec.json.decode(row["groups"] or "[]")}

    async def place(
        self, project_id: UUID, network: tuple[str, UUID | None], node_id: UUID, random: Sequence[int]
    ) -> dict[str, Any]:
        """What a port's addresses are chosen from: the network with free ones, what of another network on that node is
        in its way, and what the node's network driver can."""
        row = await self._db.row(PLACE, project_id, *network, list(random), node_id)
        assert row is not None
        return decode(row, "network", "clash", "wires")
