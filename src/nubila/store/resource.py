"""Reading any resource: one by id or name, or a page of a list with filters. Composed with SQLAlchemy Core, run on asyncpg.

Spec, status and labels stay text: a list is passed through, not decoded and encoded again.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import asyncpg as dialect

from nubila import errors
from nubila.model import network
from nubila.store import shape, tables
from nubila.store.database import Database, Record

_DIALECT = dialect.dialect()  # type: ignore[no-untyped-call]

T = shape.metadata.tables
RESOURCE = (
    "id",
    "project_id",
    "name",
    "labels",
    "spec",
    "generation",
    "status",
    "observed_generation",
    "state",
    "version",
    "created_at",
    "updated_at",
)


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """What a list may be narrowed by. Empty fields do not narrow."""

    project_id: UUID | None = None
    name: str | None = None
    state: str | None = None
    labels: Mapping[str, str] = {}
    equals: Mapping[str, Any] = {}  # further columns
    limit: int = 100
    after: UUID | None = None


class Compiled(msgspec.Struct, frozen=True):
    """A statement as asyncpg takes it: text with $n, the parameters' names in that order, and those that are constants.

    Composing and compiling cost more than running it, so callers keep the result by its shape.
    """

    sql: str
    names: tuple[str, ...]
    constants: dict[str, Any]

    def values(self, given: Mapping[str, Any]) -> list[Any]:
        return [self.constants[n] if n in self.constants else given[n] for n in self.names]


def compiled(statement: sa.Select[Any]) -> Compiled:
    c = statement.compile(dialect=_DIALECT)
    return Compiled(str(c), tuple(c.positiontup or ()), {k: v for k, v in c.params.items() if v is not None})


def _text(table: sa.Table, *extra: str) -> list[sa.ColumnElement[Any]]:
    out: list[sa.ColumnElement[Any]] = []
    for name in (*RESOURCE, *extra):
        if name in table.c:
            column = table.c[name]
            out.append(
                sa.cast(column, sa.Text).label(name)
                if isinstance(column.type, postgresql.JSONB | postgresql.CIDR | postgresql.INET | postgresql.MACADDR)
                else column
            )
    return out


# kind -> columns shown beyond the common ones
EXTRA: dict[str, tuple[str, ...]] = {
    "image": ("sha256",),
    "subnet": ("network_id", "cidr", "gateway"),
    "port": ("network_id", "vm_id", "node_id", "epoch", "mac", "group_ids"),
    "volume": ("node_id", "image_id"),
    "snapshot": ("volume_id", "node_id"),
    "operation": ("resource_kind", "resource_id", "node_id", "deadline_at", "ended_at"),
    "token": ("account_id", "plane"),
    "keypair": ("user_id",),
    "drift": ("node_id", "vm_id", "cause", "thing_kind"),
}


def states(kind: str) -> tuple[str, ...]:
    """The states that a kind's objects can be in, in the order of their life; () when they are not listed anywhere."""
    return tuple(s.value for s in tables.BY_NAME[kind].transitions or STATES.get(kind, ()))


# kind -> what a list is narrowed by beside its columns
WITHIN: dict[str, dict[str, str]] = {"node": {"zone": "node.spec->>'zone'", "rack": "coalesce(node.spec->>'rack', '')"}}
# kinds whose steps from state to state are guarded by nobody
STATES: dict[str, tuple[StrEnum, ...]] = {"port": tuple(network.PortState)}

