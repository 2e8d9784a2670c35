"""Plan and apply: a plan changes nothing, apply makes exactly it, a changed world answers 'was / is now'."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest
from tests.world import World

from nubila import errors
from nubila.intent import catalog
from nubila.intent.carry import Planned
from nubila.model.ids import parse

UNCHANGED = {"plan", "call"}


async def planned(world: World, name: str = "a") -> dict[str, object]:
    plan = await world.create_vm(name, plan=True)
    assert isinstance(plan, Planned)
    return plan.shown


async def test_a_plan_writes_nothing_and_apply_makes_exactly_it(world: World) -> None:
    before = await world.counts()
    changes = await world.database.value("select count(*) from change")
    shown = await planned(world)
    after = await world.counts()
    assert {k for k in after if after[k] != before[k]} == UNCHANGED
    assert await world.database.value("select count(*) from change") == changes

    done = await world.carrier.apply(world.caller("plan.apply"), parse("plan", str(shown["id"])))  # type: ignore[arg-type]
    view = await world.vm("a")
    effects = {e["kind"]: e for e in shown["effects"]}  # type: ignore[attr-defined]
    assert effects["vm"]["id"] == shown["answer"]["vm"]  # type: ignore[index]
    assert str(done.refers["vm"]) == view["vm"]["id"]
    assert effects["port"]["details"]["addresses"] == [a["address"].split("/")[0] for a in view["addresses"]]
    assert effects["port"]["details"]["mac"] == view["ports"][0]["mac"]
    assert effects["volume"]["name"] == view["volumes"][0]["name"]
    left = shown["quota_left"]["vms"]  # type: ignore[index]
    assert left["after"] == left["limit"] - await world.database.value("select used from quota where class = 'vms'")


async def test_a_plan_is_applied_once_and_only_by_its_own_principal(world: World) -> None:
    plan_id = parse("plan", str((await planned(world))["id"]))
    assert plan_id is not None
    with pytest.raises(errors.NotFound):
        await world.carrier.apply(world.caller("plan.apply", actor="user:other"), plan_id)
    results = await asyncio.gather(
        *(world.carrier.apply(world.caller("plan.apply"), plan_id) for _ in range(5)), return_exceptions=True
    )
    assert sum(not isinstance(r, BaseException) for r in results) == 1
    assert await world.database.value("select count(*) from vm") == 1


async def test_a_changed_world_answers_was_and_is_now_and_makes_nothing(world: World) -> None:
    plan_id = parse("plan", str((await planned(world))["id"]))
    assert plan_id is not None
    project = await world.resources.whole("project", name="p")
    assert project is not None
    await world.do(
        lambda a: catalog.change_project(catalog.ProjectChange(description="new"), project, a), project_id=None
    )
    with pytest.raises(errors.Stale) as e:
        await world.carrier.apply(world.caller("plan.apply"), plan_id)
    assert e.value.fields["changed"] == [
        {"kind": "project", "id": e.value.fields["changed"][0]["id"], "was": 1, "is_now": 2}
    ]
    assert await world.database.value("select count(*) from vm") == 0


async def test_a_tenant_learns_nothing_of_nodes_from_a_stale_plan(world: World) -> None:
    shown = await planned(world)
    assert "node" not in msgspec.json.encode(shown).decode().replace("'node'", "")
    await world.database.execute('update node set generation = generation + 1, spec = spec || \'{"zone": "z"}\'')
    await world.database.execute("update inventory set total = reserved where class = 'memory_mib'")
    with pytest.raises(errors.Stale) as e:
        await world.carrier.apply(world.caller("plan.apply"), parse("plan", str(shown["id"])))  # type: ignore[arg-type]
    assert all(c["kind"] == "capacity" for c in e.value.fields["changed"])


async def test_an_open_plan_delays_nobody(world: World) -> None:
    await planned(world)
    begin = time.monotonic()
    await asyncio.gather(*(world.create_vm(f"v{i}") for i in range(10)))
    assert time.monotonic() - begin < 5
    locks = await world.database.value(
        "select count(*) from pg_locks where locktype in ('tuple', 'transactionid') and pid <> pg_backend_pid()"
    )
    assert locks == 0
