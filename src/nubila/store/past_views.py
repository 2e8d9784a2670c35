"""Views of the schema `past`, generated from the table of tables: each logged table as the change log says it was.

The moment is in the session's settings (`past.py` puts it there). The way to an object is an index walk: by the live table,
which keeps removed rows, then by `change_object_idx`. What is not logged cannot be asked: `used` of quota and inventory is
null, and how long a node was silent is not known. A migration that alters a table drops the schema first.
"""

from __future__ import annotations

from collections.abc import Iterator

from nubila.store.shape import Table
from nubila.store.tables import TABLES

# Columns that never change once a row is there: taken from the live table, so that its indexes lead to the row.
FIXED = frozenset(
    {"id", "project_id", "network_id", "vm_id", "volume_id", "subnet_id", "account_id", "user_id", "resource_id"}
)
# Made by the clock of another statement than the row's place in the log: nothing is missed within this.
SLACK = "interval '1 minute'"

_MOMENT = """c.at <= current_setting('nubila.as_of')::timestamptz
        and (c.action = 'baseline' or (c.fabric_epoch, c.xid, c.seq) <= (current_setting('nubila.as_of_epoch')::bigint,
             current_setting('nubila.as_of_xid')::xid8, current_setting('nubila.as_of_seq')::bigint))"""


def views() -> Iterator[str]:
    yield "drop schema if exists past cascade;\ncreate schema past;"
    yield 'create view past."node_seen" as select node_id, session, now() as seen_at, revision from public."node_seen";'
    # what was promised then is not known: nothing is read of it, least of all what is promised now
    yield (
        'create view past."allocation" as select null::uuid as holder_id, null::text as "class", null::uuid as node_id, '
        "null::bigint as amount where false;"
    )
    for t in TABLES:
        if t.logged:
            yield _by_id(t) if "id" in t.table.c else _by_holder(t)


def holder(t: Table) -> str:
    """The column that names the object in the log."""
    return next(c for c in ("id", "holder_id", "port_id", "node_id", "project_id") if c in t.table.c)


def _by_id(t: Table) -> str:
    columns = ", ".join(f't."{c.name}"' if c.name in FIXED else _column(t, c.name) for c in t.table.columns)
    there = " and t.created_at <= current_setting('nubila.as_of')::timestamptz" if "created_at" in t.table.c else ""
    if "removed_at" in t.table.c:
        there += f" and (t.removed_at is null or t.removed_at > current_setting('nubila.as_of')::timestamptz - {SLACK})"
        # of a cursor the time is not known
        there = there.replace(
            "(t.removed_at", "(current_setting('nubila.as_of')::timestamptz = 'infinity' or t.removed_at", 1
        )
    return f"""\
create view past."{t.name}" as
select {columns}
  from public."{t.name}" t
 cross join lateral (
     select c.content, c.action from public.change c
      where c.object_id = t.id and c.kind = '{t.name}' and {_MOMENT}
      order by c.seq desc limit 1) c
 cross join lateral jsonb_populate_record(null::public."{t.name}", c.content) r
 where c.action <> 'delete'{there};"""


def _by_holder(t: Table) -> str:
    """Rows that are deleted for good: found by the object that holds them, which is kept."""
    column = holder(t)
    columns = ", ".join(f'o.id as "{c.name}"' if c.name == column else _column(t, c.name) for c in t.table.columns)
    rest = [f"c.content->>'{k}'" for k in t.key if k != column] or ["true"]
    return f"""\
create view past."{t.name}" as
select {columns}
  from public."{column.removesuffix("_id")}" o
 cross join lateral (
     select distinct on ({", ".join(rest)}) c.content, c.action from public.change c
      where c.object_id = o.id and c.kind = '{t.name}' and {_MOMENT}
      order by {", ".join(rest)}, c.seq desc) c
 cross join lateral jsonb_populate_record(null::public."{t.name}", c.content) r
 where c.action <> 'delete';"""


def _column(t: Table, name: str) -> str:
    """A row that was written before there was such a column has its default, if that is a constant."""
    default = t.table.c[name].server_default
    text = getattr(getattr(default, "arg", None), "text", None) or getattr(default, "arg", None)
    if name in t.unlogged_columns or text is None or "(" in str(text):
        return f'r."{name}"'
    constant = str(text) if str(text).startswith("'") or str(text) in ("true", "false") else f"'{text}'"
    return f'coalesce(r."{name}", {constant}) as "{name}"'
