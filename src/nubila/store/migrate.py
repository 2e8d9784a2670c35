"""Brings the database's schema to this program's version. Run once before the control plane, by one process at a time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import sqlalchemy as sa
from alembic import command, op
from alembic.config import Config
from sqlalchemy.ext.asyncio import create_async_engine

from nubila import errors

_HERE = Path(__file__).parent / "migrations"
_LOCK = 0x4E7562


def run_file(name: str) -> None:
    """Run a frozen SQL file, as it is, on the migration's connection."""
    text = (_HERE / "versions" / name).read_text()
    bind = op.get_bind()
    bind.exec_driver_sql("select 1")
    # asyncpg prepares what goes through SQLAlchemy, and a prepared statement cannot be a script.
    bind.connection.run_async(lambda c: c.execute(text))


async def migrate(host: str, region: str, *, database: str = "nubila", user: str = "nubila", to: str = "head") -> str:
    """Upgrade; returns the version. `region` names the installation if the database has no name yet."""
    engine = create_async_engine(
        sa.URL.create("postgresql+asyncpg", username=user, database=database, query={"host": host})
    )
    try:
        async with engine.begin() as connection:
            await connection.exec_driver_sql(f"select pg_advisory_xact_lock({_LOCK})")
            await connection.run_sync(_upgrade, to)
            await connection.execute(
                sa.text("insert into fabric (region) values (:region) on conflict do nothing"), {"region": region}
            )
            version = await connection.scalar(sa.text("select version_num from alembic_version"))
    finally:
        await engine.dispose()
    return str(version)


def _upgrade(connection: sa.Connection, to: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(_HERE))
    config.attributes["connection"] = connection
    command.upgrade(config, to)


def run(host: str, region: str) -> str:
    try:
        return asyncio.run(migrate(host, region))
    except OSError as e:
        raise errors.DatabaseAway(inside=str(e)) from e
