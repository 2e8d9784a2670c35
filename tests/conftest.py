"""Fixtures of all tests: a PostgreSQL per test process, a fresh database per test, and a world with one node in it."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from nubila.store.database import Database
from nubila.store.migrate import migrate
from tests import counts, postgres
from tests.world import World

_NUMBER = itertools.count()
LONG = "long"  # the mark that 'make long' asks for


def pytest_configure(config: pytest.Config) -> None:
    """Tests that are ended from outside, as by their time limit, still take away what they made."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if file := os.environ.get("NUBILA_COUNTS"):
        config.pluginmanager.register(counts.Plugin(Path(file)), "counts")
    if config.getoption("markexpr") == LONG:
        config.pluginmanager.register(AtOnce(config), "at-once")


class AtOnce:
    """What failed in a run of half an hour is told at once: whoever breaks the run off has seen it."""

    def __init__(self, config: pytest.Config):
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and reporter is not None:
            reporter.write_line(f"\n{report.nodeid} ({report.when}, {report.duration:.0f} s)\n{report.longreprtext}")


@pytest.fixture(autouse=True)
def _umask_comes_back() -> Iterator[None]:
    """Some processes of the product make theirs stricter; within a test that would stay for all that follow."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture(scope="session")
def postgres_socket() -> Iterator[str]:
    with postgres.running() as socket:
        asyncio.run(_template(socket))
        yield socket


async def _template(socket: str) -> None:
    admin = await asyncpg.connect(host=socket, user="nubila", database="postgres")
    await admin.execute("create database nubila_template")
    await migrate(socket, "test-region", database="nubila_template")
    await admin.close()


@pytest.fixture
async def database_name(postgres_socket: str) -> AsyncIterator[str]:
    """A database of its own, on the newest schema."""
    name = f"t{next(_NUMBER)}"
    admin = await asyncpg.connect(host=postgres_socket, user="nubila", database="postgres")
    await admin.execute(f"create database {name} template nubila_template strategy wal_log")
    yield name
    await admin.execute(f"drop database {name} with (force)")
    await admin.close()


@pytest.fixture
async def database(postgres_socket: str, database_name: str) -> AsyncIterator[Database]:
    opened = await Database.open(host=postgres_socket, database=database_name, size=4)
    yield opened
    await opened.close()


@pytest.fixture
async def world(postgres_socket: str, database_name: str, database: Database) -> AsyncIterator[World]:
    made = World(postgres_socket, database_name, database)
    await made.fill()
    yield made
    await made.close()
