"""Generates, from the literal table of tables, what PostgreSQL runs for us: the change log's trigger, the guards of
transitions, and `commit_N`, the one function through which every draft is written.

`python -m nubila.store.ddl` prints what follows from the tables (triggers and functions); the newest migration freezes that
text and runs it after its own statements. A test compares a database that went through all migrations with one made here.
The order inside commit is the order of locks: facts, rows (in TABLES order, sorted by key), capacity, node revision,
quota last, so that the rows every commit of a project or node must wait for are held shortest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from nubila.store import past_views
from nubila.store.shape import Table, metadata
from nubila.store.tables import BY_NAME, TABLES

DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]
COMMIT = "commit_5"
STALE = "NB409"
TRANSITION = "NB422"

# Columns that the function keeps itself.
_KEPT = {"created_at", "updated_at"}

CHANGE = """\
create table change (
    xid xid8 not null default pg_current_xact_id(),
    seq bigint generated always as identity,
    at timestamptz not null default clock_timestamp(),
    actor text,
    request text,
    reason text,
    kind text not null,
    object_id uuid,
    project_id uuid,
    generation bigint,
    schema_number smallint not null default 1,
    action text not null check (action in ('insert', 'update', 'delete', 'baseline')),
    content jsonb not null,
    fabric_epoch bigint not null default 1,  -- an adoption raises the default
    primary key (fabric_epoch, xid, seq)
);
create index change_object_idx on change (object_id, seq);
create index change_project_idx on change (project_id, fabric_epoch, xid, seq);
create table seal (
    block bigint primary key,
    at timestamptz not null default clock_timestamp(),
    fabric_epoch bigint not null,
    low xid8 not null,
    horizon xid8 not null,
    count bigint not null,
    digests bytea,
    digest text not null,
    previous text not null,
    hash text not null
);
create table anchor (
    node_id uuid primary key,
    fabric_epoch bigint not null,
    block bigint not null,
    hash text not null,
    told_at timestamptz not null default now()
);
"""

FUNCTIONS = """\
create or replace function log_change() returns trigger language plpgsql as $$
declare
    content jsonb := to_jsonb(case when tg_op = 'DELETE' then old else new end);
    was jsonb;
begin
    -- arguments: the column that names the object, the one that names its project ('' for none), and columns to hide
    for i in 2 .. tg_nargs - 1 loop
        content := content - tg_argv[i];
    end loop;
    if tg_op = 'UPDATE' and tg_argv[0] <> 'id' then
        -- a row that goes to another holder is gone from the one that had it
        was := to_jsonb(old);
        if was->>tg_argv[0] is not distinct from content->>tg_argv[0] then
            was := null;
        end if;
    end if;
    for i in case when was is null then 1 else 0 end .. 1 loop
        insert into change (at, actor, request, reason, kind, object_id, project_id, generation, schema_number, action, content)
        values (
            -- one time for all rows of a commit: no moment lies between them
            coalesce(nullif(current_setting('nubila.at', true), '')::timestamptz, clock_timestamp()),
            nullif(current_setting('nubila.actor', true), ''),
            -- of a commit that writes several drafts, the one that this object came with
            coalesce(nullif(current_setting('nubila.requests', true), '')::jsonb->>(content->>tg_argv[0]),
                nullif(current_setting('nubila.request', true), '')),
            nullif(current_setting('nubila.reason', true), ''),
            tg_table_name,
            (case when i = 0 then was else content end->>tg_argv[0])::uuid,
            (case when i = 0 then was else content end->>tg_argv[1])::uuid,
            (case when i = 0 then was else content end->>'generation')::bigint,
            coalesce((case when i = 0 then was else content end->>'spec_schema')::smallint, 1),
            case when i = 0 then 'delete' else lower(tg_op) end,
            case when i = 0 then was else content end);
    end loop;
    return null;
end $$;

create or replace function guard_transition() returns trigger language plpgsql as $$
begin
    if not (old.state || '>' || new.state = any (tg_argv)) then
        raise exception using errcode = 'NB422', message = 'transition',
            detail = tg_table_name || ' cannot go from ' || old.state || ' to ' || new.state;
    end if;
    return new;
end $$;

create or replace function guard_empty() returns trigger language plpgsql as $$
begin
    raise exception using errcode = 'NB409', message = 'stale', detail = jsonb_build_array(jsonb_build_object(
        'kind', 'inventory', 'id', old.node_id, 'class', old.class, 'was', 'unused', 'is_now', 'used'))::text;
