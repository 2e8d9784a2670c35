"""Queries about vms: what a draft looks at, what people see, and what a report is compared with. Each one snapshot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec

from nubila.store.database import Database, Record

# A network's subnets, IPv4 ones with some free addresses. Each candidate is looked up by itself: joined, all addresses of
# the network would be read.
SUBNETS = """(
    select coalesce(jsonb_agg(to_jsonb(s) || jsonb_build_object('free', case when family(s.cidr) = 4 then coalesce(
       (select jsonb_agg(host(c.a)) from (select distinct set_masklen(s.cidr::inet, 32) + (1 + x % (2 ^ (32 - masklen(s.cidr)) - 2)::bigint) a
          from unnest($10::bigint[]) x) c where (select true from address t where t.network_id = n.id and t.address = c.a) is null),
       (select jsonb_agg(host(c.a)) from (select set_masklen(s.cidr::inet, 32) + o a from generate_series(1, (2 ^ (32 - masklen(s.cidr)) - 2)::bigint) o
          where (select true from address t where t.network_id = n.id and t.address = set_masklen(s.cidr::inet, 32) + o) is null limit 32) c)) end)
      order by s.cidr), '[]') from subnet s where s.network_id = n.id and s.removed_at is null)"""
# $10 are random numbers: candidates for free addresses, so that parallel creates do not all want the same one.
CREATE = (
    """
select now() as now,
 (select to_jsonb(p) from project p where p.id = $1 and p.removed_at is null)::text as project,
 (select jsonb_object_agg(q.class, jsonb_build_array(q.amount, q.used)) from quota q where q.project_id = $1)::text as quota,
 (select to_jsonb(f) from flavor f where f.removed_at is null and (f.id = $3 or f.name = $2))::text as flavor,
 (select to_jsonb(i) from image i where i.removed_at is null and (i.id = $5 or i.name = $4)
    and (i.project_id = $1 or (i.project_id is null and (i.spec->>'public')::boolean)
      or ((i.id = $5 or i.project_id is null) and exists (select from share s where s.kind = 'image' and s.object_id = i.id and s.project_id = $1))) order by i.project_id nulls last limit 1)::text as image,
 (select jsonb_agg(to_jsonb(k)) from keypair k where k.project_id = $1 and k.removed_at is null and (k.id = any($9) or k.name = any($8)))::text as keys,
 (select jsonb_agg(to_jsonb(n) || jsonb_build_object('subnets', """
    + SUBNETS
    + """))
   from network n where n.project_id = $1 and n.removed_at is null and (n.id = any($7) or n.name = any($6) or $11))::text as networks,
 (select jsonb_agg(jsonb_build_object('id', g.id, 'name', g.name, 'generation', g.generation)) from security_group g
   where g.project_id = $1 and g.removed_at is null)::text as groups,
 (select v.name from vm v where v.project_id = $1 and v.name = $12 and v.removed_at is null) as taken,
 (select jsonb_agg(distinct jsonb_build_array(n.id, p.node_id)) from network n join subnet s on s.network_id = n.id and s.removed_at is null
    join subnet o on o.cidr::inet && s.cidr::inet and o.network_id <> n.id and o.removed_at is null
    cross join lateral (select distinct p.node_id from port p where p.network_id = o.network_id and p.removed_at is null) p
   where $13 and n.project_id = $1 and n.removed_at is null and (n.id = any($7) or n.name = any($6) or $11))::text as crowded
"""
)

# Text is made at once: a jsonb would be built only to be written out.
_KEPT = "snapshot s where s.volume_id = any(a.ids) and (s.removed_at is null) is true"
_ONE = f"""
select now() as now, to_json(v)::text as vm,
 (select json_agg(to_json(o) order by o.id) from operation o where o.resource_id = v.id and o.ended_at is null)::text as operations,
 p.ports::text as ports,
 (select json_agg(to_json(x)) from address x where x.port_id = any(p.ids))::text as addresses,
 (select json_agg(to_json(o) order by o.id) from operation o where o.resource_id = any(p.ids) and o.ended_at is null)::text as port_operations,
 a.volumes::text as volumes,
 (select json_agg(to_json(o) order by o.id) from operation o where o.resource_id = any(a.ids) and o.ended_at is null)::text as volume_operations,
 a.attachments::text as attachments,
 (select m.capabilities from virt_method m where m.node_id = v.node_id and m.name = v.spec->>'virt_method')::text as capabilities,
 (select json_agg(to_json(s) order by s.id) from {_KEPT})::text as snapshots,
 (select json_agg(to_json(o) order by o.id) from operation o where o.resource_id = any(array(select s.id from {_KEPT})) and o.ended_at is null)::text as snapshot_operations,
 (select json_agg(to_json(l)) from allocation l where l.holder_id = any(v.id || a.ids || array(select s.id from {_KEPT})))::text as allocations
