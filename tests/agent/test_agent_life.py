"""The life of vms on a node: an agent with fake drivers against a control plane in memory."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from agent_control import Control, vm
from agent_machine import Machine, on, until

from nubila import protocol
from nubila.drivers.hypervisor.base import Domain
from nubila.drivers.hypervisor.fake import FakeHypervisor


async def test_create_runs_and_is_reported_whole(machine: Machine, control: Control) -> None:
    wish = vm()
    control.wish(wish)
    await until(on(control, wish))
    report = control.reports[wish.vm_id]
    assert (report.starts, report.failing, report.reason) == (1, False, None)
    assert report.disks_ready == (wish.disks[0].volume_id,)
    assert report.ports_active == (wish.nics[0].port_id,)
    assert report.since is not None
    assert machine.boots(wish.vm_id) == 1
    assert (machine.directory / "vms" / wish.vm_id / "seed.iso").exists()
    await until(lambda: control.reports[wish.vm_id].addressed_at)


async def test_many_share_one_image_and_few_reports(machine: Machine, control: Control) -> None:
    wishes = [vm() for _ in range(50)]
    control.wish(*wishes)
    await until(lambda: all(on(control, w)() for w in wishes))
    assert control.downloads == 1
    assert len([p for p in control.posts if p.vms]) < 25
    assert all(machine.boots(w.vm_id) == 1 for w in wishes)


async def test_clean_stop_then_start(machine: Machine, control: Control) -> None:
    wish = vm()
    control.wish(wish)
    await until(on(control, wish))
    control.change(wish.vm_id, power="off")
    await until(lambda: control.reports[wish.vm_id].power == "off")
    assert control.reports[wish.vm_id].reason is None
    now = control.change(wish.vm_id, power="on", starts=2)
    await until(on(control, now))
    assert machine.boots(wish.vm_id) == 2


async def test_deaf_guest_is_stopped_hard_at_the_timeout(machine: Machine, control: Control) -> None:
    wish = vm()
    control.wish(wish)
    await until(on(control, wish))
    machine.domains.deaf.add(wish.vm_id)
    control.change(wish.vm_id, power="off", stop_timeout_s=0.5)
    await asyncio.sleep(0.3)
    assert machine.running(wish.vm_id)
    await until(lambda: control.reports[wish.vm_id].power == "off")
    assert machine.domain(wish.vm_id).reason == "destroyed"


async def test_a_guest_that_heeds_a_withdrawn_stop_is_started_again(machine: Machine, control: Control) -> None:
    wish = vm()
    control.wish(wish)
    await until(on(control, wish))
    machine.domains.deaf.add(wish.vm_id)  # it takes its time
    control.change(wish.vm_id, power="off", stop_timeout_s=30.0)
    await until(lambda: machine.domains.script.calls["ask_stop"] >= 1)
    now = control.change(wish.vm_id, power="on", starts=2)
    await until(on(control, now))
    assert machine.boots(wish.vm_id) == 1
    machine.domains.end(wish.vm_id, "guest-shutdown")
    await until(lambda: machine.boots(wish.vm_id) == 2)
    await until(on(control, now))
    machine.domains.end(wish.vm_id, "guest-shutdown")  # its own will, this time
    await until(lambda: control.reports[wish.vm_id].power == "off")
    assert control.reports[wish.vm_id].reason == "the guest shut itself down"
    assert machine.boots(wish.vm_id) == 2


@pytest.mark.parametrize("when", ["it runs", "nobody looks"])
async def test_a_new_agent_knows_of_a_withdrawn_stop(machine: Machine, control: Control, when: str) -> None:
    """Mutant: kept in memory alone, the guest's end would be taken for its own will and the vm stay down."""
    wish = vm()
    control.wish(wish)
    await until(on(control, wish))
    machine.domains.deaf.add(wish.vm_id)
    control.change(wish.vm_id, power="off", stop_timeout_s=30.0)
    await until(lambda: machine.domains.script.calls["ask_stop"] >= 1)
    now = control.change(wish.vm_id, power="on", starts=2)
    await until(on(control, now))
    await machine.kill()
    if when == "nobody looks":
        machine.domains.end(wish.vm_id, "guest-shutdown")
    machine.start()
    await until(lambda: control.session == 2)
    if when == "it runs":
        await until(on(control, now))
        machine.domains.end(wish.vm_id, "guest-shutdown")
    await until(lambda: machine.boots(wish.vm_id) == 2)
    await until(on(control, now))
    machine.domains.end(wish.vm_id, "guest-shutdown")  # its own will, this time
    await until(lambda: control.reports[wish.vm_id].power == "off")
    assert machine.boots(wish.vm_id) == 2


