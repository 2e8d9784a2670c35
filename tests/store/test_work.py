"""The reconcile loop on real rows: one holder of the lease, a guest's own stop is followed, a passed deadline alarms."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from uuid import UUID

import msgspec
import pytest
from tests.world import World

from nubila.intent import report as reports
from nubila.intent.asking import Asking
from nubila.model.draft import Draft, Row
from nubila.model.ids import text
from nubila.protocol import VmReport
from nubila.reconcile import operation
from nubila.reconcile.loop import NOUNS, TRIES, Loop
from nubila.store.work import SNAPSHOT, WorkStore


async def reported(world: World, name: str, **said: object) -> None:
    view = await world.vm(name)
    row = view["vm"]
    draft = Draft(actor="node:test", request="r")
    values = {"power": "on", "starts": 1, **said}
    report = VmReport(vm_id=text("vm", UUID(row["id"])), epoch=1, generation=row["generation"], **values)  # type: ignore[arg-type]
    reports.apply(report, view, draft, view["now"])
    await world.database.commit(draft)


async def test_one_holder_at_a_time_and_the_fence_grows_when_it_moves(world: World) -> None:
    work = WorkStore(world.database)
    assert await work.lead("reconcile", "a", 30) == 1
    assert await work.lead("reconcile", "b", 30) is None
    assert await work.lead("reconcile", "a", 30) == 1
    await world.database.execute("update lease set until = now() - interval '1 second'")
    assert await work.lead("reconcile", "b", 30) == 2
    assert await work.lead("reconcile", "a", 30) is None


async def test_a_guest_that_stopped_itself_is_wished_off_and_a_running_one_is_left_alone(world: World) -> None:
    loop = Loop(world.carrier, WorkStore(world.database), "test")
    await world.create_vm("off")
    await world.create_vm("on")
    await reported(world, "off")
    await reported(world, "on")
    await reported(world, "off", power="off", reason="the guest shut itself down")
    assert await loop.once() == 1
    assert (await world.vm("off"))["vm"]["spec"]["power"] == "off"
    assert (await world.vm("on"))["vm"]["spec"]["power"] == "on"
    assert await loop.once() == 0


async def test_a_passed_deadline_is_marked_once_and_the_work_goes_on(world: World) -> None:
    loop = Loop(world.carrier, WorkStore(world.database), "test")
    await world.create_vm("late")
    await world.create_vm("fine")
    await world.database.execute(
        "update operation set deadline_at = now() - interval '1 second' where name like '%late'"
    )
    assert await loop.once() == 1
    late, fine = (await world.vm("late"))["operations"][0], (await world.vm("fine"))["operations"][0]
    assert late["status"]["overdue"] is True
    assert fine["status"] is None
    assert late["state"] == "waiting"
    assert await loop.once() == 0
    await reported(world, "late")
    assert await world.database.value("select state from operation where name like '%late'") == "done"


async def two_late(world: World) -> Loop:
    """Two VMs whose operations are late, and the loop that is to say so."""
    await world.create_vm("bad")
    await world.create_vm("good")
    await world.database.execute("update operation set deadline_at = now() - interval '1 second'")
    return Loop(world.carrier, WorkStore(world.database), "test")


async def overdue(world: World, name: str) -> bool:
    return bool(
        await world.database.value(
            "select (status->>'overdue')::boolean from operation where name like '%' || $1", name
        )
    )


@pytest.mark.parametrize(
    ("column", "spoilt"),
    [("status", '"no object"'), ("status", '{"overdue": false, "reason": [1]}')],
    ids=["the step raises", "the draft raises"],
)
async def test_f16_a_poisoned_object_is_parked_with_a_reason_and_others_go_on(
    world: World, column: str, spoilt: str
) -> None:
    loop, work = await two_late(world), WorkStore(world.database)
    await world.database.execute(f"update operation set {column} = '{spoilt}' where name like '%bad'")
    bad = await world.database.value("select id from operation where name like '%bad'")
    assert await loop.once() == 1
    assert await overdue(world, "good")
    for _ in range(TRIES - 1):
        assert await work.parked() == []
        assert await loop.once() == 0
    (told,) = await work.parked()
    assert (told["kind"], told["object_id"]) == ("operation", bad)
    assert "Error" in told["reason"]
    assert told["name"].endswith("bad")
    await world.database.execute("update parked set until = now()")
    assert await loop.once() == 0  # tried again, and parked again by that
    (again,) = await work.parked([bad])
    assert again["since"] == told["since"]
    assert again["until"] > told["until"]
    await world.database.execute("update operation set status = null where name like '%bad'")
    other = Loop(world.carrier, work, "the next to lead")
    assert [await loop.once(), await other.once()] == [0, 0]  # left alone for its time, whoever leads
    await world.database.execute("update parked set until = now()")
    assert await other.once() == 1
    assert await overdue(world, "bad")
    assert await work.resting() == {}


async def test_f16_mutant_that_parks_nothing_tries_at_each_pass(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard removed: the poisoned one is worked on for ever, and nobody is told."""
    loop, work = await two_late(world), WorkStore(world.database)
    await world.database.execute("update operation set status = '\"x\"' where name like '%bad'")
    tried: list[object] = []

    def step(rows: Sequence[Row], now: datetime) -> list[operation.Alarm]:
        tried.extend(r["id"] for r in rows if r["name"].endswith("bad"))
        return operation.step(rows, now)

    nouns = tuple(msgspec.structs.replace(n, step=step) if n.name == "operation" else n for n in NOUNS)
    monkeypatch.setattr("nubila.reconcile.loop.NOUNS", nouns)
    for _ in range(TRIES + 2):
        await loop.once()
    assert len(tried) == TRIES
    await world.database.execute("delete from parked")

    async def parks_nothing(*_: object) -> None:
        pass

    monkeypatch.setattr(loop._work, "park", parks_nothing)
    for _ in range(TRIES + 2):
        await loop.once()
    assert len(tried) == TRIES + TRIES + 2
    assert await work.parked() == []


