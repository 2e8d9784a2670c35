"""Queries about nodes: the fleet snapshot, sessions, freshness, and what a node wants to know."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from nubila.store.database import Database, Record

FLEET = """
select n.id, n.name, n.state, n.spec, n.status,
       extract(epoch from now() - s.seen_at)::float8 as silent_s,
       (select jsonb_object_agg(i.class, jsonb_build_array(i.total - i.reserved, i.used)) from inventory i where i.node_id = n.id) as inventory
  from node n left join node_seen s on s.node_id = n.id
 where n.removed_at is null
 order by n.id
"""

RANGES = "select distinct jsonb_array_elements_text(n.status->'ranges') as range from node n where n.removed_at is null"

# In one statement for all nodes heard from since the last one; losing the newest seconds in a crash harms nobody.
SEEN = """
update node_seen s set seen_at = greatest(s.seen_at, now() - make_interval(secs => u.ago_s)), revision = greatest(s.revision, u.revision)
  from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::float8[]) u(node_id, session, revision, ago_s)
 where s.node_id = u.node_id and s.session = u.session
"""

# The session of a lost node ended: its number is kept, negative, so that none comes twice.
NEW_SESSION = """
insert into node_seen (node_id, session, seen_at, revision) values ($1, 1, now(), 0)
on conflict (node_id) do update set session = abs(node_seen.session) + 1, seen_at = now(), revision = 0
returning session
"""

LOST = "select state = 'lost' as lost from node where id = $1"

# Where a node stands that has heard of revision $2; one that was never given means that it knows nothing.
_POSITION = """
select r.revision, s.session, f.fabric_epoch, told.since, told.since = 0 or r.revision > told.since as behind,
       (select jsonb_build_object('fabric_epoch', l.fabric_epoch, 'block', l.block, 'hash', l.hash)::text from seal l order by l.block desc limit 1) as seal,
       exists (select from question q where q.node_id = $1 and q.answered_at is null and q.sent_session is distinct from s.session) as asked"""
_OF_NODE = """
  from fabric f, node_revision r left join node_seen s using (node_id),
       lateral (select case when $2::bigint <= 0 or $2 > r.revision then 0 else $2 end as since) told
 where r.node_id = $1"""
POSITION = _POSITION + _OF_NODE

# `offset 0`: one object after the other by its key. Nobody knows how many revisions are new, and expecting a third of all
# the planner would read every object there is.
_VMS = """
select v.id, v.name, v.epoch, v.generation, v.project_id, v.spec, v.user_data_secret,
  (select coalesce(json_agg(json_build_object('id', d.id, 'spec', d.spec, 'attachment', a.id, 'epoch', a.epoch, 'index', a.index,
            'generation', d.generation, 'made', coalesce((d.status->>'made')::boolean, (d.status->>'ready')::boolean, false), 'leaving', a.state = 'revoking') order by a.index), '[]')
     from attachment a join volume d on d.id = a.volume_id
    where a.vm_id = v.id and (a.state in ('active', 'revoking')) is true) as disks,
  (select coalesce(json_agg(json_build_object('id', p.id, 'epoch', p.epoch, 'mac', p.mac, 'spec', p.spec, 'network', n.id,
            'network_name', n.name, 'network_spec', n.spec, 'groups', p.group_ids,
            'addresses', (select coalesce(json_agg(host(x.address) order by coalesce(array_position(array(
                 select jsonb_array_elements_text(p.spec->'extra')), host(x.address)), 0), x.address) filter (where not coalesce(p.spec->'leaving' ? host(x.address), false)), '[]')
               from address x where x.port_id = p.id),
            'leaving', (select coalesce(json_agg(host(x.address) order by x.address), '[]') from address x
               where x.port_id = p.id and p.spec->'leaving' ? host(x.address)),
            'subnets', (select coalesce(json_agg(json_build_object('id', s.id, 'cidr', s.cidr, 'gateway', host(s.gateway), 'dns', s.spec->'dns') order by s.cidr), '[]')
                          from subnet s where s.network_id = n.id and s.removed_at is null)) order by (p.spec->>'index')::int), '[]')
     from port p join network n on n.id = p.network_id where p.vm_id = v.id and (p.removed_at is null) is true) as nics,
  (select f.name from flavor f where f.id = v.flavor_id) as flavor
from wanted w, lateral (select * from vm v where v.id = w.vm_id and (v.node_id = $1) is true and (v.removed_at is null) is true offset 0) v
where w.node_id = $1 and w.revision > told.since
"""

_VOLUMES = """
select d.id, d.project_id, d.generation, d.spec, coalesce((d.status->>'made')::boolean, (d.status->>'ready')::boolean, false) as made,
  (select json_build_object('id', a.id, 'epoch', a.epoch, 'index', a.index, 'vm_id', a.vm_id, 'state', a.state) from attachment a
    where a.volume_id = d.id order by a.epoch desc limit 1) as attachment,
  (select json_agg(json_build_object('id', s.id, 'gone', s.spec->'gone') order by s.id) from snapshot s
    where s.volume_id = d.id and (s.removed_at is null) is true) as snapshots,
  (select o.spec->>'format' from volume o where o.id = d.source_id) as source_format
