"""What hangs on an account, and the join tokens: read before rights are taken away."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec

from nubila.store.database import Database, Record
from nubila.store.past import CLOCK

OF = """
select (select jsonb_agg(to_jsonb(m) || jsonb_build_object('project', p.name) order by p.name)
          from member m join project p on p.id = m.project_id where m.user_id = $1)::text as members,
       (select jsonb_agg(to_jsonb(t) order by t.id) from token t where t.account_id = $1 and t.removed_at is null)::text as tokens,
       (select jsonb_agg(to_jsonb(o) order by o.id) from operator o
         where o.id <> $1 and o.removed_at is null and not (o.spec->>'suspended')::boolean)::text as others
"""
JOIN_TOKENS = f"""
select j.id, j.spec::text as spec, j.expires_at, j.expires_at < ({CLOCK}) as expired, j.used_at, j.node_id, n.name as node_name, j.created_at
  from join_token j left join node n on n.id = j.node_id and n.removed_at is null
 where ($1::uuid is null or j.id > $1) and not j.spec ? 'removed_at' order by j.id limit $2
"""


class Rights:
    def __init__(self, database: Database):
        self._db = database

    async def of(self, kind: str, account_id: UUID) -> tuple[list[Any], list[Any], list[Any]]:
        """Memberships (with the project's name), living tokens, and the other operators that can act."""
        row = await self._db.row(OF, account_id)
        assert row is not None
        members, tokens, others = (msgspec.json.decode(row[k] or "[]") for k in ("members", "tokens", "others"))
        return members, tokens, others if kind == "operator" else []

    async def join_tokens(self, after: UUID | None, limit: int) -> list[Record]:
        return await self._db.fetch(JOIN_TOKENS, after, limit)
