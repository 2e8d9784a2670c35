"""Drift as an agent tells it: what somebody changed, added or took away on the node, and what a repair does."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from agent_control import Control, vm
from agent_machine import Machine, on, until

from nubila.agent import observer
from nubila.agent.drift import PARTS, Ledger, compare, foreign
from nubila.drivers.hypervisor.base import Shape, Shaped
from nubila.protocol import Drift, Vm

SHAPE = Shape(cores=1, memory_mib=256, disks=("/a",), nics=("52:54:00:00:00:01",))


@pytest.fixture(autouse=True)
def _look_at_all_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observer, "SHAPES_S", 0.2)
    monkeypatch.setattr(observer, "NETWORK_S", 0.2)
    monkeypatch.setattr(observer, "STORAGE_S", 0.2)
    monkeypatch.setattr("nubila.agent.node.SWEEP_S", 0.2)


def told(control: Control) -> dict[tuple[str, str], Drift] | None:
    """What the newest report that spoke of drifts said, by thing and field."""
    for post in reversed(control.posts):
        if post.drifts is not None:
            return {(d.thing, d.field): d for d in post.drifts}
    return None


async def runs(control: Control, wish: Vm) -> str:
    control.wish(wish)
    await until(on(control, wish))
    return f"{wish.vm_id}.e{wish.epoch}"


@pytest.mark.slow
async def test_a_domain_changed_by_hand_is_told_field_by_field_and_repaired(machine: Machine, control: Control) -> None:
    wish = vm()
    name = await runs(control, wish)
    await until(lambda: told(control) == {})
    was = machine.domain(wish.vm_id).defined
    assert was is not None
    mac = "52:54:00:de:ad:01"
    machine.domains.change(wish.vm_id, cores=3, title="mine", autostart=True)
    machine.domains.change(wish.vm_id, live=True, nics=tuple(sorted((*was.nics, mac))))
    found = await until(lambda: (t := told(control)) and len(t) == 4 and t)
    assert {f: (d.wished, d.observed, d.cause) for (_, f), d in found.items()} == {
        "cores": ("1", "3", "changed-outside"),
        "title": ("", "mine", "changed-outside"),
        "autostart": ("no", "yes", "changed-outside"),
        f"interface {mac}": ("", mac, "changed-outside"),
    }
    assert {d.vm_id for d in found.values()} == {wish.vm_id}
    assert {thing for thing, _ in found} == {name}
    volume_id = wish.disks[0].volume_id
    machine.domains.change(wish.vm_id, live=True, media="/tmp/theirs.iso", limits=((volume_id, "write_iops=7"),))
    machine.domains.change(wish.vm_id, boot=("cdrom", "disk"))
    found = await until(lambda: (t := told(control)) and len(t) == 7 and t)
    assert {f: (d.wished, d.observed, d.cause) for (_, f), d in found.items() if f.split()[0] in ("media", "limits", "boot")} == {
        "media": ("", "/tmp/theirs.iso", "changed-outside"),
        f"limits of {volume_id}": ("none", "write_iops=7", "changed-outside"),
        "boot": ("disk", "cdrom disk", "changed-outside"),
    }  # fmt: skip
    control.change(wish.vm_id, repairs=1)
    await until(lambda: control.reports[wish.vm_id].repairs == 1)
    assert machine.domain(wish.vm_id).defined == was
    assert machine.domain(wish.vm_id).live == was
    assert machine.boots(wish.vm_id) == 1  # it ran on
    await until(lambda: told(control) == {})


async def test_a_repair_is_made_once_and_not_again_by_the_next_agent(machine: Machine, control: Control) -> None:
    wish = vm()
    await runs(control, wish)
    control.change(wish.vm_id, repairs=1)
    await until(lambda: control.reports[wish.vm_id].repairs == 1)
    assert machine.domains.script.calls["repair"] == 1
    await machine.kill()
    machine.start()
    await until(lambda: control.session == 2 and control.reports[wish.vm_id].repairs == 1)
    control.change(wish.vm_id, repairs=2)
    await until(lambda: control.reports[wish.vm_id].repairs == 2)
    assert machine.domains.script.calls["repair"] == 2


async def test_a_repair_that_fails_is_tried_again_and_says_why(machine: Machine, control: Control) -> None:
    wish = vm()
    await runs(control, wish)
    machine.domains.script.fail("repair", reason="libvirt is tired")
    control.change(wish.vm_id, repairs=1)
    await until(lambda: control.reports[wish.vm_id].reason == "libvirt is tired")
    assert control.reports[wish.vm_id].repairs == 0
    await until(lambda: control.reports[wish.vm_id].repairs == 1)
    assert control.reports[wish.vm_id].reason is None


async def test_what_is_foreign_is_told_and_left_alone(machine: Machine, control: Control) -> None:
    machine.domains.add_foreign("theirs")
    machine.wires.foreign = ("nbb-theirs",)
    machine.disks.foreign = ("volumes/notes.txt",)
    await until(lambda: len(told(control) or {}) == 3)
    found = told(control) or {}
    assert {(d.kind, d.thing, d.cause) for d in found.values()} == {
        ("domain", "theirs", "foreign"),
        ("link", "nbb-theirs", "foreign"),
        ("file", "volumes/notes.txt", "foreign"),
    }
    calls = machine.domains.script.calls
    assert (calls["remove"], calls["destroy"], calls["repair"]) == (0, 0, 0)


async def test_a_new_agent_never_takes_a_line_back_that_still_holds(machine: Machine, control: Control) -> None:
    """A line that went and came again would lose its 'since'."""
    wish = vm()
    await runs(control, wish)
    machine.domains.change(wish.vm_id, memory_mib=64)
    await until(lambda: told(control))
    before = len(control.posts)
    await machine.kill()
    machine.start()
    await until(lambda: control.session == 2 and any(p.drifts is not None for p in control.posts[before:]))
    assert [len(p.drifts) for p in control.posts[before:] if p.drifts is not None] == [1]


async def test_without_news_the_ledger_is_sent_once_in_a_session(machine: Machine, control: Control) -> None:
    wish = vm()
    await runs(control, wish)
    await until(lambda: told(control) == {})
    for n in range(3):
        control.change(wish.vm_id, name=f"other{n}")
        await until(lambda n=n: control.reports[wish.vm_id].generation == n + 2)
    assert sum(p.drifts is not None for p in control.posts) == 1


@pytest.mark.slow
async def test_a_running_domain_gets_its_wires_back_after_a_tap_was_removed(machine: Machine, control: Control) -> None:
    """Mutant: without the step, the tap is made anew and the guest stays cut off."""
    wish = vm()
    await runs(control, wish)
    machine.domains.script.fail("rewire", reason="the guest does not let go")
    machine.domains.unwired.add(wish.vm_id)
    machine.wires.ports.drop(wish.nics[0].port_id)
    await until(lambda: control.reports[wish.vm_id].reason == "the guest does not let go")
    await until(lambda: not machine.domains.unwired)
    await until(lambda: control.reports[wish.vm_id].reason is None)
    assert wish.nics[0].port_id in machine.wires.ports
    assert machine.boots(wish.vm_id) == 1
    calls = machine.domains.script.calls["rewire"]
    await asyncio.sleep(0.6)
    assert machine.domains.script.calls["rewire"] == calls == 2


async def test_a_lost_disk_is_told(machine: Machine, control: Control) -> None:
    wish = vm()
    await runs(control, wish)
    volume_id = wish.disks[0].volume_id
    machine.disks.volumes.drop(volume_id)
    found = await until(lambda: (told(control) or {}).get((volume_id, "there")))
    assert (found.kind, found.wished, found.observed, found.cause) == ("volume", "there", "", "missing")


def test_what_only_the_running_domain_lacks_waits_for_the_next_start() -> None:
    """The wish grew while it ran: its definition has it already."""
    found = Shaped(vm_id="vm-1", epoch=1, defined=SHAPE, live=msgspec.structs.replace(SHAPE, cores=2, disks=()))
    lines = compare("vm-1", SHAPE, found)
    assert {(d.field, d.wished, d.observed, d.cause) for d in lines} == {
        ("cores", "1", "2", "next-start"),
        ("disk /a", "/a", "", "next-start"),
    }


def test_what_a_vm_that_is_off_gets_at_its_start_is_no_drift() -> None:
    """Mutant: without that, each disk that is attached to a stopped VM would stand in the ledger until its start."""
    wished = msgspec.structs.replace(SHAPE, disks=("/a", "/b"), limits=(("vol-a", "read_iops=5"),), boot=("cdrom",))
    off = Shaped(vm_id="vm-1", epoch=1, defined=SHAPE)
    assert {(d.field, d.cause) for d in compare("vm-1", wished, off)} == {("boot", "changed-outside")}
    on = Shaped(vm_id="vm-1", epoch=1, defined=SHAPE, live=SHAPE)
    assert {d.field for d in compare("vm-1", wished, on)} == {"boot", "disk /b", "limits of vol-a"}


def test_what_its_agent_changes_while_it_runs_waits_for_no_start() -> None:
    live = msgspec.structs.replace(SHAPE, media="/x.iso", limits=(("vol-a", "read_iops=5"),), boot=("cdrom", "disk"))
    found = compare("vm-1", SHAPE, Shaped(vm_id="vm-1", epoch=1, defined=SHAPE, live=live))
    assert {d.field: d.cause for d in found} == {
        "media": "changed-outside", "limits of vol-a": "changed-outside", "boot": "next-start",
    }  # fmt: skip


def test_nothing_is_told_before_every_part_was_looked_at_twice() -> None:
    """Mutant: without the second look, what is on its way would be told; without the parts, lines would flicker."""
    ledger = Ledger()
    line = foreign("domain", ["x"])
    for part in sorted(PARTS - {"shapes"}):
        ledger.look(part, [], at_once=True)
    assert ledger.news() is None
    ledger.look("shapes", line)
    assert ledger.news() is None
    ledger.look("shapes", [])
    assert ledger.news() == ()
    ledger.look("shapes", line)
    assert ledger.news() == ()
    ledger.look("shapes", line)
    news = ledger.news()
    assert news == tuple(line)
    ledger.told(news)
    assert ledger.news() is None
    ledger.session()
    assert ledger.news() == tuple(line)