_STANDS = "a.volume_id = volume.id and a.state in ('active', 'revoking')"
# kind -> what is looked up beside the row
DERIVED: dict[str, dict[str, str]] = {
    "drift": {
        "node_name": "(select n.name from node n where n.id = drift.node_id)",
        "vm_name": "(select v.name from vm v where v.id = drift.vm_id)",
    },
    "port": {
        "addresses": "(select string_agg(host(a.address), ' ' order by family(a.address), a.address) from address a where a.port_id = port.id)",
        "vm_name": "(select v.name from vm v where v.id = port.vm_id)",
        "group_names": "(select string_agg(g.name, ' ' order by g.name) from security_group g where g.id = any(port.group_ids))",
        "network_name": "(select n.name from network n where n.id = port.network_id)",
    },
    "volume": {
        "vm_id": f"(select a.vm_id from attachment a where {_STANDS})",
        "vm_name": f"(select v.name from attachment a join vm v on v.id = a.vm_id where {_STANDS})",
        "detaching": f"coalesce((select a.state = 'revoking' from attachment a where {_STANDS}), false)",
        "epoch": "(select max(a.epoch) from attachment a where a.volume_id = volume.id)",
    },
    "snapshot": {"volume_name": "(select d.name from volume d where d.id = snapshot.volume_id)"},
    "token": {
        # what was removed has no name any more: of then, too, after the log's end was cut
        "account_name": """coalesce((select u.name from "user" u where u.id = token.account_id and u.removed_at is null),
                                    (select o.name from operator o where o.id = token.account_id and o.removed_at is null))""",
        "project_name": "(select p.name from project p where p.id = token.project_id and p.removed_at is null)",
    },
    "network": {
        "subnets": """(select jsonb_agg(jsonb_build_object('cidr', s.cidr, 'gateway', host(s.gateway), 'dns', s.spec->'dns') order by s.cidr)
                        from subnet s where s.network_id = network.id and s.removed_at is null)::text""",
    },
}


def _vm_columns() -> tuple[sa.FromClause, list[sa.ColumnElement[Any]]]:
    vm, node, seen, flavor, image = T["vm"], T["node"], T["node_seen"], T["flavor"], T["image"]
    port, address = T["port"], T["address"]
    addresses = (
        sa.select(
            sa.func.string_agg(
                sa.func.host(address.c.address),
                postgresql.aggregate_order_by(
                    sa.literal(" "), port.c.id, sa.func.family(address.c.address), address.c.address
                ),
            )
        )
        .select_from(port.join(address, address.c.port_id == port.c.id))
        .where(port.c.vm_id == vm.c.id)
        .scalar_subquery()
    )
    source = (
        vm.outerjoin(node, node.c.id == vm.c.node_id)
        .outerjoin(seen, seen.c.node_id == vm.c.node_id)
        .outerjoin(flavor, flavor.c.id == vm.c.flavor_id)
        .outerjoin(image, image.c.id == vm.c.image_id)
    )
    silent = sa.cast(sa.extract("epoch", sa.func.now() - seen.c.seen_at), sa.Float)
    return source, [
        *_text(vm, "epoch", "node_id"),
        node.c.name.label("node_name"),
        flavor.c.name.label("flavor_name"),
        image.c.name.label("image_name"),
        image.c.spec["login"].astext.label("login"),
        silent.label("silent_s"),
        addresses.label("addresses"),
    ]


def _source(kind: str) -> tuple[sa.FromClause, list[sa.ColumnElement[Any]]]:
    if kind == "vm":
        return _vm_columns()
    if kind == "node":
        node, seen = T["node"], T["node_seen"]
        silent = sa.cast(sa.extract("epoch", sa.func.now() - seen.c.seen_at), sa.Float).label("silent_s")
        inventory = sa.text(
            "(select jsonb_object_agg(i.class, jsonb_build_object('total', i.total, 'reserved', i.reserved, 'used', i.used)) from inventory i where i.node_id = node.id)::text as inventory"
        )
        # what it has promised room to; the past does not keep that
        holds = """case when coalesce(current_setting('nubila.as_of', true), '') = '' then (select jsonb_build_object(
            'vms', count(*) filter (where a.class = 'cores'), 'volumes', count(*) filter (where a.class = 'disk_gib'))
            from allocation a where a.node_id = node.id)::text end"""
        return node.outerjoin(seen, seen.c.node_id == node.c.id), [
            *_text(node),
            silent,
            sa.literal_column(holds).label("holds"),
            sa.literal_column(str(inventory).removesuffix(" as inventory")).label("inventory"),
        ]
    more: list[sa.ColumnElement[Any]] = [
        sa.literal_column(sql).label(name) for name, sql in DERIVED.get(kind, {}).items()
    ]
    return T[kind], [*_text(T[kind], *EXTRA.get(kind, ())), *more]


def _offered(image: sa.Table, by_id: bool) -> sa.ColumnElement[bool]:
    """Images of others that a project may use. A name finds only what operators offer: with another project's shares,
    anybody could put an image of their own in the place of a name that somebody types."""
    share = T["share"]
    shared = sa.exists().where(
        share.c.kind == "image",
        share.c.object_id == image.c.id,
        share.c.project_id == sa.bindparam("project_id", type_=shape.UUID),
    )
    operators = image.c.project_id.is_(None)
    public = sa.and_(operators, sa.cast(image.c.spec["public"].astext, sa.Boolean))
    return sa.or_(public, shared if by_id else sa.and_(operators, shared))


