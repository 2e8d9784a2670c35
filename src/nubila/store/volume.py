"""Queries about volumes and their snapshots: what a draft looks at, and what a report is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from nubila.store.database import Database, Record
from nubila.store.vm import decode

_LISTS = ("operations", "attachments", "snapshots", "copies", "allocations")

_ONE = """
select now() as now, to_jsonb(d)::text as volume,
 (select to_jsonb(p) from project p where p.id = d.project_id)::text as project,
 (select to_jsonb(n) from node n where n.id = d.node_id)::text as node,
 (select jsonb_object_agg(q.class, jsonb_build_array(q.amount, q.used)) from quota q where q.project_id = d.project_id)::text as quota,
 (select jsonb_agg(to_jsonb(o) order by o.id) from operation o where o.ended_at is null and o.resource_id = any(
    d.id || array(select s.id from snapshot s where s.volume_id = d.id)))::text as operations,
 (select jsonb_agg(to_jsonb(a) || jsonb_build_object('vm', (select to_jsonb(v) from vm v where v.id = a.vm_id)) order by a.epoch)
    from attachment a where a.volume_id = d.id and a.state <> 'revoked')::text as attachments,
 (select coalesce(max(a.epoch), 0) from attachment a where a.volume_id = d.id) as epoch,
 (select jsonb_agg(to_jsonb(s) order by s.id) from snapshot s where s.volume_id = d.id and (s.removed_at is null) is true)::text as snapshots,
 (select jsonb_agg(jsonb_build_object('id', c.id, 'name', c.name) order by c.id) from volume c
   where c.project_id = d.project_id and c.removed_at is null and c.source_id = d.id and c.state in ('pending', 'failed'))::text as copies,
 (select jsonb_agg(to_jsonb(l)) from allocation l where l.holder_id = any(
    d.id || array(select s.id from snapshot s where s.volume_id = d.id)))::text as allocations
from volume d
"""
BY_ID = _ONE + "where d.id = $2 and ($1::uuid is null or d.project_id = $1) is true and (d.removed_at is null) is true"
BY_NAME = _ONE + "where d.project_id = $1 and d.name = $2 and d.removed_at is null"
REPORTED = _ONE + "where d.id = any($1) and (d.node_id = $2) is true and (d.removed_at is null) is true"

# $3/$4 an image, $5/$6 the volume to copy, $7/$8 the vm it is for: name and id each
CREATE = """
select now() as now,
 (select to_jsonb(p) from project p where p.id = $1 and p.removed_at is null)::text as project,
 (select jsonb_object_agg(q.class, jsonb_build_array(q.amount, q.used)) from quota q where q.project_id = $1)::text as quota,
 (select d.name from volume d where d.project_id = $1 and d.name = $2 and d.removed_at is null) as taken,
 (select to_jsonb(i) from image i where i.removed_at is null and (i.id = $4 or i.name = $3)
    and (i.project_id = $1 or (i.project_id is null and (i.spec->>'public')::boolean)) order by i.project_id nulls last limit 1)::text as image,
 (select to_jsonb(d) || jsonb_build_object('node_name', (select n.name from node n where n.id = d.node_id), 'hypervisor',
    (select m.capabilities from attachment a join vm v on v.id = a.vm_id
       join virt_method m on m.node_id = v.node_id and m.name = v.spec->>'virt_method'
      where a.volume_id = d.id and a.state <> 'revoked' and v.status->>'power' = 'on')) from volume d
   where d.project_id = $1 and d.removed_at is null and (d.id = $6 or d.name = $5))::text as source,
 (select to_jsonb(v) || jsonb_build_object('node_name', (select n.name from node n where n.id = v.node_id)) from vm v
   where v.project_id = $1 and v.removed_at is null and (v.id = $8 or v.name = $7))::text as vm
"""


class VolumeStore:
    def __init__(self, database: Database):
        self._db = database

    async def one_view(self, project_id: UUID | None, volume_id: UUID | None, name: str) -> dict[str, Any] | None:
        """By id, or by name within a project."""
        by = (BY_NAME, project_id, name) if volume_id is None else (BY_ID, project_id, volume_id)
        row = await self._db.row(*by)
        return None if row is None else _decoded(row)

    async def reported_view(self, volume_ids: Sequence[UUID], node_id: UUID) -> list[dict[str, Any]]:
        return [_decoded(r) for r in await self._db.fetch(REPORTED, list(volume_ids), node_id)]

    async def create_view(
        self,
        project_id: UUID,
        name: str,
        image: tuple[str | None, UUID | None],
        source: tuple[str | None, UUID | None],
        vm: tuple[str | None, UUID | None],
    ) -> dict[str, Any]:
        """Everything that create decides on."""
        row = await self._db.row(CREATE, project_id, name, *image, *source, *vm)
        assert row is not None
        return decode(row, "project", "quota", "image", "source", "vm")


def _decoded(row: Record) -> dict[str, Any]:
    out = decode(row, "volume", "project", "node", "quota", *_LISTS)
    for n in _LISTS:
        out[n] = out[n] or []
    return out
