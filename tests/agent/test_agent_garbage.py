"""What an agent removes and what it never does: leftovers after their grace, nothing foreign, nothing that a restored
database has forgotten."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from agent_control import Control, vm
from agent_machine import Machine, on, until

from nubila.agent import garbage


@pytest.mark.slow
async def test_restored_database_kills_nothing(
    machine: Machine, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(garbage, "GRACE_S", dict.fromkeys(garbage.GRACE_S, 0.2))
    monkeypatch.setattr("nubila.agent.node.SWEEP_S", 0.1)
    known, forgotten = vm(), vm()
    moved = msgspec.structs.replace(vm(), epoch=2)
    control.wish(known, forgotten, moved)
    await until(lambda: on(control, known)() and on(control, forgotten)() and on(control, moved)())
    # back to a time when one of them did not exist, and one's right to act was elsewhere, and ended
    with control.changed:
        control.vms[moved.vm_id] = msgspec.structs.replace(moved, epoch=1, generation=1, power="off", gone=True)
        control.revision_of[moved.vm_id] = 1
        control.fabric_epoch, control.revision, control.timeline = 2, 1, 1
        del control.vms[forgotten.vm_id]
        control.revision_of[known.vm_id] = 1
        control.changed.notify_all()
    for parked in (forgotten, moved):
        await until(lambda parked=parked: any(parked.vm_id in p.foreign for p in control.posts), 15.0)  # type: ignore[misc]
    await asyncio.sleep(0.6)
    for parked in (forgotten, moved):
        assert machine.running(parked.vm_id)
        assert machine.boots(parked.vm_id) == 1
    # the right to act comes back to it under a newer epoch, and then the wish holds
    control.wish(msgspec.structs.replace(moved, epoch=2, generation=3, power="off", stop_mode="hard"))
    await until(lambda: not machine.running(moved.vm_id), 15.0)


async def test_garbage_is_removed_after_its_grace_and_foreign_things_never(
    machine: Machine, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(garbage, "GRACE_S", {**dict.fromkeys(garbage.GRACE_S, 0.3), "image": 99.0})
    monkeypatch.setattr("nubila.agent.node.SWEEP_S", 0.1)
    for name in ("HYPERVISOR_S", "NETWORK_S", "STORAGE_S"):
        monkeypatch.setattr(f"nubila.agent.observer.{name}", 0.1)
    machine.domains.add_foreign("someone-elses")
    kept, lost = vm(), vm()
    control.wish(kept, lost)
    await until(lambda: on(control, kept)() and on(control, lost)())
    await machine.kill()
    control.forget(lost.vm_id)
    machine.start()
    await until(lambda: lost.vm_id not in machine.domains.domains)
    await until(lambda: lost.disks[0].volume_id not in machine.disks.volumes)
    await until(lambda: lost.nics[0].port_id not in machine.wires.ports)
    await until(lambda: not (machine.directory / "vms" / lost.vm_id).exists())
    assert machine.running(kept.vm_id) and machine.boots(kept.vm_id) == 1
    assert kept.nics[0].network.network_id in machine.wires.networks
    await until(lambda: any("someone-elses" in p.foreign for p in control.posts))


def test_garbage_has_its_grace() -> None:
    world = {"volume": ["a", "b"], "domain": ["v"], "network": ["n"]}
    known = {"volume": {"a"}, "domain": set[str](), "network": set[str]()}
    first = garbage.sweep(world, known, {}, 100.0)
    assert first.remove == ()
    assert garbage.sweep(world, known, first.since, 131.0).remove == (("network", "n"),)
    assert garbage.sweep(world, known, first.since, 159.0).remove == (("network", "n"),)
    assert garbage.sweep(world, known, first.since, 160.0).remove == (
        ("domain", "v"),
        ("volume", "b"),
        ("network", "n"),
    )
    known["volume"].add("b")  # it became known meanwhile: its time begins anew
    second = garbage.sweep(world, known, first.since, 140.0)
    assert ("volume", "b") not in second.since
