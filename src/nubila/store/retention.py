"""How long the change log is kept: old rows go, the newest of each object that lives stays as its baseline; seals remain.

A baseline is a new row, sealed like any, with the place in its object's order and the time of the one it stands for. So
`?as_of=` is answered for every moment since the cut, and `audit verify` still proves every row that is there.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from nubila.store.database import Database
from nubila.store.past_views import holder
from nubila.store.tables import TABLES

# what tells the rows of one holder apart, kind by kind
_KEYS = " ".join(
    f"when '{t.name}' then concat_ws(' ', {', '.join(rest)})"
    for t in TABLES
    if t.logged and (rest := [f"content->>'{k}'" for k in t.key if k != holder(t)])
)
# what lives may still name one of these that does not
NAMED = ("project", "user", "operator", "node", "flavor", "image", "network")
CUT = """
select block, at, fabric_epoch, horizon::text as horizon from seal where at <= $1 and digests is not null order by block desc limit 1
"""
TRIM = f"""
with gone as (
    delete from change where (fabric_epoch, xid) < ($1, $2::text::xid8) returning *
), newest as (
    select distinct on (kind, object_id, key) * from (select *, case kind {_KEYS} else '' end as key from gone) g
     order by kind, object_id, key, seq desc
), kept as (
    insert into change (seq, at, actor, request, reason, kind, object_id, project_id, generation, schema_number, action, content)
    overriding system value
    select seq, at, actor, request, reason, kind, object_id, project_id, generation, schema_number, 'baseline', content
      from newest where action <> 'delete' and (content->>'removed_at' is null or kind = any($3))
    returning 1
)
select (select count(*) from gone) as gone, (select count(*) from kept) as kept
"""
DROP = "update seal set digests = null where block <= $1 and digests is not null"


class Trimmed(msgspec.Struct, frozen=True):
    since: datetime | None  # the log is whole since then; None: nothing was that old
    gone: int = 0
    kept: int = 0


async def trim(database: Database, before: datetime) -> Trimmed:
    """Forget what is older, as far as it is sealed; in one transaction."""
    async with database.connection() as c, c.transaction():
        cut = await c.fetchrow(CUT, before)
        if cut is None:
            return Trimmed(None)
        counts = await c.fetchrow(TRIM, cut["fabric_epoch"], cut["horizon"], list(NAMED), timeout=3600)
        await c.execute(DROP, cut["block"])
    return Trimmed(cut["at"], counts["gone"], counts["kept"])