from vm v
 left join lateral (select array_agg(p.id) as ids, json_agg(to_json(p)) as ports
    from port p where p.vm_id = v.id and (p.removed_at is null) is true) p on true
 left join lateral (select array_agg(a.volume_id) as ids, json_agg(to_json(a)) as attachments,
    json_agg((select to_json(d) from volume d where d.id = a.volume_id)) as volumes
    from attachment a where a.vm_id = v.id and a.state <> 'revoked') a on true
"""
# `is true` says which index to go by: while tables are small the planner takes any partial one whose condition holds.
BY_ID = _ONE + "where v.id = $2 and ($1::uuid is null or v.project_id = $1) is true and (v.removed_at is null) is true"
BY_NAME = _ONE + "where v.project_id = $1 and v.name = $2 and v.removed_at is null"
# Of a vm that stays, no report asks for the snapshots of its disks, and reports are many.
_REPORTED = _ONE.replace(_KEPT, f"{_KEPT} and (v.spec->>'gone')::boolean")
REPORTED = _REPORTED + "where v.id = any($1) and (v.node_id = $2) is true and (v.removed_at is null) is true"

SIZE = """
select (select jsonb_object_agg(q.class, jsonb_build_array(q.amount, q.used)) from quota q where q.project_id = $1)::text as quota,
 (select jsonb_object_agg(i.class, jsonb_build_array(i.total - i.reserved, i.used)) from inventory i where i.node_id = $2)::text as inventory,
 (select to_jsonb(f) from flavor f where f.removed_at is null and (f.id = $4 or f.name = $3))::text as flavor
"""

DECISION = "select answer::text, created_at, node_id from decision where vm_id = $1 order by id desc limit 1"


def decode(row: Record, *names: str) -> dict[str, Any]:
    """A row whose jsonb columns are decoded; absent aggregates become empty lists."""
    out = dict(row)
    for n in names:
        out[n] = None if row[n] is None else msgspec.json.decode(row[n])
    return out


class VmStore:
    def __init__(self, database: Database):
        self._db = database

    async def create_view(
        self,
        project_id: UUID,
        *,
        name: str,
        flavor: tuple[str, UUID | None],
        image: tuple[str, UUID | None],
        networks: tuple[list[str], list[UUID]] | None,
        keys: tuple[list[str], list[UUID]],
        random: Sequence[int],
        crowding: bool = True,
    ) -> dict[str, Any]:
        """Everything that create decides on. `networks` None asks for all of the project's. `crowding`: and on which
        nodes other networks are in the way of which of them."""
        names, ids = networks or ([], [])
        row = await self._db.row(
            CREATE, project_id, *flavor, *image, names, ids, *keys, list(random), networks is None, name, crowding
        )
        assert row is not None
        return decode(row, "project", "quota", "flavor", "image", "keys", "networks", "groups", "crowded")

    async def one_view(self, project_id: UUID | None, vm_id: UUID | None, name: str) -> dict[str, Any] | None:
        """By id, or by name within a project."""
        by = (BY_NAME, project_id, name) if vm_id is None else (BY_ID, project_id, vm_id)
        row = await self._db.row(*by)
        return None if row is None else _decode_one(row)

    async def size_view(self, vm: Mapping[str, Any], flavor: tuple[str, UUID | None]) -> dict[str, Any]:
        """What a change of this vm's size is decided on beside the vm."""
        row = await self._db.row(SIZE, UUID(vm["project_id"]), UUID(vm["node_id"]), *flavor)
        assert row is not None
        return decode(row, "quota", "inventory", "flavor")

    async def reported_view(self, vm_ids: Sequence[UUID], node_id: UUID) -> list[dict[str, Any]]:
        return [_decode_one(r) for r in await self._db.fetch(REPORTED, list(vm_ids), node_id)]

    async def user_data_secret(self, vm_id: UUID) -> UUID | None:
        secret: UUID | None = await self._db.value("select user_data_secret from vm where id = $1", vm_id)
        return secret

    async def decision(self, vm_id: UUID) -> Record | None:
        return await self._db.row(DECISION, vm_id)


_LISTS = (
    "operations",
    "ports",
    "addresses",
    "port_operations",
    "volumes",
    "volume_operations",
    "attachments",
    "snapshots",
    "snapshot_operations",
    "allocations",
)


def _decode_one(row: Record) -> dict[str, Any]:
    out = decode(row, "vm", "capabilities", *_LISTS)
    out["capabilities"] = out["capabilities"] or {}
    for n in _LISTS:
        out[n] = out[n] or []
    return out
