"""What keeps calls honest: idempotency keys, stored plans, and one row for every call that changed or was refused."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec

from nubila.store.database import Database, Record
from nubila.store.tables import BY_NAME

KEPT_H = 24
PLAN_S = 900

REPLAY = "select request_sha256, status, answer::text from idempotency where principal = $1 and key = $2 and created_at > now() - interval '24 hours'"
CALL = """insert into call (id, actor, project_id, request, action, outcome, kind, object_id, detail)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9::text::jsonb)"""
KEEP_PLAN = """insert into plan (id, principal, draft, shown, expires_at)
values ($1, $2, $3::text::jsonb, $4::text::jsonb, now() + interval '15 minutes') returning now() as now, expires_at"""
PLAN = "select id, draft::text, shown::text, created_at, expires_at from plan where id = $1 and principal = $2 and expires_at > now()"
PLANS = (
    "select id, shown::text, created_at, expires_at from plan where principal = $1 and expires_at > now() order by id"
)
DROP_PLAN = "delete from plan where id = $1 and principal = $2 returning id"
FORGET = (
    "delete from plan where expires_at < now()",
    "delete from idempotency where created_at < now() - interval '24 hours'",
    "delete from wanted w where not exists (select from vm v where v.id = w.vm_id and v.removed_at is null)\n       and not exists (select from volume d where d.id = w.vm_id and d.removed_at is null)\n       and not exists (select from security_group g where g.id = w.vm_id and g.removed_at is null)",
    "delete from parked where until < now() - interval '1 hour'",
    "delete from question where asked_at < now() - interval '2 minutes'",
)
REFUSAL = "insert into decision (id, project_id, answer) values ($1, $2, $3::text::jsonb)"
DECISIONS = """
select d.id, d.created_at, d.project_id, d.vm_id, d.node_id, n.name as node_name, p.name as project_name, d.answer::text as answer
  from decision d left join node n on n.id = d.node_id left join project p on p.id = d.project_id
 where ($1::uuid is null or d.id < $1) and ($2::boolean is null or (d.vm_id is null) = $2) order by d.id desc limit $3
"""
QUOTA = "select class, amount, used from quota where project_id = $1 order by class"


# What is named to people: of a port its vm, which they know.
NAMED = """select '{kind}' as kind, x.id, x.name, p.name as project from "{table}" x left join project p on p.id = {project}
 where x.id = any($1) and ($2::uuid is null or {project} = $2) order by x.name"""
NAMED_PORT = """select distinct 'vm' as kind, v.id, v.name, p.name as project from port x join vm v on v.id = x.vm_id left join project p on p.id = v.project_id
 where x.id = any($1) and ($2::uuid is null or v.project_id = $2) order by v.name"""


class Ledger:
    def __init__(self, database: Database):
        self._db = database

    async def replay(self, principal: str, key: str) -> Record | None:
        return await self._db.row(REPLAY, principal, key)

    async def call(
        self,
        call_id: UUID,
        *,
        actor: str,
        project_id: UUID | None,
        request: str,
        action: str,
        outcome: str,
        kind: str | None = None,
        object_id: UUID | None = None,
        detail: dict[str, Any] | None = None,
    ) -> None:
        shown = None if detail is None else msgspec.json.encode(detail).decode()
        await self._db.execute(CALL, call_id, actor, project_id, request, action, outcome, kind, object_id, shown)

    async def keep_plan(self, plan_id: UUID, principal: str, draft: str, shown: Any) -> Record:
        row = await self._db.row(KEEP_PLAN, plan_id, principal, draft, msgspec.json.encode(shown).decode())
        assert row is not None
        return row

    async def plan(self, plan_id: UUID, principal: str) -> Record | None:
        return await self._db.row(PLAN, plan_id, principal)

    async def plans(self, principal: str) -> list[Record]:
        return await self._db.fetch(PLANS, principal)

    async def drop_plan(self, plan_id: UUID, principal: str) -> bool:
        return await self._db.value(DROP_PLAN, plan_id, principal) is not None

    async def named(self, objects: list[tuple[str, str]], project_id: UUID | None) -> list[Record]:
        """kind, id, name and project's name of objects; with a project only that one's. Kinds without a name are left out."""
        out: list[Record] = []
        for kind in dict.fromkeys(kind for kind, _ in objects):
            table = BY_NAME[kind].table
            if "name" not in table.c:
                continue
            project = "x.project_id" if "project_id" in table.c else "null::uuid"
            sql = NAMED_PORT if kind == "port" else NAMED.format(kind=kind, table=kind, project=project)
            out += await self._db.fetch(sql, [UUID(i) for k, i in objects if k == kind], project_id)
        return list({(r["kind"], r["id"]): r for r in out}.values())  # a vm may be meant by its ports too

    async def refusal(self, decision_id: UUID, project_id: UUID, answer: bytes) -> None:
        """A placement that found no node, kept with its numbers."""
        await self._db.execute(REFUSAL, decision_id, project_id, answer.decode())

    async def decisions(self, before: UUID | None, refused: bool | None, limit: int) -> list[Record]:
        """Placements, newest first."""
        return await self._db.fetch(DECISIONS, before, refused, limit)

    async def quota(self, project_id: UUID) -> list[Record]:
        return await self._db.fetch(QUOTA, project_id)

    async def forget(self) -> None:
        """Housekeeping: what is past its time and referred to by nothing."""
        for sql in FORGET:
            await self._db.execute(sql)