end $$;
"""


def create_tables() -> Iterator[str]:
    for table in metadata.sorted_tables:
        # Room on each page, so that a report's update stays there and touches no index.
        room = " with (fillfactor = 70)" if "status" in table.c else ""
        yield str(sa.schema.CreateTable(table).compile(dialect=DIALECT)).strip() + room + ";"
        for index in sorted(table.indexes, key=lambda i: str(i.name)):
            yield str(sa.schema.CreateIndex(index).compile(dialect=DIALECT)).strip() + ";"


def triggers() -> Iterator[str]:
    for t in TABLES:
        q = f'"{t.name}"'
        if t.logged:
            named = past_views.holder(t)
            project = "id" if t.name == "project" else "project_id" if "project_id" in t.table.c else ""
            args = ", ".join(f"'{c}'" for c in (named, project, *t.unlogged_columns))
            yield f"create or replace trigger log_insert_delete after insert or delete on {q} for each row execute function log_change({args});"
            # A condition would be parsed anew at every statement: what a draft updates has changed, and is logged.
            logged = [f'"{c.name}"' for c in t.table.columns if c.name not in (*t.unlogged_columns, *t.key)]
            of = f" of {', '.join(logged)}" if t.unlogged_columns else ""
            yield f"create or replace trigger log_update after update{of} on {q} for each row execute function log_change({args});"
        if t.transitions:
            legal = ", ".join(sorted(f"'{was.value}>{to.value}'" for was, tos in t.transitions.items() for to in tos))
            yield (
                f"create or replace trigger guard_state before update of state on {q} for each row "
                f"when (old.state is distinct from new.state) execute function guard_transition({legal});"
            )
    # A claim that this removal waited for is seen here and nowhere before: nobody who claims locks the node itself.
    yield "create or replace trigger guard_empty before delete on inventory for each row when (old.used > 0) execute function guard_empty();"


# how a draft uses a row that it rests on -> the lock that keeps it so: only read, written, removed
LOCKS = {"read": "key share", "write": "no key update", "remove": "update"}


def _facts(t: Table) -> str:
    """Locks and compares the rows that a draft rests on, in the order of their ids (the client sorts them)."""
    generation = "t.generation" if "generation" in t.table.c else "null::bigint"
    version = "t.version" if "version" in t.table.c else "null::bigint"
    removed = "t.removed_at is not null" if "removed_at" in t.table.c else "false"
    loops = "".join(
        f"""
    if f ? '{use}' then uses := f->'{use}'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select {generation}, {version}, {removed} into g, v, dead from "{t.name}" t where t.id = (e->>'id')::uuid for {lock};
      if not found or dead then
        bad := bad || jsonb_build_object('kind', '{t.name}', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', '{t.name}', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;"""
        for use, lock in LOCKS.items()
    )
    return f"""
  if ff ? '{t.name}' then f := ff->'{t.name}';{loops}
  end if;"""


def _unused(t: Table) -> str:
    checks = "".join(
        f"""
    select bad || coalesce(jsonb_agg(distinct jsonb_build_object('kind', '{t.name}', 'id', {_used(user, column)}, 'was', 'unused',
        'is_now', 'used', 'user_kind', '{user}', 'user', u."{past_views.holder(BY_NAME[user])}")), '[]') into bad from "{user}" u
     where {_uses(t.name, user, column)}{_alive(user)};"""
        for user, column in t.references
    )
    return f"""
  if fu ? '{t.name}' then f := fu->'{t.name}';{checks}
  end if;"""


def _alive(user: str) -> str:
    return " and u.removed_at is null" if "removed_at" in metadata.tables[user].c else ""


def _many(user: str, column: str) -> bool:
    return isinstance(metadata.tables[user].c[column].type, postgresql.ARRAY)


def _used(user: str, column: str) -> str:
    return "f->0" if _many(user, column) else f'u."{column}"'


def _uses(name: str, user: str, column: str) -> str:
    """What uses itself may go."""
    if not _many(user, column):
        return f'u."{column}" in (select x::uuid from jsonb_array_elements_text(f) x)'
    own = " and not f ? u.id::text" if user == name else ""
    return f'u."{column}" && array(select x::uuid from jsonb_array_elements_text(f) x){own}'


