"""Creates that wait while others are written go into one commit: fewer commits, and to everybody as if each had been alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.world import World

from nubila import errors
from nubila.model.draft import Draft
from nubila.store import together
from nubila.store.database import Database

WAITING = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like '%commit_%'"
COMMITS = "select count(distinct xid) from change where kind = 'vm' and action = 'insert'"
MANY = 12


@pytest.fixture
async def world(postgres_socket: str, database_name: str, database: Database) -> AsyncIterator[World]:
    """With so many addresses that two creates hardly choose one and the same."""
    made = World(postgres_socket, database_name, database)
    await made.fill(cidr="10.9.0.0/16")
    yield made
    await made.close()


@asynccontextmanager
async def quota_held(world: World) -> AsyncIterator[None]:
    """Nobody's commit ends before this does."""
    other = await Database.open(host=world.socket, database=world.name, size=1)
    try:
        async with other.connection() as holder, holder.transaction():
            await holder.execute("select from quota for update")
            yield
    finally:
        await other.close()


async def under_way(world: World) -> list[asyncio.Future[object]]:
    """As many commits as there may be at once, each held up by the quota."""
    first: list[asyncio.Future[object]] = []
    async with asyncio.timeout(10):
        for i in range(together.AT_ONCE):
            first.append(asyncio.ensure_future(world.create_vm(f"first{i}")))
            while await world.database.value(WAITING) < len(first):
                await asyncio.sleep(0.01)
    return first


async def lined_up(world: World, count: int) -> None:
    """Every draft that is made is in the line, so that the next commit takes them all."""
    async with asyncio.timeout(10):
        while sum(len(line._waiting) for line in world.database._together._lines.values()) < count:
            await asyncio.sleep(0.01)


async def held_then_gathered(world: World, names: list[str]) -> list[object]:
    """Creates behind the two commits that are under way, so that the next one finds them all in the line."""
    async with quota_held(world):
        first = await under_way(world)
        rest = [asyncio.ensure_future(world.create_vm(n, request=f"req-{i}")) for i, n in enumerate(names)]
        await lined_up(world, len(rest))
    await asyncio.gather(*first)
    return list(await asyncio.gather(*rest, return_exceptions=True))


async def test_creates_that_wait_are_written_by_one_commit_and_the_log_knows_whose_each_row_is(world: World) -> None:
    await held_then_gathered(world, [f"v{i}" for i in range(MANY)])
    assert await world.database.value("select count(*) from vm where state = 'pending'") == MANY + together.AT_ONCE
    assert await world.database.value(COMMITS) <= together.AT_ONCE + 1
    assert await world.database.value("select used from quota where class = 'vms'") == MANY + together.AT_ONCE
    said = await world.database.fetch(
        "select v.name, array_agg(distinct c.request) as requests, array_agg(distinct c.kind) as kinds from vm v join change c on c.object_id = any("
        "array[v.id] || array(select p.id from port p where p.vm_id = v.id) || array(select a.volume_id from attachment a where a.vm_id = v.id)"
        " || array(select o.id from operation o where o.resource_id = v.id))"
        " where v.name like 'v%' group by v.name"
    )
    assert {r["name"]: r["requests"] for r in said} == {f"v{i}": [f"req-{i}"] for i in range(MANY)}
    assert all({"vm", "volume", "port", "address", "operation"} <= set(r["kinds"]) for r in said)
    nobody = "select kind, action from change where request is null and xid in (select xid from change where request like 'req-%')"
    assert await world.database.fetch(nobody) == []


async def test_one_that_is_refused_spoils_nothing_for_the_others(world: World) -> None:
    outcomes = await held_then_gathered(world, ["a", "b", "twice", "twice", "c"])
    assert sorted(type(o).__name__ for o in outcomes) == ["Done"] * 4 + ["NameTaken"]
    names = await world.database.fetch("select name from vm order by name")
    assert [r["name"] for r in names] == ["a", "b", "c", "first0", "first1", "twice"]


async def test_of_a_quota_that_holds_a_part_of_them_that_part_is_made(world: World) -> None:
    await world.database.execute("update quota set amount = $1 where class = 'vms'", together.AT_ONCE + 3)
    outcomes = await held_then_gathered(world, [f"v{i}" for i in range(MANY)])
    refused = [o for o in outcomes if isinstance(o, errors.QuotaExceeded)]
    assert len(refused) == MANY - 3
    assert await world.database.value("select count(*) from vm") == together.AT_ONCE + 3