async def test_a_withdrawn_stop_is_forgotten_in_time(machine: Machine, control: Control) -> None:
    wish = vm()
    control.wish(wish)
    await until(on(control, wish))
    machine.domains.deaf.add(wish.vm_id)
    control.change(wish.vm_id, power="off", stop_timeout_s=5.0)
    await until(lambda: machine.domains.script.calls["ask_stop"] >= 1)
    control.change(wish.vm_id, power="on", starts=2, stop_timeout_s=0.3)
    entry = machine.agent.wishes.entries[wish.vm_id]  # type: ignore[union-attr]
    await until(lambda: entry.record.starts == 2 and not entry.record.asked)
    machine.domains.end(wish.vm_id, "guest-shutdown")
    await until(lambda: control.reports[wish.vm_id].power == "off")
    assert control.reports[wish.vm_id].reason == "the guest shut itself down"
    assert machine.boots(wish.vm_id) == 1


async def test_hard_stop_asks_nobody(machine: Machine, control: Control) -> None:
    wish = vm()
    control.wish(wish)
    await until(on(control, wish))
    control.change(wish.vm_id, power="off", stop_mode="hard")
    await until(lambda: control.reports[wish.vm_id].power == "off")
    assert machine.domains.script.calls["ask_stop"] == 0


@pytest.mark.parametrize("agent", [True, False])
async def test_reboot_once_per_number(machine: Machine, control: Control, agent: bool) -> None:
    wish = vm()
    control.wish(wish)
    await until(on(control, wish))
    if not agent:
        machine.domains.no_agent.add(wish.vm_id)
        machine.agent.observer.last_s["hypervisor"] = 0.0  # type: ignore[union-attr]
        await asyncio.sleep(0.3)
    for number in (1, 2):
        control.change(wish.vm_id, reboots=number)
        await until(lambda: control.reports[wish.vm_id].reboots == number)  # noqa: B023
    assert machine.boots(wish.vm_id) == 3


@pytest.mark.slow
async def test_a_reboot_is_reported_when_it_has_happened(machine: Machine, control: Control) -> None:
    wish = vm()
    control.wish(wish)
    await until(lambda: on(control, wish)() and control.reports[wish.vm_id].guest_agent)
    machine.domains.script.delay("ask_reboot", 1.6, 1)  # longer than an ask may hold the lane
    control.change(wish.vm_id, reboots=1)
    await asyncio.sleep(1.4)
    report = control.reports[wish.vm_id]
    assert (report.reboots, report.generation, report.failing) == (0, 2, False)
    other = vm()
    control.wish(other)
    await until(on(control, other), 1.0)
    await until(lambda: control.reports[wish.vm_id].reboots == 1)
    assert machine.boots(wish.vm_id) == 2
    assert control.reports[wish.vm_id].reason is None


async def test_a_reboot_that_fails_is_forced(machine: Machine, control: Control) -> None:
    wish = vm()
    control.wish(wish)
    await until(lambda: on(control, wish)() and control.reports[wish.vm_id].guest_agent)
    machine.domains.script.fail("ask_reboot", 1, "the daemon is away")
    control.change(wish.vm_id, reboots=1)
    await until(lambda: control.reports[wish.vm_id].failing)
    assert control.reports[wish.vm_id].reboots == 0
    await until(lambda: control.reports[wish.vm_id].reboots == 1)
    assert machine.boots(wish.vm_id) == 2


