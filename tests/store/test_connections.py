"""Statements go over open connections; those that break are replaced, and nobody waits for one longer than the limit."""

from __future__ import annotations

import asyncio

import pytest
from tests.world import World

from nubila import errors
from nubila.store import connections, database
from nubila.store.database import Database

PID = "select pg_backend_pid()"
WAITING = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"


@pytest.fixture
async def two(postgres_socket: str, database_name: str):
    opened = await Database.open(host=postgres_socket, database=database_name, size=2)
    yield opened
    await opened.close()


async def test_the_one_used_last_is_used_next(two: Database) -> None:
    assert len({await two.value(PID) for _ in range(20)}) == 1


async def test_no_more_than_its_size_at_once_and_all_get_their_turn(two: Database) -> None:
    pids = await asyncio.gather(*(two.value("select pg_backend_pid() from pg_sleep(0.01)") for _ in range(20)))
    assert len(set(pids)) == 2


async def test_who_waits_too_long_is_told_so_and_takes_none_away(
    two: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "WAIT_S", 0.05)
    async with two.connection(), two.connection():
        with pytest.raises(errors.Busy):
            await two.value(PID)
    assert (
        len(set(await asyncio.gather(*(two.value("select pg_backend_pid() from pg_sleep(0.01)") for _ in range(8)))))
        == 2
    )


async def test_a_waiter_that_gives_up_loses_no_connection(two: Database) -> None:
    async with two.connection():
        async with two.connection():
            waiting = [asyncio.ensure_future(two.value(PID)) for _ in range(3)]
            await asyncio.sleep(0)
        # one connection was handed to the first of them, who is gone before it sees it
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert await asyncio.wait_for(two.value(PID), 5)


async def test_a_broken_connection_is_replaced(two: Database) -> None:
    async with two.connection() as a, two.connection() as b:
        pids = [await c.fetchval(PID) for c in (a, b)]
        assert await a.fetchval("select pg_terminate_backend($1)", pids[1])
    now = set()
    for _ in range(5):
        try:
            now |= set(await asyncio.gather(two.value(PID), two.value(PID)))
        except errors.DatabaseAway:  # the one that notices
            continue
    assert pids[0] in now
    assert pids[1] not in now


async def test_a_transaction_that_was_left_open_ends(two: Database) -> None:
    async with two.connection() as c:
        pid = await c.fetchval(PID)
        await c.execute("begin")
        await c.execute("create table left_over (n int)")
    assert pid not in {await two.value(PID) for _ in range(5)}
    assert await two.value("select to_regclass('left_over')") is None


async def test_a_connection_is_replaced_after_many_uses(two: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await two.value(PID)
    monkeypatch.setattr(connections, "USES_MAX", 3)
    for _ in range(4):
        await two.value(PID)
    assert await two.value(PID) != first


async def test_after_closing_none_is_left(two: Database, postgres_socket: str, database_name: str) -> None:
    pids = await asyncio.gather(*(two.value("select pg_backend_pid() from pg_sleep(0.01)") for _ in range(2)))
    held = two.connection()
    async with held:
        closing = asyncio.ensure_future(two.close())
        await asyncio.sleep(0.05)
        assert not closing.done()  # one is in use
    await closing
    other = await Database.open(host=postgres_socket, database=database_name, size=1)
    left = await other.value("select count(*) from pg_stat_activity where pid = any($1)", list(pids))
    await other.close()
    assert left == 0


async def test_reads_are_answered_while_commits_wait_for_a_row(world: World) -> None:
    """Whoever holds a project's quota holds up its commits, each with a connection; some of them stay for all else."""
    mine = world.database.connections.size
    other = await Database.open(host=world.socket, database=world.name, size=1)
    try:
        async with other.connection() as holder, holder.transaction():
            await holder.execute("select from quota for update")
            creates = [asyncio.ensure_future(world.create_vm(f"v{i}", actor=f"user:{i}")) for i in range(3 * mine)]
            async with asyncio.timeout(5):
                while await world.database.value(WAITING) < world.database.commits_at_once:
                    await asyncio.sleep(0.01)
                for _ in range(20):
                    assert await world.database.value(WAITING) == world.database.commits_at_once
        async with asyncio.timeout(20):
            await asyncio.gather(*creates)
    finally:
        await other.close()


async def test_who_gets_no_turn_to_commit_is_told_so_and_takes_none_away(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = await Database.open(host=world.socket, database=world.name, size=1)
    try:
        async with other.connection() as holder, holder.transaction():
            await holder.execute("select from quota for update")
            first = [
                asyncio.ensure_future(world.create_vm(f"v{i}", actor=f"user:{i}"))
                for i in range(world.database.commits_at_once)
            ]
            async with asyncio.timeout(5):
                while await world.database.value(WAITING) < len(first):
                    await asyncio.sleep(0.01)
            monkeypatch.setattr(database, "WAIT_S", 0.05)
            with pytest.raises(errors.Busy):
                await world.create_vm("late")
            monkeypatch.undo()
            given_up = asyncio.ensure_future(world.create_vm("gone"))
            await asyncio.sleep(0.05)
            given_up.cancel()
        await asyncio.gather(*first)
        await asyncio.gather(*(world.create_vm(f"w{i}") for i in range(2 * len(first))))
    finally:
        await other.close()