from wanted w, lateral (select * from volume d where d.id = w.vm_id and (d.node_id = $1) is true and (d.removed_at is null) is true offset 0) d
where w.node_id = $1 and w.revision > told.since and w.kind = 'volume'
"""

# The security groups that ports of this node are in. Asked of each group that changed, in a select of its own: joined, the
# ports of all groups would be read, whichever changed.
_GROUPS = """
select g.id, g.spec, coalesce((select json_object_agg(r.id, (select coalesce(json_agg(host(a.address) order by a.address), '[]')
           from port m join address a on a.port_id = m.id where m.group_ids @> array[r.id] and m.removed_at is null))
         from unnest(g.remote_ids) r(id)), '{}') as members
  from wanted w, lateral (select * from security_group g where g.id = w.vm_id and (g.removed_at is null) is true offset 0) g
 where w.node_id = $1 and w.revision > told.since and w.kind = 'security_group'
   and (select true from port p where p.group_ids @> array[g.id] and p.removed_at is null and p.node_id = $1 limit 1)
"""


def _news(sql: str) -> str:
    return f"case when r.revision > told.since then (select json_agg(to_json(y)) from ({sql}) y)::text end"


# The same with what changed for the node since then, in one round trip.
NEWS = f"{_POSITION}, {_news(_VMS)} as vms, {_news(_VOLUMES)} as volumes, {_news(_GROUPS)} as groups {_OF_NODE}"

QUESTIONS = """
update question set sent_session = $2
 where node_id = $1 and answered_at is null and asked_at > now() - interval '30 seconds' and sent_session is distinct from $2
returning id, vm_id, about, max_bytes
"""

ASK = "insert into question (id, node_id, vm_id, about, max_bytes) values ($1, $2, $3, $4, $5)"
ANSWERED = "delete from question where id = $1 and answered_at is not null returning answer, error"
ANSWER = "update question set answer = $3, error = $4, answered_at = now() where id = $1 and node_id = $2 and answered_at is null returning id"

# only what a vm of this node is made from, or has in its drive
IMAGE = """
select i.sha256 from image i where i.id = $2 and i.sha256 is not null
   and (exists (select from vm v where (v.image_id = i.id or v.media_image_id = i.id) and v.node_id = $1 and v.removed_at is null)
    or exists (select from wanted w join volume d on d.id = w.vm_id where w.node_id = $1 and d.image_id = i.id and d.removed_at is null))
"""
TIMELINE = "select ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int"


class NodeStore:
    def __init__(self, database: Database):
        self._db = database

    async def fleet(self) -> list[Record]:
        return await self._db.fetch(FLEET)

    async def seen(self, heard: Sequence[tuple[UUID, int, int, float]]) -> None:
        """(node, session, revision it has, seconds ago) of each node heard from."""
        nodes, sessions, revisions, ago = zip(*heard, strict=True)
        await self._db.execute(SEEN, list(nodes), list(sessions), list(revisions), list(ago))

    async def ranges(self) -> list[str]:
        """Where the machines of living nodes have addresses or routes of their own."""
        return [r["range"] for r in await self._db.fetch(RANGES)]

    async def new_session(self, node_id: UUID) -> int:
        return int(await self._db.value(NEW_SESSION, node_id))

    async def lost(self, node_id: UUID) -> bool:
        return await self._db.value(LOST, node_id) is True

    async def position(self, node_id: UUID, since: int = 0) -> Record | None:
        """revision, session, fabric_epoch, whether the node is behind its wishes and a question waits for it; `since` is 0
        when everything is new to it."""
        return await self._db.row(POSITION, node_id, since)

    async def news(self, node_id: UUID, since: int) -> Record | None:
        """As `position`, with the vms, volumes and groups that changed after `since`: each a JSON array or None."""
        return await self._db.row(NEWS, node_id, since)

    async def image_content(self, node_id: UUID, image_id: UUID) -> str | None:
        """The hash of an image's bytes, when this node has a vm made from it."""
        sha256: str | None = await self._db.value(IMAGE, node_id, image_id)
        return sha256

    async def fabric(self) -> Record:
        """region and fabric_epoch."""
        row = await self._db.row("select region, fabric_epoch from fabric")
        assert row is not None
        return row

    async def timeline(self) -> int:
        return int(await self._db.value(TIMELINE))

    async def ask(self, question_id: UUID, node_id: UUID, vm_id: UUID, about: str, max_bytes: int) -> None:
        await self._db.execute(ASK, question_id, node_id, vm_id, about, max_bytes)

    async def questions(self, node_id: UUID, session: int) -> list[Record]:
        return await self._db.fetch(QUESTIONS, node_id, session)

    async def answer(self, question_id: UUID, node_id: UUID, text: bytes, error: str | None) -> bool:
        return await self._db.value(ANSWER, question_id, node_id, text, error) is not None

    async def answered(self, question_id: UUID) -> Record | None:
        return await self._db.row(ANSWERED, question_id)
