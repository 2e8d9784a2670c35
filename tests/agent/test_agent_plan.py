"""The plan is pure, so whole lives of a vm are tried against a world of a few lines, with everything going wrong."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from agent_world import World, wish
from hypothesis import given, settings
from hypothesis import strategies as st

from nubila.agent import account, effects
from nubila.agent import plan as planning
from nubila.agent import steps as p
from nubila.agent.known import Ask, Record
from nubila.drivers.hypervisor.base import Found

EVENTS: dict[str, Any] = {
    "on": lambda w: wish(w, power="on", starts=w.wanted.starts + 1),
    "off": lambda w: wish(w, power="off"),
    "off-hard": lambda w: wish(w, power="off", stop_mode="hard"),
    "reboot": lambda w: wish(w, reboots=w.wanted.reboots + 1),
    "reset": lambda w: wish(w, resets=w.wanted.resets + 1),
    "suspend": lambda w: wish(w, suspended=True),
    "resume": lambda w: wish(w, suspended=False),
    "policy-stop": lambda w: wish(w, on_crash="stop"),
    "policy-preserve": lambda w: wish(w, on_crash="preserve"),
    "panic": World.panic,
    "gone": lambda w: wish(w, gone=True),
    "crash": lambda w: w.running and w.end("crashed"),
    "guest-shutdown": lambda w: w.running and w.end("guest-shutdown"),
    "host-boot": lambda w: (w.end(None), w.restart_agent()),
    "agent-restart": World.restart_agent,
    "deaf": lambda w: setattr(w, "deaf", True),
    "hears": lambda w: setattr(w, "deaf", False),
    "link-lost": lambda w: setattr(w, "fresh", False),
    "link-lost-for-long": lambda w: w.link(fresh=False, alone=True),
    "link-back": lambda w: w.link(fresh=True, alone=False),
    "look": World.observe,
    "step": World.step,
}


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(sorted(EVENTS)), max_size=25))
def test_every_life_ends_as_wished(events: list[str]) -> None:
    world = World()
    for event in events:
        EVENTS[event](world)
    EVENTS["link-back"](world)
    world.observe()
    world.settle()
    assert world.plan() == []  # a perfect world needs nothing
    if world.wanted.gone:
        assert not world.defined and not world.volumes
    elif world.wanted.power == "off":
        assert not world.running
    else:
        halted = world.record.halted == world.record.starts
        assert world.running or halted
        assert world.record.starts == world.wanted.starts
        if world.running:
            kept = world.paused is not None  # what stands still is neither rebooted nor reset
            assert kept or world.record.reboots == world.wanted.reboots
            assert kept or world.record.resets == world.wanted.resets
            assert (world.paused == "suspended") == (world.wanted.suspended and world.paused != "panicked")
            assert world.paused != "panicked" or world.wanted.on_crash != "restart"
    assert len(world.resets) == len(set(world.resets))
    # a number is acted on at most once, but for the reset that follows an agent that did not help
    assert world.noted_reboots == sorted(set(world.noted_reboots))
    asked = [a for a in world.reboot_asks if a[1] == "agent"]
    assert len(asked) == len(set(asked))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["crash", "step", "look", "guest-shutdown"]), max_size=20))
def test_not_fresh_and_not_alone_starts_nothing(events: list[str]) -> None:
    world = World()
    world.settle()
    starts = world.starts
    world.fresh = False
    for event in events:
        EVENTS[event](world)
    assert world.starts == starts


def test_create_ensures_first_and_starts_last() -> None:
    world = World()
    assert [type(s) for s in world.plan()] == [p.Image]
    world.step()
    steps = world.plan()
    assert [type(s) for s in steps] == [p.Note, p.Volume, p.Network, p.Port, p.Seed, p.Start]
    assert steps[0] == p.Note(starts=1, reboots=0, rebooted=0, resets=0, reset_done=0)


def test_adoption_serves_and_starts_nothing() -> None:
    world = World()
    world.settle()
    world.restart_agent()
    world.fresh = False
    assert [type(s) for s in world.plan()] == [p.Network, p.Port, p.Rewire]


def test_a_changed_port_is_made_anew_and_keeps_its_tap() -> None:
    world = World()

    def active() -> tuple[str, ...]:
        said = account.report(world.wanted, world.facts, world.record, world.trail, account.Work())
        return said.ports_active

    world.settle()
    (nic,) = world.wanted.nics
    assert active() == (nic.port_id,)
    changed = msgspec.structs.replace(nic, in_kbit=5000, groups=("security_group-1",))
    wish(world, nics=(changed,))
    assert world.plan() == [p.Port(changed)]  # and no interface is plugged out and in
    assert active() == ()
    world.step()
    assert active() == (nic.port_id,)
    assert world.plan() == []
    assert not world.facts.unwired


def test_a_stopped_vm_gets_its_changed_port_when_it_starts() -> None:
    world = World()
    world.settle()
    wish(world, power="off", stop_mode="hard")
    world.settle()
    (nic,) = world.wanted.nics
    changed = msgspec.structs.replace(nic, out_kbit=5000)
    wish(world, nics=(changed,))
    assert world.plan() == []
    wish(world, power="on", starts=world.wanted.starts + 1)
    assert p.Port(changed) in world.plan()


def test_stop_goes_from_agent_to_button_to_plug() -> None:
    world = World()
    world.settle()
    wish(world, power="off", stop_timeout_s=12.0)
    world.deaf = True
    asked: list[Any] = []
    for _ in range(20):
        asked += [s for s in world.plan() if not isinstance(s, p.Wait)]
        if not world.step():
            break
    told = p.Note(asked=True)  # on disk before it is told
    assert asked == [told, p.AskStop("agent"), p.AskStop("acpi"), p.AskStop("acpi"), p.AskStop("acpi"), p.Destroy()]


@pytest.fixture(autouse=True)
def _real_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "CRASH_BACKOFF_S", (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0))


@pytest.mark.parametrize(("crashes", "wait_s"), [(1, 1.0), (2, 2.0), (4, 8.0), (7, 60.0), (50, 60.0)])
def test_crash_backoff(crashes: int, wait_s: float) -> None:
    world = World()
    world.settle()
    for _ in range(crashes):
        world.end("crashed")
        world.observe()
        ended_s = world.now_s
        while not world.running:
            world.step()
    assert world.now_s - ended_s == wait_s


@pytest.mark.parametrize("changes", [{}, {"gone": True}, {"power": "off"}])
def test_a_newer_epoch_is_left_alone(changes: dict[str, Any]) -> None:
    world = World()
    world.settle()
    world.facts.domain = Found(vm_id=world.wanted.vm_id, epoch=2, running=True)
    wish(world, **changes)
    assert world.plan() == [p.Blocked(planning.NEWER)]


def test_an_older_epoch_is_removed_before_anything_else_and_only_when_fresh() -> None:
    world = World()
    world.settle()
    wish(world, epoch=2)
    assert world.plan() == [p.RemoveDomain()]
    world.fresh = False
    assert world.plan() == []


def test_reset_follows_when_the_agent_stays_silent() -> None:
    world = World()
    world.settle()
    wish(world, reboots=1, reboot_timeout_s=30.0)
    assert world.plan() == [p.Note(reboots=1), p.AskReboot("agent")]
    world.record = p.apply_note(world.record, p.Note(reboots=1))
    world.trail.reboot = p_ask = Ask("agent", world.now_s)  # the call has not come back
    assert world.plan() == [p.Wait(p_ask.at_s + 30.0)]
    world.now_s += 31
    assert world.plan() == [p.AskReboot("reset")]


@pytest.mark.parametrize("killed", [True, False])
def test_a_reset_is_done_once_or_its_outcome_is_unknown(killed: bool) -> None:
    world = World()
    world.settle()
    wish(world, resets=1)
    assert world.plan() == [p.Note(resets=1), p.Reset()]
    if killed:  # after the number was written, before or after the reset: nobody knows
        world.record = p.apply_note(world.record, p.Note(resets=1))
        world.restart_agent()
    else:
        world.step()
    world.settle()
    assert world.resets == ([] if killed else [1])
    said = account.report(world.wanted, world.facts, world.record, world.trail, account.Work())
    assert (said.resets, said.reason) == (1, account.RESET_UNKNOWN if killed else None)


@pytest.mark.parametrize(
    ("policy", "how", "stays"),
    [("restart", "crashed", False), ("restart", "panicked", False), ("stop", "crashed", True), ("stop", "panicked", True), ("preserve", "crashed", True)],
)  # fmt: skip
def test_what_follows_a_crash(policy: str, how: str, stays: bool) -> None:
    world = World()
    world.settle()
    wish(world, on_crash=policy)
    world.end(how)
    world.observe()
    world.settle()
    assert world.running is not stays
    said = account.report(world.wanted, world.facts, world.record, world.trail, account.Work())
    assert effects.CRASHED[how] in (said.last_crash or "")
    assert said.reason == (account.HALTED[how] if stays else None)
    world.restart_agent()
    world.settle()
    assert world.running is not stays
    wish(world, starts=2)
    world.settle()
    assert world.running


def test_a_suspended_vm_that_ends_is_stopped_with_the_reason() -> None:
    world = World()
    world.settle()
    wish(world, suspended=True)
    world.settle()
    assert world.paused == "suspended"
    world.end(None)
    world.restart_agent()
    world.settle()
    assert not world.running
    said = account.report(world.wanted, world.facts, world.record, world.trail, account.Work())
    assert (said.power, said.reason, said.failing) == ("off", account.HALTED["suspended"], False)


def test_an_unchanged_power_state_keeps_its_time() -> None:
    record = Record(power="on", since="2026-01-01T00:00:00Z")
    assert effects.power(record, True) == {}
    assert effects.power(record, False)["power"] == "off"
    assert effects.power(Record(), False)["since"] is not None


def test_a_stop_that_waits_for_its_guest_says_until_when() -> None:
    world = World()
    world.settle()
    said = account.report(world.wanted, world.facts, world.record, world.trail, account.Work())
    assert said.doing is None
    world.deaf = True
    wish(world, power="off", stop_mode="clean", stop_timeout_s=45.0)
    world.step()
    assert world.running
    said = account.report(world.wanted, world.facts, world.record, world.trail, account.Work())
    assert "its power is cut after 45 s" in (said.doing or "")
