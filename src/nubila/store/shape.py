"""What tables are made of: their naming, their common shape, and what the generator needs to know of each."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

metadata = sa.MetaData(
    naming_convention={
        "pk": "%(table_name)s_pk",
        "fk": "%(table_name)s_%(column_0_name)s_fk",
        "ck": "%(table_name)s_%(constraint_name)s",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    }
)

UUID = pg.UUID(as_uuid=True)
NOW = sa.text("now()")


class Table(msgspec.Struct, frozen=True):
    """A table with what the generator needs to know of it."""

    table: sa.Table
    logged: bool = False  # rows go to the change log
    unlogged_columns: tuple[str, ...] = ()  # a change of these alone is not logged, nor are they in the logged row
    transitions: dict[Any, frozenset[Any]] | None = None
    references: tuple[tuple[str, str], ...] = ()  # (table, column) of users that forbid removal

    @property
    def name(self) -> str:
        return self.table.name

    @property
    def key(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.table.primary_key.columns)


def states(kind: type[StrEnum], *, tombstone: str | None = "removed") -> list[sa.Constraint]:
    values = ", ".join(f"'{s.value}'" for s in kind)
    checks: list[sa.Constraint] = [sa.CheckConstraint(f"state in ({values})", name="state_known")]
    if tombstone is not None:
        checks.append(
            sa.CheckConstraint(f"(state = '{tombstone}') = (removed_at is not null)", name="removed_has_time")
        )
    return checks


def resource(name: str, *extra: Any, project: bool = True) -> sa.Table:
    """A table in the common shape: wish, report, state; see architecture rule 4."""
    return sa.Table(
        name,
        metadata,
        sa.Column("id", UUID, primary_key=True),
        *([sa.Column("project_id", UUID, nullable=False)] if project else []),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("labels", pg.JSONB, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("spec", pg.JSONB, nullable=False),
        sa.Column("spec_schema", sa.SmallInteger, nullable=False, server_default="1"),
        sa.Column("generation", sa.BigInteger, nullable=False, server_default="1"),
        sa.Column("status", pg.JSONB),
        sa.Column("status_schema", sa.SmallInteger, nullable=False, server_default="1"),
        sa.Column("observed_generation", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False, server_default="1"),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=NOW),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=NOW),
        sa.Column("removed_at", sa.TIMESTAMP(timezone=True)),
        sa.CheckConstraint("observed_generation <= generation", name="observed_not_ahead"),
        *extra,
    )


def unique_name(table: str, *scope: str) -> sa.Index:
    return sa.Index(f"{table}_name_key", *scope, "name", unique=True, postgresql_where=sa.text("removed_at is null"))


def living(name: str, column: str, using: str = "btree") -> sa.Index:
    """Finds the living rows by this column, and serves no other query: every index of the living ones holds what a query
    for living ones wants, and while a table is empty the planner takes any of them."""
    where = sa.text(f"removed_at is null and {column} is not null")
    return sa.Index(name, column, postgresql_using=using, postgresql_where=where)


class Lasting(StrEnum):
    """State of what has no life on a host."""

    ACTIVE = "active"
    REMOVED = "removed"


LASTING = {Lasting.ACTIVE: frozenset({Lasting.REMOVED}), Lasting.REMOVED: frozenset[Lasting]()}