def _writes(t: Table) -> str:
    columns = [c.name for c in t.table.columns]
    inserted = [c for c in columns if c not in _KEPT]
    changed = [c for c in columns if c not in _KEPT and c not in t.key and c != "version"]
    quoted = [f'"{c}"' for c in changed]
    order = ", ".join(f'r."{k}"' for k in t.key)
    # `?` lets the planner expect a single row: it goes through the table's key, however small the table is yet.
    key = f"x ? '{t.key[0]}' and " + " and ".join(
        f"t.\"{c}\" = (x->>'{c}')::{t.table.c[c].type.compile(DIALECT)}" for c in t.key
    )
    # what a draft says nothing of stays as it is
    sets = [
        f"({', '.join(quoted)}) = (select {', '.join(f'r.{c}' for c in quoted)} from jsonb_populate_record(t, x) r)"
    ]
    sets += ["version = t.version + 1"] if "version" in columns else []
    sets += ["updated_at = now()"] if "updated_at" in columns else []
    cols = ", ".join(f'"{c}"' for c in inserted)
    values = ", ".join(_default(t, c) for c in inserted)
    delete = f"""
  if fd ? '{t.name}' then
    delete from "{t.name}" t using jsonb_array_elements(fd->'{t.name}') x where {key};
  end if;"""
    update = f"""
  if fc ? '{t.name}' then f := fc->'{t.name}';
    update "{t.name}" t set {", ".join(sets)}
      from jsonb_array_elements(f) x where {key};
    get diagnostics n = row_count;
    if n < jsonb_array_length(f) then
      raise exception using errcode = '{STALE}', message = 'stale', detail = (select jsonb_agg(
        jsonb_build_object('kind', '{t.name}', 'id', x->'id', 'was', true, 'is_now', 'gone'))
        from jsonb_array_elements(f) x where not exists (select from "{t.name}" t where {key}))::text;
    end if;
  end if;"""
    insert = f"""
  if fi ? '{t.name}' then f := fi->'{t.name}';
    insert into "{t.name}" ({cols})
    select {values} from jsonb_populate_recordset(null::"{t.name}", f) r order by {order};
  end if;"""
    return delete + (update if changed else "") + insert


def _default(t: Table, column: str) -> str:
    """jsonb_populate_recordset gives NULL where the draft says nothing: the column's default has to be named."""
    default = t.table.c[column].server_default
    if default is None:
        return f'r."{column}"'
    text = default.arg.text if hasattr(default.arg, "text") else f"'{default.arg}'"  # type: ignore[attr-defined]
    return f'coalesce(r."{column}", {text})'


def _claim(word: str, table: str, holder: str, key: str, room: str, left: str, gone: str) -> str:
    """Amounts that are taken from what is left, one row per claim in the order of their keys (the client sums and sorts
    them); waits for a row, never skips it. A row of this transaction's is one whose claim held."""
    mine = f"t.{holder} = (x->>'{key}')::uuid and t.class = x->>'c'"
    fits = f"((x->>'a')::bigint <= 0 or t.used + (x->>'a')::bigint <= {room})"
    return f"""
  if d ? '{word}' then f := d->'{word}';
    update {table} t set used = t.used + (x->>'a')::bigint from jsonb_array_elements(f) x where x ? '{key}' and {mine} and {fits};
    get diagnostics n = row_count;
    if n < jsonb_array_length(f) then
      raise exception using errcode = '{STALE}', message = '{word}', detail = (select jsonb_agg(jsonb_build_object(
          'kind', '{table}', 'id', x->'{key}', 'class', x->'c') || case when t.{holder} is null then {gone} else {left} end)
        from jsonb_array_elements(f) x left join {table} t on {mine} where t.xmin is distinct from pg_current_xact_id()::xid)::text;
    end if;
  end if;"""


_CAPACITY = _claim(
    "capacity",
    "inventory",
    "node_id",
    "n",
    "t.total - t.reserved",
    "jsonb_build_object('was', x->'a', 'is_now', t.total - t.reserved - t.used)",
    "jsonb_build_object('was', x->'a', 'is_now', 'gone')",
)
_QUOTA = _claim(
    "quota",
    "quota",
    "project_id",
    "p",
    "t.amount",
    "jsonb_build_object('asked', x->'a', 'limit', t.amount, 'used', t.used)",
    "jsonb_build_object('asked', x->'a', 'limit', 0, 'used', 0)",
)


def _ids(word: str) -> str:
    return f"array(select x::uuid from jsonb_array_elements_text(f->'{word}') x)"