async def test_who_gives_up_in_the_line_has_written_nothing(world: World) -> None:
    async with quota_held(world):
        first = await under_way(world)
        gone, stays = (asyncio.ensure_future(world.create_vm(n)) for n in ("gone", "stays"))
        await lined_up(world, 2)
        gone.cancel()
        await asyncio.wait({gone})
    await asyncio.gather(*first, stays)
    assert [r["name"] for r in await world.database.fetch("select name from vm order by name")] == [
        "first0", "first1", "stays",
    ]  # fmt: skip


async def test_who_waits_too_long_is_told_so_and_has_written_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with quota_held(world):
        first = await under_way(world)
        monkeypatch.setattr(together, "WAIT_S", 0.05)
        with pytest.raises(errors.Busy):
            await world.create_vm("late")
    await asyncio.gather(*first)
    assert await world.database.value("select count(*) from vm where name = 'late'") == 0


async def test_a_commit_of_unknown_outcome_is_so_for_each_and_tried_for_none(world: World) -> None:
    tried = 0

    async def lost(_: Draft) -> together.Written:
        nonlocal tried
        tried += 1
        await asyncio.sleep(0.01)
        raise errors.OutcomeUnknown

    line = together.Together(lost)
    drafts = [Draft(actor="a", request=f"r{i}", insert={"decision": [{"id": world.mint()}]}) for i in range(10)]
    outcomes = await asyncio.gather(*(line.write(d) for d in drafts), return_exceptions=True)
    assert [type(o) for o in outcomes] == [errors.OutcomeUnknown] * 10
    assert tried <= together.AT_ONCE
    await asyncio.sleep(0)
    assert line._lines == {}


async def test_drafts_of_others_do_not_wait_in_the_same_line(world: World) -> None:
    held = asyncio.Event()
    written: list[str] = []

    async def write(draft: Draft) -> together.Written:
        if draft.actor == "slow":
            await held.wait()
        written.append(draft.actor)
        return together.Written(at=await world.accounts.now(), woken=[])

    line = together.Together(write)
    slow = [asyncio.ensure_future(line.write(Draft(actor="slow", request="r"))) for _ in range(5)]
    await asyncio.sleep(0)
    await asyncio.wait_for(line.write(Draft(actor="quick", request="r")), 5)
    assert written == ["quick"]
    held.set()
    await asyncio.gather(*slow)


async def test_who_comes_while_the_last_ones_are_told_is_written_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the very moment at which all that write have found nobody left in the line."""
    monkeypatch.setattr(together, "WAIT_S", 2.0)
    done, at = asyncio.Event(), await world.accounts.now()
    written: list[str] = []

    async def write(draft: Draft) -> together.Written:
        await done.wait()
        written.append(draft.request)
        return together.Written(at=at, woken=[])

    async def late() -> None:
        await done.wait()
        await line.write(Draft(actor="a", request="late"))

    line = together.Together(write)
    some = []
    for n in range(together.AT_ONCE):
        some.append(asyncio.ensure_future(line.write(Draft(actor="a", request=str(n)))))
        await asyncio.sleep(0.01)
    some.append(asyncio.ensure_future(late()))
    await asyncio.sleep(0.01)
    done.set()
    await asyncio.gather(*some)
    assert written == [*map(str, range(together.AT_ONCE)), "late"]
    assert line._lines == {}


async def test_two_that_chose_one_address_are_not_in_one_commit(world: World) -> None:
    network, together_of = world.mint(), []

    async def write(draft: Draft) -> together.Written:
        together_of.append([r["address"] for r in draft.insert["address"]])
        return together.Written(at=await world.accounts.now(), woken=[])

    line = together.Together(write)
    chosen = ["10.0.0.5", "10.0.0.6", "10.0.0.5"]
    rows = [{"network_id": network, "port_id": world.mint(), "address": a} for a in chosen]
    drafts = [Draft(actor="a", request="r", insert={"address": [row]}) for row in rows]
    await asyncio.gather(*(line.write(d) for d in drafts))
    assert together_of == [["10.0.0.5", "10.0.0.6"], ["10.0.0.5"]]


@pytest.mark.parametrize(
    "change",
    [
        lambda d, row: d.changes("vm", row, state="stopped"),
        lambda d, row: d.removes("vm", row),
        lambda d, row: d.deletes("plan", id=row["id"]),
        lambda d, row: d.updates("vm", {"id": row["id"]}, state="stopped"),
        lambda d, row: d.changes_groups(rules=[row["id"]]),
        lambda d, row: d.inserts("address", network_id=row["id"], address="10.0.0.1", origin="gateway"),
    ],
)
def test_what_changes_or_removes_anything_is_written_alone(world: World, change: object) -> None:
    draft = Draft(actor="a", request="r")
    draft.inserts("decision", id=world.mint())
    assert together.joins(draft)
    assert callable(change)
    change(draft, {"id": world.mint(), "generation": 1})
    assert not together.joins(draft)
