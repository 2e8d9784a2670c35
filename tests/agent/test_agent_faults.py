"""What an agent survives: its own end, the host's, the control plane's, and messages that are lost, late or repeated."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
import pytest
from agent_control import Control, vm
from agent_machine import Machine, on, until

from nubila import protocol
from nubila.agent import right
from nubila.agent.account import GUEST_SHUT_DOWN, REBOOT_UNKNOWN
from nubila.drivers.hypervisor.base import Domain


@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_f26_agent_ends_and_adopts(machine: Machine, control: Control, how: str) -> None:
    wishes = [vm() for _ in range(20)]
    control.wish(*wishes)
    await until(lambda: all(on(control, w)() for w in wishes))
    await until(lambda: all(r.addressed_at and r.guest_agent for r in control.reports.values()))
    before = dict(control.reports)
    starts = machine.domains.script.calls["start"]
    await getattr(machine, how)()
    control.reports.clear()
    began = time.monotonic()
    machine.start()
    await until(lambda: len(control.reports) == 20 and all(on(control, w)() for w in wishes), 10.0)
    assert time.monotonic() - began < 10.0
    assert machine.domains.script.calls["start"] == starts
    assert all(machine.boots(w.vm_id) == 1 for w in wishes)
    await until(lambda: control.reports == before)  # nothing to tell the fabric that it did not know


async def test_host_boot_control_plane_up(machine: Machine, control: Control) -> None:
    wishes = [vm() for _ in range(3)]
    control.wish(*wishes)
    await until(lambda: all(on(control, w)() for w in wishes))
    await machine.kill()
    machine.domains.host_boot()
    off = control.change(wishes[0].vm_id, power="off")  # while the host was down
    machine.start()
    await until(lambda: all(machine.running(w.vm_id) for w in wishes[1:]))
    await asyncio.sleep(0.2)
    assert not machine.running(off.vm_id)
    assert [machine.boots(w.vm_id) for w in wishes] == [1, 2, 2]


async def test_disks_that_the_first_look_after_a_boot_did_not_show_start_their_vm_later(
    machine: Machine, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool fails one look; what was said to be lost by that is started when the next one shows it."""
    monkeypatch.setattr("nubila.agent.observer.AGAIN_S", 0.3)
    wish = vm()
    control.wish(wish)
    await until(on(control, wish))
    await machine.kill()
    machine.domains.host_boot()
    machine.disks.script.fail("observe")
    machine.start()
    await until(lambda: machine.running(wish.vm_id))
    await until(on(control, wish))