async def test_removal_leaves_nothing(machine: Machine, control: Control) -> None:
    wish = vm()
    control.wish(wish)
    await until(on(control, wish))
    control.change(wish.vm_id, gone=True)
    await until(lambda: control.reports[wish.vm_id].gone)
    await until(lambda: wish.vm_id not in machine.agent.wishes.entries)  # type: ignore[union-attr]
    assert wish.vm_id not in machine.domains.domains
    assert wish.disks[0].volume_id not in machine.disks.volumes
    assert wish.nics[0].port_id not in machine.wires.ports
    assert not (machine.directory / "vms" / wish.vm_id).exists()


async def test_guest_shutdown_stays_off_and_is_explained(machine: Machine, control: Control) -> None:
    wish = vm()
    control.wish(wish)
    await until(on(control, wish))
    machine.domains.guest_shutdown(wish.vm_id)
    await until(lambda: control.reports[wish.vm_id].power == "off")
    await until(lambda: control.reports[wish.vm_id].reason == "the guest shut itself down")
    assert not control.reports[wish.vm_id].failing
    assert machine.boots(wish.vm_id) == 1
    now = control.change(wish.vm_id, starts=2)
    await until(on(control, now))
    assert machine.boots(wish.vm_id) == 2


async def test_crash_is_restarted_with_backoff(machine: Machine, control: Control) -> None:
    wish = vm()
    control.wish(wish)
    await until(on(control, wish))
    machine.domains.crash(wish.vm_id)
    await until(lambda: control.reports[wish.vm_id].failing)
    assert "ended unexpectedly once" in (control.reports[wish.vm_id].reason or "")
    await until(on(control, wish))
    assert machine.boots(wish.vm_id) == 2
    assert control.reports[wish.vm_id].reason is None


async def test_failure_is_reported_and_tried_again(machine: Machine, control: Control) -> None:
    machine.domains.script.fail("start", 1, "no room at the inn")
    wish = vm()
    control.wish(wish)
    await until(lambda: wish.vm_id in control.reports and control.reports[wish.vm_id].failing)
    assert control.reports[wish.vm_id].reason == "no room at the inn"
    await until(on(control, wish))
    assert machine.boots(wish.vm_id) == 1


async def test_a_lost_volume_is_not_made_anew(machine: Machine, control: Control) -> None:
    wish = vm()
    control.wish(wish)
    await until(on(control, wish))
    machine.disks.volumes.drop(wish.disks[0].volume_id)
    machine.agent.observer.last_s["storage"] = 0.0  # type: ignore[union-attr]
    await until(lambda: wish.disks[0].volume_id not in machine.agent.facts.volumes)  # type: ignore[union-attr]
    machine.domains.crash(wish.vm_id)
    await until(lambda: "is missing on this node" in (control.reports[wish.vm_id].reason or ""))
    assert wish.disks[0].volume_id not in machine.disks.volumes


def of_its_own(wish: protocol.Vm, **change: Any) -> protocol.Volume:
    """A wish for the vm's disk itself, of which the control plane knows that it was made."""
    disk = msgspec.structs.replace(wish.disks[0], made=True, **change)
    return protocol.Volume(
        volume_id=disk.volume_id, project_id=wish.project_id, generation=1, epoch=1, disk=disk, vm_id=wish.vm_id
    )


async def test_a_disk_that_its_vm_made_is_not_taken_for_lost(machine: Machine, control: Control) -> None:
    """Nobody has looked at the disks since it was made; by the clock it would be a minute until somebody does."""
    wish = vm()
    control.wish(wish)
    await until(on(control, wish))
    volume = of_its_own(wish)
    control.wish_volume(volume)
    told = await until(lambda: control.volume_reports.get(volume.volume_id))
    assert [(r.ready, r.failing) for r in told] == [(True, False)] * len(told)