def _visible(kind: str, table: sa.Table, by_id: bool) -> sa.ColumnElement[bool]:
    project_id = sa.bindparam("project_id", type_=shape.UUID)
    if kind == "flavor":
        return sa.true()
    if kind == "image":
        return sa.or_(table.c.project_id == project_id, sa.and_(_offered(table, by_id), table.c.state == "ready"))
    return table.c.project_id == project_id


def _scoped(
    kind: str,
    statement: sa.Select[Any],
    scoped: bool,
    *,
    removed: bool = False,
    by_id: bool = False,
    listing: bool = False,
) -> sa.Select[Any]:
    """`by_id`: the primary key is the way; hidden behind `is true`, no partial index looks as good to the planner."""
    table = T[kind]
    if kind != "operation" and not removed:
        there = table.c.removed_at.is_(None)
        statement = statement.where(there.is_(sa.true()) if by_id else there)
    return statement.where(_visible(kind, table, by_id or listing)) if scoped else statement


@cache
def listing(kind: str, scoped: bool, equal: tuple[str, ...], labels: bool, after: bool) -> Compiled:
    """The statement of a list with these filters."""
    table = T[kind]
    source, columns = _source(kind)
    statement = _scoped(kind, sa.select(*columns).select_from(source), scoped, listing="name" not in equal)
    for name in equal:
        if (within := WITHIN.get(kind, {}).get(name)) is not None:
            statement = statement.where(sa.literal_column(within, sa.Text) == sa.bindparam(name, type_=sa.Text))
        else:
            statement = statement.where(table.c[name] == sa.bindparam(name, type_=table.c[name].type))
    if labels:
        statement = statement.where(
            table.c.labels.op("@>")(sa.cast(sa.bindparam("labels", type_=sa.Text), postgresql.JSONB))
        )
    if after:
        statement = statement.where(table.c.id > sa.bindparam("after", type_=shape.UUID))
    return compiled(statement.order_by(table.c.id).limit(sa.bindparam("limit", type_=sa.BigInteger)))


@cache
def _one(kind: str, scoped: bool, by: str, removed: bool) -> Compiled:
    source, columns = _source(kind)
    statement = _scoped(kind, sa.select(*columns).select_from(source), scoped, removed=removed, by_id=by == "id")
    column = T[kind].c[by]
    return compiled(
        statement.where(column == sa.bindparam(by, type_=column.type))
        .order_by(T[kind].c.id.desc())
        .limit(sa.literal_column("1"))
    )


@cache
def _whole(kind: str, scoped: bool, by: str, equal: tuple[str, ...]) -> Compiled:
    statement = sa.select(sa.cast(sa.func.to_jsonb(sa.text(f'"{kind}"')), sa.Text).label("row")).select_from(T[kind])
    for name in (by, *equal):
        statement = statement.where(T[kind].c[name] == sa.bindparam(name, type_=T[kind].c[name].type))
    return compiled(_scoped(kind, statement, scoped, by_id=by == "id").limit(sa.literal_column("2")))


def _by(object_id: UUID | None, name: str | None) -> tuple[str, UUID | str | None]:
    return ("id", object_id) if object_id is not None else ("name", name)


class ResourceStore:
    def __init__(self, database: Database):
        self._db = database

    async def list(self, kind: str, f: Filter) -> list[Record]:
        """One row more than `limit` when there is a next page, in the order of ids (that is, of creation)."""
        equal = {**{n: v for n in ("name", "state") if (v := getattr(f, n)) is not None}, **f.equals}
        query = listing(kind, f.project_id is not None, tuple(sorted(equal)), bool(f.labels), f.after is not None)
        values = {
            **equal,
            "project_id": f.project_id,
            "labels": msgspec.json.encode(f.labels).decode(),
            "after": f.after,
            "limit": f.limit + 1,
        }
        return await self._db.fetch(query.sql, *query.values(values))

    async def one(
        self,
        kind: str,
        *,
        project_id: UUID | None = None,
        object_id: UUID | None = None,
        name: str | None = None,
        removed: bool = False,
    ) -> Record | None:
        """By id, or by name within what the project sees; None when there is none."""
        by, value = _by(object_id, name)
        query = _one(kind, project_id is not None, by, removed)
        return await self._db.row(query.sql, *query.values({"project_id": project_id, by: value}))

    async def whole(
        self,
        kind: str,
        *,
        project_id: UUID | None = None,
        object_id: UUID | None = None,
        name: str | None = None,
        **equals: Any,
    ) -> dict[str, Any] | None:
        """The row as intents take it, decoded, with every column. Raises Conflict for a name that several have."""
        by, value = _by(object_id, name)
        query = _whole(kind, project_id is not None, by, tuple(sorted(equals)))
        rows = await self._db.fetch(query.sql, *query.values({**equals, "project_id": project_id, by: value}))
        if len(rows) > 1:
            raise errors.Conflict(f"Several have the name '{(name or '')[:80]}'.", fix="Say which by its id.")
        return msgspec.json.decode(rows[0]["row"]) if rows else None


