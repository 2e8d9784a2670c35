"""An installation of the version before becomes one of this version: its rows stay, its schema is what the tables say."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from tests.world import World

from nubila.store import ddl
from nubila.store.migrate import migrate

_NUMBER = itertools.count()

SHAPE = {
    "columns": """select table_name, column_name, data_type, is_nullable, column_default from information_schema.columns
        where table_schema = 'public' and table_name <> 'alembic_version' order by 1, 2""",
    "constraints": """select conrelid::regclass::text, conname, pg_get_constraintdef(oid) from pg_constraint
        where connamespace = 'public'::regnamespace and conrelid::regclass::text <> 'alembic_version' order by 1, 2""",
    "indexes": """select tablename, indexname, indexdef from pg_indexes
        where schemaname = 'public' and tablename <> 'alembic_version' order by 1, 2""",
    "triggers": """select tgrelid::regclass::text, tgname, pg_get_triggerdef(oid) from pg_trigger where not tgisinternal order by 1, 2""",
    "functions": """select proname, md5(prosrc) from pg_proc where pronamespace = 'public'::regnamespace order by 1""",
    "storage": """select relname, reloptions from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'
        and relname <> 'alembic_version' order by 1""",
}
# kept for processes of the version before, until the next migration
KEPT = {"commit_4"}


@pytest.fixture
async def empty(postgres_socket: str) -> AsyncIterator[str]:
    name = f"m{next(_NUMBER)}"
    admin = await asyncpg.connect(host=postgres_socket, user="nubila", database="postgres")
    await admin.execute(f"create database {name}")
    yield name
    await admin.execute(f"drop database {name} with (force)")
    await admin.close()


async def shape(socket: str, name: str) -> dict[str, list[tuple[Any, ...]]]:
    c = await asyncpg.connect(host=socket, user="nubila", database=name)
    try:
        return {
            part: [tuple(r) for r in await c.fetch(sql) if not (part == "functions" and r[0] in KEPT)]
            for part, sql in SHAPE.items()
        }
    finally:
        await c.close()


async def test_all_migrations_lead_to_what_the_tables_say(postgres_socket: str, database_name: str, empty: str) -> None:
    c = await asyncpg.connect(host=postgres_socket, user="nubila", database=empty)
    await c.execute(ddl.everything())
    await c.close()
    said, migrated = await shape(postgres_socket, empty), await shape(postgres_socket, database_name)
    for part, rows in said.items():
        assert migrated[part] == rows, part
        assert rows


@pytest.mark.parametrize("version", ["0001", "0002", "0003", "0004", "0005", "0006"])
async def test_a_filled_database_of_a_version_before_keeps_every_row(
    postgres_socket: str, world: World, database_name: str, empty: str, version: str
) -> None:
    """The rows of a world of today, as far as the older schema has room for them, go through the upgrade unchanged."""
    await world.create_vm("one")
    await migrate(postgres_socket, "test-region", database=empty, to=version)
    new = await asyncpg.connect(host=postgres_socket, user="nubila", database=database_name)
    old = await asyncpg.connect(host=postgres_socket, user="nubila", database=empty)
    try:
        filled = await _carry_over(new, old)
        assert {"vm", "volume", "port", "address", "attachment", "operation", "change", "quota"} <= set(filled)
        await migrate(postgres_socket, "test-region", database=empty)
        for table, rows in filled.items():
            kept = [{c: r[c] for c in rows[0]} for r in await old.fetch(f'select * from "{table}"')]
            assert sorted(map(repr, kept)) == sorted(map(repr, rows)), table
    finally:
        await new.close()
        await old.close()


async def _carry_over(new: asyncpg.Connection, old: asyncpg.Connection) -> dict[str, list[dict[str, Any]]]:
    """Copy every row into the older schema, without its triggers; returns what then stands there."""
    filled: dict[str, list[dict[str, Any]]] = {}
    await old.execute("set session_replication_role = replica")
    names = [
        r[0]
        for r in await old.fetch(
            "select relname from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace"
        )
    ]
    for table in sorted(set(names) - {"alembic_version", "fabric"}):
        columns = [
            r[0]
            for r in await old.fetch(
                "select column_name from information_schema.columns where table_schema = 'public' and table_name = $1 and is_generated = 'NEVER'",
                table,
            )
        ]
        quoted = ", ".join(f'"{c}"' for c in columns)
        for row in await new.fetch(f'select {quoted} from "{table}"'):
            marks = ", ".join(f"${i + 1}" for i in range(len(columns)))
            await old.execute(
                f'insert into "{table}" ({quoted}) overriding system value values ({marks})', *row.values()
            )
        rows = [dict(r) for r in await old.fetch(f'select {quoted} from "{table}"')]
        if rows:
            filled[table] = rows
    await old.execute("set session_replication_role = origin")
    return filled