async def test_a_disk_that_its_vm_made_and_that_is_lost_is_told_so_and_not_made_anew(
    machine: Machine, control: Control
) -> None:
    wish = vm()
    control.wish(wish)
    await until(on(control, wish))
    volume = of_its_own(wish)
    machine.disks.volumes.drop(volume.volume_id)
    for n in (1, 2):
        control.wish_volume(msgspec.structs.replace(volume, generation=n))
        told = await until(lambda: control.volume_reports.get(volume.volume_id))
        assert [(r.ready, r.failing) for r in told] == [(False, True)] * len(told)
        assert "is missing on this node" in (told[-1].reason or "")
        assert volume.volume_id not in machine.disks.volumes
        control.volume_reports.clear()


@pytest.mark.slow
async def test_f16_a_hung_call_delays_no_other(
    machine: Machine, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nubila.agent.hands.DEADLINE_S", 0.3)
    machine.domains.script.delay("start", 2.0, 6)
    hung = [vm() for _ in range(6)]  # more than workers
    control.wish(*hung)
    await asyncio.sleep(0.1)
    others = [vm() for _ in range(5)]
    control.wish(*others)
    await until(lambda: all(on(control, w)() for w in others), 1.9)
    await until(lambda: all(control.reports[w.vm_id].failing for w in hung), 2.0)
    assert "unresponsive" in (control.reports[hung[0].vm_id].reason or "")
    await until(lambda: all(on(control, w)() for w in hung))
    assert all(machine.boots(w.vm_id) == 1 for w in hung + others)
    await until(lambda: machine.agent.pool.lost == 0)  # type: ignore[union-attr]


async def test_f16_a_poisoned_vm_stops_no_other(machine: Machine, control: Control) -> None:
    bad = vm(nics=())
    bad = vm(vm_id="vm-not-an-id")
    good = vm()
    control.wish(bad, good)
    await until(on(control, good))
    await until(lambda: bad.vm_id in control.reports and control.reports[bad.vm_id].failing)


async def test_f16_a_vm_that_needs_more_memory_than_there_is_stops_no_other(
    machine: Machine, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An allocation that cannot be is a fault of that vm: it fails with its reason, and is tried again ever more rarely."""
    bad, good = vm(), vm()
    started = FakeHypervisor.start

    def greedy(driver: FakeHypervisor, domain: Domain) -> None:
        if domain.vm_id == bad.vm_id:
            bytes(1 << 60)
        started(driver, domain)

    monkeypatch.setattr(FakeHypervisor, "start", greedy)
    control.wish(bad, good)
    await until(on(control, good))
    await until(lambda: bad.vm_id in control.reports and control.reports[bad.vm_id].failing)
    assert "MemoryError" in (control.reports[bad.vm_id].reason or "")
    more = vm()
    control.wish(more)
    await until(on(control, more))


async def test_console_is_answered_at_once(machine: Machine, control: Control) -> None:
    wish = vm()
    control.wish(wish)
    await until(on(control, wish))
    machine.domains.console[wish.vm_id] = b"Debian GNU/Linux\r\n\xff login:"
    question = control.ask(wish.vm_id)
    answer = await until(lambda: control.answers.get(question), 1.0)
    assert answer.text.startswith("Debian") and answer.error is None


async def test_lost_dhcp_and_port_are_made_again(machine: Machine, control: Control) -> None:
    wish = vm()
    control.wish(wish)
    await until(on(control, wish))
    machine.wires.ports.drop(wish.nics[0].port_id)
    machine.wires.not_serving.add(wish.nics[0].network.network_id)
    machine.agent.observer.last_s["network"] = 0.0  # type: ignore[union-attr]
    await until(lambda: wish.nics[0].port_id in machine.wires.ports)
    assert not machine.wires.not_serving
    assert machine.boots(wish.vm_id) == 1