async def test_f16_more_poisoned_objects_than_a_batch_starve_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = await two_late(world)
    await world.database.execute("update operation set status = '\"x\"' where name like '%bad'")
    monkeypatch.setitem(SNAPSHOT, "operation", SNAPSHOT["operation"].replace("limit 200", "limit 1"))
    done = [await loop.once() for _ in range(TRIES + 1)]
    assert sum(done) == 1
    assert await overdue(world, "good")


async def test_f16_an_object_whose_commit_hangs_delays_no_other(world: World, postgres_socket: str) -> None:
    loop = await two_late(world)
    async with world.database.connection() as other:
        transaction = other.transaction()
        await transaction.start()
        await other.execute("select from operation where name like '%bad' for update")
        assert await loop.once() == 1
        assert await overdue(world, "good")
        assert await loop.once() == 0  # it is under way, and is not begun a second time
        await transaction.rollback()
    for _ in range(100):
        if await overdue(world, "bad"):
            break
        await asyncio.sleep(0.05)
    assert await overdue(world, "bad")


async def test_f16_an_object_that_needs_more_memory_than_there_is_is_parked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an allocation over the process's limit raises is treated as any other fault of that object."""
    loop = await two_late(world)
    drafted = operation.draft

    def greedy(command: operation.Alarm, asking: Asking) -> Draft:
        if command.operation["name"].endswith("bad"):
            bytes(1 << 60)
        return drafted(command, asking)

    nouns = tuple(msgspec.structs.replace(n, draft=greedy) if n.name == "operation" else n for n in NOUNS)
    monkeypatch.setattr("nubila.reconcile.loop.NOUNS", nouns)
    assert [await loop.once() for _ in range(TRIES)] == [1, 0, 0]
    assert len(await WorkStore(world.database).parked()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["before", "after", "twice"])
async def test_f2_a_reconciler_killed_around_its_commits_does_each_once(world: World, mode: str) -> None:
    loop = await two_late(world)
    before = await world.database.fetch("select name, version from operation order by id")
    words = [sys.executable, "-m", "tests.store.reconciler", world.socket, world.name, mode]
    ended = await asyncio.to_thread(subprocess.run, words, cwd=Path(__file__).parents[2], timeout=60, check=False)
    assert ended.returncode == (0 if mode == "twice" else -signal.SIGKILL)
    await loop.once()
    assert [await overdue(world, name) for name in ("bad", "good")] == [True, True]
    after = await world.database.fetch("select name, version from operation order by id")
    assert [r["version"] for r in after] == [r["version"] + 1 for r in before]
    assert await loop.once() == 0