_CLAIMS = f"""{_CAPACITY}
  w := coalesce(d->'wake', '[]');
  -- groups: whoever changes members or rules of one waits here for the other, so that the later one sees both
  if d ? 'groups' then
    f := d->'groups';
    perform from security_group s where s.id = any({_ids("members")} || {_ids("rules")}
        || array(select unnest(r.remote_ids) from security_group r where r.id = any({_ids("rules")})))
      order by s.id for no key update;
    select w || coalesce(jsonb_agg(distinct jsonb_build_object('n', p.node_id, 'vm', s.id, 'k', 'security_group')), '[]') into w
      from security_group s, lateral (select p.node_id from port p where p.group_ids @> array[s.id] and p.removed_at is null offset 0) p
     where s.removed_at is null and (s.id = any({_ids("rules")}) or s.remote_ids && {_ids("members")});
  end if;
  if w <> '[]' then
    with r as (
      update node_revision t set revision = t.revision + 1
        from (select distinct (x->>'n')::uuid n from jsonb_array_elements(w) x where x ? 'n' order by 1) x where t.node_id = x.n
      returning t.node_id, t.revision), i as (
      insert into wanted (node_id, vm_id, kind, revision)
        select distinct r.node_id, (x->>'vm')::uuid, coalesce(x->>'k', 'vm'), r.revision
          from r join jsonb_array_elements(w) x on (x->>'n')::uuid = r.node_id order by 1, 2
        on conflict (node_id, vm_id) do update set revision = excluded.revision)
    select coalesce(jsonb_object_agg(r.node_id, r.revision), '{{}}') into out from r;
  end if;
  -- ranges: whoever brings a network to a node has waited above for whoever did so before, and sees it here
  if d ? 'ranges' then
    select coalesce(jsonb_agg(distinct jsonb_build_object('kind', 'network', 'id', r.net, 'was', 'alone in its range', 'is_now', 'not alone')), '[]')
      into bad from (select (j->>'n')::uuid n, (j->>'net')::uuid net from jsonb_array_elements(d->'ranges') j) r
      join subnet s on s.network_id = r.net and s.removed_at is null
      join subnet o on o.cidr::inet && s.cidr::inet and o.network_id <> r.net and o.removed_at is null
     where (select true from port p where p.network_id = o.network_id and p.node_id = r.n and p.removed_at is null limit 1);
    if bad <> '[]' then
      raise exception using errcode = '{STALE}', message = 'ranges', detail = bad::text;
    end if;
  end if;{_QUOTA}"""


_GROUP = 6


def _grouped(tables: list[Table], of: Callable[[Table], str], *drafted: str) -> str:
    """PostgreSQL prepares each condition anew in each transaction: most groups of tables are passed over by one."""
    groups = [tables[i : i + _GROUP] for i in range(0, len(tables), _GROUP)]
    words = [", ".join(f"'{t.name}'" for t in g) for g in groups]
    asked = [" or ".join(f"{d} ?| array[{w}]" for d in drafted) for w in words]
    return "".join(
        f"""
  if {a} then{"".join(of(t) for t in g)}
  end if;"""
        for g, a in zip(groups, asked, strict=True)
    )


def commit_function(name: str = COMMIT) -> str:
    facts = _grouped([t for t in TABLES if "id" in t.table.c], _facts, "ff")
    unused = _grouped([t for t in TABLES if t.references], _unused, "fu")
    writes = _grouped(list(TABLES), _writes, "fd", "fc", "fi")
    return f"""\
create or replace function {name}(d jsonb) returns jsonb language plpgsql set plan_cache_mode = force_generic_plan as $commit$
declare
  f jsonb; e jsonb; uses jsonb; bad jsonb := '[]'; w jsonb; n bigint; g bigint; v bigint; dead boolean; out jsonb := '{{}}';
  ff jsonb := d->'facts'; fu jsonb := d->'unused'; fd jsonb := d->'delete'; fc jsonb := d->'update'; fi jsonb := d->'insert';
begin
  perform set_config('nubila.actor', coalesce(d->>'actor', ''), true),
          set_config('nubila.request', coalesce(d->>'request', ''), true),
          set_config('nubila.requests', coalesce(d->>'requests', ''), true),
          set_config('nubila.reason', coalesce(d->>'reason', ''), true);
  -- facts
{facts}
{unused}
  if bad <> '[]' then
    raise exception using errcode = '{STALE}', message = 'stale', detail = bad::text;
  end if;
  -- rows; their time is taken when what they rest on is locked, so that of one object later rows have later times
  perform set_config('nubila.at', clock_timestamp()::text, true);
{writes}
{_CLAIMS}
  return out || jsonb_build_object('now', now());
end $commit$;
"""


def functions() -> str:
    """What follows from the tables, in words that hold on an empty database as well as on an older one."""
    return "\n\n".join([FUNCTIONS, *triggers(), commit_function(), *past_views.views()]) + "\n"


def everything() -> str:
    return "\n\n".join([*create_tables(), CHANGE, functions()])


if __name__ == "__main__":
    print(functions(), end="")
