"""The ledger of drifts on real rows: lines come, change and end by reports; verbs claim what they take."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from tests.world import World

from nubila import errors
from nubila.intent import drift as intent
from nubila.intent import vm_hold
from nubila.intent.asking import Outcome
from nubila.model.draft import Draft
from nubila.model.ids import text
from nubila.protocol import Drift
from nubila.reconcile.loop import Loop
from nubila.store.drift import DriftStore
from nubila.store.work import WorkStore


async def seen(world: World, *found: Drift) -> list[dict[str, Any]]:
    """The node says that these are its drifts; returns the lines that are open then."""
    store, node_id = DriftStore(world.database), world.node_ids[0]
    rows, now = await store.open(node_id)
    draft = Draft(actor="node:test", request="r", reason="report")
    intent.observe(rows, found, node_id, now, draft, world.mint)
    if not draft.is_empty():
        await world.database.commit(draft)
    return (await store.open(node_id))[0]


async def line(world: World, name: str, **more: Any) -> Drift:
    vm_id = text("vm", UUID((await world.vm(name))["vm"]["id"]))
    fields = {
        "kind": "domain", "thing": f"{vm_id}.e1", "field": "cores", "wished": "1", "observed": "2",
        "cause": "changed-outside", "vm_id": vm_id,
    }  # fmt: skip
    return Drift(**{**fields, **more})


FOREIGN = Drift(kind="domain", thing="theirs", field="there", wished="", observed="there", cause="foreign")


async def used(world: World) -> dict[str, int]:
    rows = await world.database.fetch("select class, used from quota where project_id = $1", world.project_id)
    return {r["class"]: r["used"] for r in rows}


async def held(world: World) -> dict[str, int]:
    rows = await world.database.fetch("select class, used from inventory where node_id = $1", world.node_ids[0])
    return {r["class"]: r["used"] for r in rows}


async def act(world: World, verb: Any, row: dict[str, Any], name: str) -> Outcome:
    view = await world.vm(name)
    view |= await world.vms.size_view(view["vm"], ("", None))
    return await world.do(lambda a: verb(row, view, a), project_id=None, operator=True)


async def test_a_line_keeps_its_beginning_while_it_holds_and_ends_as_a_tombstone(world: World) -> None:
    await world.create_vm("web")
    one = await line(world, "web")
    (first,) = await seen(world, one)
    assert (first["state"], first["cause"], first["status"]["observed"]) == ("open", "changed-outside", "2")
    counts = await world.counts()
    assert await seen(world, one) == [first]
    assert await world.counts() == counts  # nothing new: nothing written
    (later,) = await seen(world, await line(world, "web", observed="4"))
    assert (later["id"], later["created_at"], later["status"]["observed"]) == (first["id"], first["created_at"], "4")
    assert await seen(world) == []
    (again,) = await seen(world, one)
    assert again["id"] != first["id"]
    log = await world.database.fetch("select content from change where kind = 'drift' order by seq")
    assert len(log) == 4  # seen, changed, over, seen again


async def test_a_repair_is_one_more_wish_of_the_vm_with_an_operation(world: World) -> None:
    await world.create_vm("web")
    (row,) = await seen(world, await line(world, "web"))
    before = await world.vm("web")
    await act(world, intent.repair, row, "web")
    after = await world.vm("web")
    assert (before["vm"]["spec"]["repairs"], after["vm"]["spec"]["repairs"]) == (0, after["vm"]["generation"])
    assert after["vm"]["spec"]["cores"] == 1
    assert [o["spec"]["verb"] for o in after["operations"]] == ["create", "repair"]
    await act(world, intent.repair, row, "web")
    again = await world.vm("web")
    number = again["vm"]["generation"]
    assert [(o["spec"]["verb"], o["spec"]["count"]) for o in again["operations"]] == [
        ("create", None),
        ("repair", number),
    ]


async def test_adopting_takes_quota_and_capacity_as_any_change_of_size(world: World) -> None:
    await world.create_vm("web")
    (row,) = await seen(world, await line(world, "web", observed="3"))
    quota, capacity = await used(world), await held(world)
    await act(world, intent.adopt, row, "web")
    assert (await world.vm("web"))["vm"]["spec"]["cores"] == 3
    assert (await used(world))["cores"] == quota["cores"] + 2
    assert (await held(world))["cores"] == capacity["cores"] + 2
    (amount,) = [a["amount"] for a in (await world.vm("web"))["allocations"] if a["class"] == "cores"]
    assert amount == 3


async def test_a_boot_order_that_was_changed_by_hand_is_adopted(world: World) -> None:
    await world.create_vm("web")
    (row,) = await seen(world, await line(world, "web", field="boot", wished="disk", observed="cdrom disk"))
    await act(world, intent.adopt, row, "web")
    after = (await world.vm("web"))["vm"]
    assert after["spec"]["boot"] == ["cdrom", "disk"]
    assert after["spec"]["repairs"] == after["generation"]  # its definition, which may have been put back since, has it


async def test_adopting_more_than_the_quota_allows_is_refused_with_the_numbers(world: World) -> None:
    await world.create_vm("web")
    (row,) = await seen(world, await line(world, "web", observed="20"))
    await world.database.execute("update quota set amount = 8 where class = 'cores'")
    counts = await world.counts()
    with pytest.raises(errors.QuotaExceeded, match="8"):
        await act(world, intent.adopt, row, "web")
    assert await world.counts() == counts


@pytest.mark.parametrize(
    ("verb", "fields", "says"),
    [
        (intent.adopt, {"field": "title", "observed": "x"}, "only boot, cores, memory_mib"),
        (intent.adopt, {"field": "media", "observed": "/tmp/theirs.iso"}, "only boot, cores, memory_mib"),
        (intent.adopt, {"field": "boot", "observed": "network"}, "nothing that a VM may be wished"),
        (intent.adopt, {"field": "boot", "observed": "disk disk"}, "nothing that a VM may be wished"),
        (intent.adopt, {"cause": "next-start"}, "newer"),
        (intent.adopt, {"observed": "0"}, "nothing that a VM may be wished"),
        (intent.adopt, {"observed": "many"}, "nothing that a VM may be wished"),
        (intent.repair, {"cause": "missing", "kind": "volume"}, "cannot be made again"),
        (intent.repair, {"cause": "foreign"}, "never touched"),
        (intent.repair, {"cause": "orphan"}, "time of grace"),
    ],
)
async def test_what_makes_no_sense_is_refused_with_what_to_do(
    world: World, verb: Any, fields: dict[str, str], says: str
) -> None:
    await world.create_vm("web")
    (row,) = await seen(world, await line(world, "web", **fields))
    counts = await world.counts()
    with pytest.raises(errors.Conflict, match=says) as refused:
        await act(world, verb, row, "web")
    assert refused.value.how
    assert await world.counts() == counts


async def test_an_ignored_line_rests_until_its_time_and_no_longer(world: World) -> None:
    (row,) = await seen(world, FOREIGN)
    body = intent.DriftIgnore(hours=1, reason="known")
    await world.do(lambda a: intent.ignore(body, row, a), project_id=None, operator=True)
    (resting,) = await seen(world, FOREIGN)
    assert (resting["state"], resting["spec"]["ignore_reason"]) == ("ignored", "known")
    loop = Loop(world.carrier, WorkStore(world.database), "test")
    assert await loop.once() == 0
    await world.database.execute(
        "update drift set spec = jsonb_set(spec, '{ignore_until}', to_jsonb(now() - interval '1 second'))"
    )
    assert await loop.once() == 1
    (woken,) = await seen(world, FOREIGN)
    assert woken["state"] == "open"
    assert await loop.once() == 0


async def test_a_repair_on_a_line_that_ended_meanwhile_is_stale(world: World) -> None:
    await world.create_vm("web")
    (row,) = await seen(world, await line(world, "web"))
    await seen(world)
    with pytest.raises(errors.Stale):
        await act(world, intent.repair, row, "web")


@pytest.mark.parametrize("verb", [intent.repair, intent.adopt])
async def test_a_held_vm_is_neither_repaired_nor_adopted(world: World, verb: Any) -> None:
    await world.create_vm("web")
    (row,) = await seen(world, await line(world, "web"))
    view = await world.vm("web")
    await world.do(lambda a: vm_hold.hold(vm_hold.VmHold(reason="being looked into"), view, a))
    before = await world.counts()
    with pytest.raises(errors.Conflict, match="being looked into"):
        await act(world, verb, row, "web")
    assert await world.counts() == before
    held_view = await world.vm("web")
    await world.do(lambda a: vm_hold.unhold(held_view, a))
    await act(world, verb, row, "web")
