"""The change log: one row per change with its actor, nothing secret in it, and a cursor that loses nothing."""

from __future__ import annotations

import asyncio
import itertools

import asyncpg
import msgspec
import pytest
from tests.world import World

from nubila.store.change import ChangeStore, Cursor

BY_SEQUENCE = "select seq, content->>'id' as id from change where seq > $1 order by seq limit 100000"
START = Cursor(1, 0, 0)


async def _connect(world: World) -> asyncpg.Connection:
    return await asyncpg.connect(host=world.socket, user="nubila", database=world.name)


INSERT = (
    "insert into operator (id, name, spec, state) values (gen_random_uuid(), $1, '{}', 'active') returning id::text"
)


async def test_an_older_transaction_with_a_later_sequence_is_not_lost(world: World) -> None:
    """The older transaction writes last and commits last; the cursor waits for it, a reader by sequence would not."""
    older, newer = await _connect(world), await _connect(world)
    store = ChangeStore(world.database)
    cursor = await store.end(1)
    a, b = older.transaction(), newer.transaction()
    await a.start()
    await older.execute("select pg_current_xact_id()")  # the older one has its xid now, and its row later
    await b.start()
    await newer.fetchval(INSERT, "newer-1")
    await b.commit()
    between = await store.read(cursor)
    assert [r for r in between if r["kind"] == "operator"] == []  # it waits for the older transaction
    late = await older.fetchval(INSERT, "older")
    await a.commit()
    seen = [str(r["object_id"]) for r in await store.read(cursor) if r["kind"] == "operator"]
    assert seen[0] == late
    assert len(seen) == 2
    await older.close()
    await newer.close()


async def test_a_reader_by_sequence_alone_is_a_mutant_that_loses_rows(world: World) -> None:
    """The twin: with the sequence taken early and the commit late, the mutant loses the row, the cursor does not."""
    older, newer = await _connect(world), await _connect(world)
    store = ChangeStore(world.database)
    cursor, passed = await store.end(1), await world.database.value("select coalesce(max(seq), 0) from change")
    a = older.transaction()
    await a.start()
    early = await older.fetchval(INSERT, "early")
    await newer.fetchval(INSERT, "late")
    by_sequence = await world.database.fetch(BY_SEQUENCE, passed)
    passed = max(r["seq"] for r in by_sequence)
    await a.commit()
    by_sequence += await world.database.fetch(BY_SEQUENCE, passed)
    assert early not in [r["id"] for r in by_sequence]  # lost for good
    assert early in [str(r["object_id"]) for r in await store.read(cursor)]
    await older.close()
    await newer.close()


async def test_a_following_reader_sees_every_concurrent_commit_once(world: World) -> None:
    writers, each = 6, 25
    store = ChangeStore(world.database)
    cursor = await store.end(1)
    written: list[str] = []
    stop = asyncio.Event()

    async def write(n: int) -> None:
        c = await _connect(world)
        for i in range(each):
            async with c.transaction():
                if (n + i) % 3 == 0:
                    await c.execute("select pg_current_xact_id()")
                    await asyncio.sleep(0.003)
                written.append(await c.fetchval(INSERT, f"w{n}-{i}"))
                if (n + i) % 4 == 0:
                    await asyncio.sleep(0.004)
        await c.close()

    async def follow() -> list[str]:
        seen: list[str] = []
        at = cursor
        for _ in itertools.count():
            ended = stop.is_set()
            rows = await store.read(at, limit=7)
            for r in rows:
                assert Cursor(1, r["xid"], r["seq"]) > at
                at = Cursor(1, r["xid"], r["seq"])
                seen.append(str(r["object_id"]))
            if ended and not rows:
                return seen
            await asyncio.sleep(0.001)
        raise AssertionError

    reader = asyncio.create_task(follow())
    await asyncio.gather(*(write(n) for n in range(writers)))
    stop.set()
    seen = await asyncio.wait_for(reader, 30)
    assert sorted(seen) == sorted(written)
    assert len(seen) == writers * each


async def test_rows_name_actor_request_and_reason_and_a_change_by_hand_has_none(world: World) -> None:
    await world.create_vm("a")
    rows = await world.database.fetch("select kind, actor, request from change where kind = 'vm'")
    assert [(r["kind"], r["actor"], r["request"]) for r in rows] == [("vm", "user:test", "req-test")]
    await world.database.execute('update vm set labels = \'{"by": "hand"}\'')
    last = await world.database.row("select actor from change where kind = 'vm' order by seq desc limit 1")
    assert last is not None
    assert last["actor"] is None


async def test_use_of_quota_and_capacity_is_not_logged_and_limits_are(world: World) -> None:
    before = await world.database.value("select count(*) from change where kind in ('quota', 'inventory')")
    await world.create_vm("a")
    assert await world.database.value("select count(*) from change where kind in ('quota', 'inventory')") == before
    await world.database.execute("update quota set amount = amount + 1 where class = 'vms'")
    content = await world.database.value(
        "select content::text from change where kind = 'quota' order by seq desc limit 1"
    )
    assert "used" not in msgspec.json.decode(content)


@pytest.mark.parametrize("table", ["secret", "credential", "idempotency", "plan", "wanted", "node_seen"])
async def test_tables_with_secrets_or_without_history_have_no_trigger(world: World, table: str) -> None:
    logged = await world.database.value(
        "select count(*) from pg_trigger t join pg_class c on c.oid = t.tgrelid where c.relname = $1 and tgname like 'log_%'",
        table,
    )
    assert logged == 0
    assert (
        await world.database.value(
            "select count(*) from pg_trigger t join pg_class c on c.oid = t.tgrelid where c.relname = 'vm' and tgname like 'log_%'"
        )
        == 2
    )