class AccountStore:
    """Reads behind authentication, membership and the small nouns' intents."""

    TOKEN = """
    select t.id, t.plane, t.spec->>'role' as role, t.account_id, t.project_id, t.removed_at is not null as revoked, c.sha256,
           (t.spec->>'expires_at')::timestamptz as expires_at,
           coalesce((select (u.spec->>'suspended')::boolean or u.removed_at is not null from "user" u where u.id = t.account_id and t.plane = 'user'),
                    (select (o.spec->>'suspended')::boolean or o.removed_at is not null from operator o where o.id = t.account_id and t.plane = 'operator'), true) as suspended,
           (select m.role from member m join project p on p.id = m.project_id and p.removed_at is null
             where m.project_id = t.project_id and m.user_id = t.account_id) as member_role
      from token t left join credential c on c.id = t.id where t.id = $1
    """
    MEMBERS = """select m.role, u.id, u.name from member m join "user" u on u.id = m.user_id and u.removed_at is null where m.project_id = $1 order by u.name"""
    ROLE = "select role from member where project_id = $1 and user_id = $2"
    JOIN = "select to_jsonb(j)::text as token, c.sha256, j.expires_at < now() as expired, j.used_at is not null as used, now() as now from join_token j left join credential c on c.id = j.id where j.id = $1 and not j.spec ? 'removed_at'"
    NODE_ROWS = """select now() as now, to_jsonb(n)::text as node,
        (select jsonb_agg(to_jsonb(m)) from virt_method m where m.node_id = n.id)::text as methods,
        (select jsonb_agg(to_jsonb(i)) from inventory i where i.node_id = n.id)::text as inventory,
        s.session, s.revision as heard, extract(epoch from now() - s.seen_at)::float8 as silent_s
        from node n left join node_seen s on s.node_id = n.id where n.id = $1"""
    NETWORK = """select to_jsonb(n)::text as network,
        (select jsonb_agg(to_jsonb(s)) from subnet s where s.network_id = n.id and s.removed_at is null)::text as subnets,
        (select jsonb_agg(to_jsonb(a)) from address a where a.network_id = n.id and a.origin = 'gateway')::text as gateways,
        (select count(*) from port p where p.network_id = n.id and p.removed_at is null) as ports
        from network n where n.project_id = $1 and n.removed_at is null and (n.id = $2 or n.name = $3)"""
    SECRET = "select nonce, sealed from secret where id = $1"

    def __init__(self, database: Database):
        self._db = database

    async def token(self, token_id: UUID) -> Record | None:
        return await self._db.row(self.TOKEN, token_id)

    async def members(self, project_id: UUID) -> list[Record]:
        return await self._db.fetch(self.MEMBERS, project_id)

    async def role(self, project_id: UUID, user_id: UUID) -> str | None:
        role: str | None = await self._db.value(self.ROLE, project_id, user_id)
        return role

    async def join_token(self, token_id: UUID) -> Record | None:
        return await self._db.row(self.JOIN, token_id)

    async def node_rows(self, node_id: UUID) -> Record | None:
        return await self._db.row(self.NODE_ROWS, node_id)

    async def network(self, project_id: UUID, network_id: UUID | None, name: str) -> Record | None:
        return await self._db.row(self.NETWORK, project_id, network_id, name)

    async def secret(self, secret_id: UUID) -> Record | None:
        return await self._db.row(self.SECRET, secret_id)

    async def now(self) -> Any:
        return await self._db.value("select now()")

    async def count_operators(self) -> int:
        return int(await self._db.value("select count(*) from operator where removed_at is null"))