async def test_host_boot_control_plane_away(
    machine: Machine, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, stopped = vm(), vm(power="off", starts=0)
    control.wish(running, stopped)
    await until(on(control, running))
    await machine.kill()
    control.set_down(True)
    machine.domains.host_boot()
    monkeypatch.setattr(right, "ALONE_AFTER_S", 0.6)
    machine.start()
    await asyncio.sleep(0.4)
    assert not machine.running(running.vm_id)  # the control plane may still answer
    await until(lambda: machine.running(running.vm_id))
    assert not machine.running(stopped.vm_id)


async def test_nothing_is_stopped_or_removed_without_a_fresh_answer(
    machine: Machine, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(right, "ALONE_AFTER_S", 0.1)
    wishes = [vm() for _ in range(3)]
    control.wish(*wishes)
    await until(lambda: all(on(control, w)() for w in wishes))
    agent = machine.agent
    assert agent is not None
    control.set_down(True)
    await machine.kill()
    # What it had been told, as it stands on disk when the control plane is away.
    kept = machine.start
    told: tuple[dict[str, Any], ...] = ({"power": "off"}, {"gone": True}, {"reboots": 1})
    for wish, changes in zip(wishes, told, strict=True):
        entry = agent.wishes.entries[wish.vm_id]
        entry.vm = msgspec.structs.replace(entry.vm, generation=2, **changes)
    journal = machine.directory / "wishes"
    agent.wishes._journal._path = journal
    agent.wishes._journal.close()
    for _ in agent.wishes._journal.open():
        pass
    agent.wishes._journal.compact(
        [msgspec.json.encode({"vm_id": k, "vm": e.vm, "record": e.record}) for k, e in agent.wishes.entries.items()]
    )
    kept()
    await asyncio.sleep(0.8)
    assert all(machine.running(w.vm_id) for w in wishes)
    assert machine.domains.script.calls["ask_reboot"] == 0
    assert wishes[1].disks[0].volume_id in machine.disks.volumes


async def test_crash_without_control_plane_is_restarted(
    machine: Machine, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    wish = vm()
    control.wish(wish)
    await until(on(control, wish))
    monkeypatch.setattr(right, "FRESH_S", 0.2)
    monkeypatch.setattr(right, "ALONE_AFTER_S", 0.3)
    control.set_down(True)
    await asyncio.sleep(0.5)
    machine.domains.crash(wish.vm_id)
    await until(lambda: machine.boots(wish.vm_id) == 2)


async def test_guest_shutdown_is_remembered_when_the_host_forgets(machine: Machine, control: Control) -> None:
    wish = vm()
    control.wish(wish)
    await until(on(control, wish))
    machine.domains.guest_shutdown(wish.vm_id)
    await until(lambda: control.reports[wish.vm_id].reason == GUEST_SHUT_DOWN)
    await machine.kill()
    machine.domains.domains.put(wish.vm_id, msgspec.structs.replace(machine.domain(wish.vm_id), reason=None))
    control.reports.clear()
    machine.start()
    await until(lambda: wish.vm_id in control.reports)
    await asyncio.sleep(0.2)
    assert control.reports[wish.vm_id].reason == GUEST_SHUT_DOWN
    assert machine.boots(wish.vm_id) == 1


async def test_killed_in_a_reboot_it_is_not_repeated(machine: Machine, control: Control) -> None:
    wish = vm()
    control.wish(wish)
    await until(on(control, wish))
    machine.domains.script.delay("ask_reboot", 0.4, 1)
    control.change(wish.vm_id, reboots=1)
    await until(lambda: machine.domains.script.calls["ask_reboot"] == 1)
    await machine.kill()
    machine.start()
    await until(lambda: control.reports[wish.vm_id].reboots == 1)
    await asyncio.sleep(0.5)
    assert machine.domains.script.calls["ask_reboot"] == 1
    assert control.reports[wish.vm_id].reason == REBOOT_UNKNOWN
    control.change(wish.vm_id, reboots=2)
    await until(lambda: control.reports[wish.vm_id].reboots == 2 and control.reports[wish.vm_id].reason is None)


async def test_a_reboot_behind_other_steps_is_noted_before_it_too(machine: Machine, control: Control) -> None:
    """A new agent makes the ports sure first; the number must be on disk all the same before the guest is asked."""
    wish = vm()
    control.wish(wish)
    await until(on(control, wish))
    await machine.kill()
    machine.wires.ports.drop(wish.nics[0].port_id)
    control.change(wish.vm_id, reboots=1)
    machine.domains.script.delay("ask_reboot", 0.4, 1)
    machine.start()
    await until(lambda: machine.domains.script.calls["ask_reboot"] == 1)
    await machine.kill()
    machine.start()
    await until(lambda: control.reports[wish.vm_id].reboots == 1)
    await asyncio.sleep(0.5)
    assert machine.domains.script.calls["ask_reboot"] == 1


async def test_f13_no_notification_arrives(machine: Machine, control: Control) -> None:
    control.notify = False
    wish = vm()
    control.wish(wish)
    await until(on(control, wish), 30.0)
    control.change(wish.vm_id, power="off")
    await until(lambda: control.reports[wish.vm_id].power == "off", 30.0)


async def test_lost_replies_and_control_plane_restarts(machine: Machine, control: Control) -> None:
    control.lose_replies = 2
    wishes = [vm() for _ in range(10)]
    control.wish(*wishes)
    await until(lambda: all(on(control, w)() for w in wishes))
    control.set_down(True)
    await asyncio.sleep(0.3)
    machine.domains.crash(wishes[0].vm_id)
    control.set_down(False)
    await until(lambda: machine.boots(wishes[0].vm_id) == 2)
    assert control.session == 1  # the session outlives the connection
    assert all(machine.boots(w.vm_id) == 1 for w in wishes[1:])


async def test_f14_late_and_repeated_answers_change_nothing(
    machine: Machine, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nubila.agent.link.BACKOFF_S", (0.01,))
    wish = vm()
    control.wish(wish)
    await until(on(control, wish))
    old = control.wanted(0)
    now = control.change(wish.vm_id, power="off")
    await until(lambda: control.reports[wish.vm_id].power == "off")
    late = [
        msgspec.structs.replace(old, full=False),
        old,
        _with(old, generation=99, session=99),
        _with(old, generation=99, region="another"),
        _with(old, generation=99, fabric_epoch=0),
        _with(old, generation=99, timeline=0),
        msgspec.structs.replace(old, revision=99),  # newer revision, older object
    ]
    for answer in late:
        control.canned.extend([answer] * 3)
    await until(lambda: not control.canned, 30.0)
    assert control.revision < 99
    await asyncio.sleep(0.3)
    assert not machine.running(wish.vm_id)
    assert machine.boots(wish.vm_id) == 1
    assert machine.agent is not None and machine.agent.wishes.entries[wish.vm_id].vm == now


def _with(answer: protocol.Wanted, *, generation: int, **changes: int | str) -> protocol.Wanted:
    """The same answer as a database that fell behind would give it: old, and it looks new."""
    vms = tuple(msgspec.structs.replace(v, generation=generation) for v in answer.vms)
    return msgspec.structs.replace(answer, vms=vms, revision=99, **changes)


@pytest.mark.slow
async def test_what_was_allowed_is_not_carried_out_later(
    machine: Machine, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a long pause of the agent: the first action waits for a new answer."""
    wish = vm()
    control.wish(wish)
    await until(on(control, wish))
    machine.domains.deaf.add(wish.vm_id)
    monkeypatch.setattr(right, "FRESH_S", 0.3)
    control.change(wish.vm_id, power="off", stop_timeout_s=1.0)
    await until(lambda: machine.domains.script.calls["ask_stop"] == 1)
    control.set_down(True)
    await asyncio.sleep(1.5)
    assert machine.running(wish.vm_id)
    control.set_down(False)
    await until(lambda: not machine.running(wish.vm_id))


async def test_a_new_session_begins_with_no_right_to_act(machine: Machine, control: Control) -> None:
    wish = vm()
    control.wish(wish)
    await until(on(control, wish))
    agent = machine.agent
    assert agent is not None

    def rights() -> tuple[bool, bool]:
        return agent.lanes.lanes[wish.vm_id].confirmed, agent.lanes.right.heard_s is not None

    assert rights() == (True, True)
    agent.on_session(protocol.Welcome(session=control.session, fabric_epoch=1, region="r"))
    assert rights() == (False, False)


async def test_nothing_starts_before_its_number_is_on_disk(
    machine: Machine, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = machine.agent
    assert agent is not None
    order: list[str] = []
    durable, start = agent.wishes.durable, agent.drivers.hypervisor.start

    def slow(number: int) -> None:
        time.sleep(0.2)
        durable(number)
        order.append("durable")

    def started(domain: Domain) -> None:
        order.append("start")
        start(domain)

    monkeypatch.setattr(agent.hands, "_durable", slow)
    monkeypatch.setattr(agent.drivers.hypervisor, "start", started)
    wish = vm()
    control.wish(wish)
    await until(on(control, wish))
    assert order == ["durable", "start"]


async def test_an_agent_that_comes_back_on_another_machine_leaves(machine: Machine, control: Control) -> None:
    with control.changed:
        control.refuse = (409, "wrong-machine")
        control.changed.notify_all()
    await until(lambda: machine.codes == [3], 3.0)


async def test_f35_the_older_of_two_agents_leaves(machine: Machine, control: Control) -> None:
    with control.changed:
        control.session += 1  # another agent with this identity said hello
        control.changed.notify_all()
    await until(lambda: machine.codes == [3], 3.0)


@pytest.mark.slow
async def test_heartbeats_come_without_news(
    machine: Machine, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nubila.agent.reports.HEARTBEAT_S", 0.2)
    wish = vm()
    control.wish(wish)
    await until(on(control, wish))
    await until(lambda: control.reports[wish.vm_id].addressed_at)
    count = len(control.posts)
    await asyncio.sleep(1.2)
    later = control.posts[count:]
    assert 3 <= len(later) <= 8
    assert all(not p.vms for p in later)


@pytest.mark.slow
async def test_too_many_hung_calls_and_it_starts_itself_anew(
    machine: Machine, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nubila.agent.hands.DEADLINE_S", 0.2)
    monkeypatch.setattr("nubila.agent.node.LOST_THREADS_MAX", 3)
    machine.domains.script.delay("start", 1.5, 5)
    control.wish(*[vm() for _ in range(5)])
    await until(lambda: machine.codes[:1] == [None])
    await asyncio.sleep(1.5)  # the calls that hung come back


@pytest.mark.slow
async def test_what_was_taken_is_not_told_again(machine: Machine, control: Control) -> None:
    wish = vm()
    control.wish(wish)
    await until(lambda: on(control, wish)() and control.reports[wish.vm_id].guest_agent)
    agent = machine.agent
    assert agent is not None
    await asyncio.sleep(1.2)  # what the guest shows of itself is told after a while
    told = len(control.history)
    for _ in range(5):
        agent.reporter.changed(wish.vm_id)
        agent.lanes.kick_all()
        await asyncio.sleep(0.02)
    assert len(control.history) == told


async def test_a_failing_vm_waits_for_its_turn_whatever_else_happens(machine: Machine, control: Control) -> None:
    machine.domains.script.fail("start", 1, "not now")
    wish = vm()
    control.wish(wish)
    await until(lambda: wish.vm_id in control.reports and control.reports[wish.vm_id].failing)
    assert machine.agent is not None
    for _ in range(10):
        machine.agent.lanes.kick_all()
        await asyncio.sleep(0.01)
    assert machine.domains.script.calls["start"] == 1
    await until(on(control, wish))


async def test_a_call_that_had_its_effect_is_no_trouble_though_its_replies_were_lost(
    machine: Machine, control: Control
) -> None:
    machine.domains.script.lose_reply("start", times=2)
    wish = vm()
    control.wish(wish)
    await until(lambda: wish.vm_id in control.reports and control.reports[wish.vm_id].failing)
    await until(lambda: not control.reports[wish.vm_id].failing)
    assert control.reports[wish.vm_id].reason is None
    assert on(control, wish)()
