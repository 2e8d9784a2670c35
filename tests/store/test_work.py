"""The reconcile loop on real rows: one holder of the lease, a guest's own stop is followed, a passed deadline alarms."""

from __future__ import annotations

from uuid import UUID

from tests.world import World

from nubila.intent import report as reports
from nubila.model.draft import Draft
from nubila.model.ids import text
from nubila.protocol import VmReport
from nubila.reconcile.loop import Loop
from nubila.store.work import WorkStore


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
