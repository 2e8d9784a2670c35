"""What a lane learns from a job and from looking at the world. PURE but for the facts and trail given: called by the
lanes and by the observer in the event loop's thread.

A literal table says for each step what is true once it came back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec

from nubila.agent import plan_port
from nubila.agent import steps as p
from nubila.agent.hands import Job
from nubila.agent.known import Ask, Facts, Record, Trail, disk_key, port_key
from nubila.agent.plan import GUEST_SHUTDOWN, IO_ERROR, PANICKED, SUSPENDED
from nubila.agent.plan_disk import limits
from nubila.drivers.hypervisor.base import Found, Held
from nubila.protocol import Vm

CRASHED: dict[str, str] = {"crashed": "its QEMU process ended unexpectedly", PANICKED: "the guest's kernel panicked"}
STEADY_S = 60.0  # after running that long, earlier crashes no longer count

Effect = Callable[[Facts, Trail, Vm, Any, Any, float], None]


def _started(facts: Facts, trail: Trail, vm: Vm, step: p.Start, answer: None, at_s: float) -> None:
    disks = {d.volume_id: Held(epoch=d.epoch, limits=limits(d), cache=d.cache) for d in vm.disks}
    nics = tuple(n.mac.lower() for n in vm.wired)
    facts.domain = Found(vm_id=vm.vm_id, epoch=vm.epoch, running=True, disks=disks, nics=nics)
    trail.disks, trail.ports = {}, {}
    facts.unwired = False
    trail.started_s, trail.ended_s, trail.reboot, trail.reset, trail.asks = at_s, None, None, None, ()
    trail.heeds_until_s = None


def _ended(facts: Facts, trail: Trail, vm: Vm, step: p.Destroy, answer: None, at_s: float) -> None:
    if facts.domain is not None:
        if facts.domain.paused == PANICKED:  # what was ended had ended by itself before
            _count_end(trail, facts.domain, at_s)
        facts.domain = msgspec.structs.replace(
            facts.domain, running=False, pid=None, reason="destroyed", guest_agent=False, paused=None
        )
    trail.asks = ()


def _removed(facts: Facts, trail: Trail, vm: Vm, step: p.RemoveDomain, answer: None, at_s: float) -> None:
    facts.domain = None


def _volume(facts: Facts, trail: Trail, vm: Vm, step: p.Volume, answer: str, at_s: float) -> None:
    facts.volumes[step.disk.volume_id] = answer


def _plugged(facts: Facts, trail: Trail, vm: Vm, step: p.Plug, answer: str | None, at_s: float) -> None:
    disk = step.disk
    trail.disks[disk.volume_id] = Ask(answer or "", at_s, answer is None)
    if answer is None:
        held = Held(epoch=disk.epoch, limits=limits(disk), cache=disk.cache)
        _hold(facts, {**_held(facts), disk.volume_id: held})


def _tuned(facts: Facts, trail: Trail, vm: Vm, step: p.Tune, answer: str | None, at_s: float) -> None:
    disk = step.disk
    trail.disks[disk.volume_id] = Ask(answer or "", at_s, answer is None)
    has = _held(facts).get(disk.volume_id)
    if answer is None and has is not None:
        _hold(facts, {**_held(facts), disk.volume_id: msgspec.structs.replace(has, limits=limits(disk))})


def _unplugged(facts: Facts, trail: Trail, vm: Vm, step: p.Unplug, answer: str | None, at_s: float) -> None:
    disk = step.disk
    trail.disks[disk.volume_id] = Ask(answer or "", at_s, answer is None)
    if answer is None:
        _hold(facts, {k: v for k, v in _held(facts).items() if k != disk.volume_id})


def _released(facts: Facts, trail: Trail, vm: Vm, step: p.Release, answer: str | None, at_s: float) -> None:
    trail.disks[step.disk.volume_id] = Ask(answer or "", at_s, answer is None)
    if answer is None:
        facts.released.add(disk_key(step.disk))


def _held(facts: Facts) -> dict[str, Held]:
    return {} if facts.domain is None or facts.domain.disks is None else facts.domain.disks


def _hold(facts: Facts, disks: dict[str, Held]) -> None:
    if facts.domain is not None:
        facts.domain = msgspec.structs.replace(facts.domain, disks=disks)


def _volume_removed(facts: Facts, trail: Trail, vm: Vm, step: p.RemoveVolume, answer: None, at_s: float) -> None:
    facts.volumes.pop(step.volume_id, None)


def _network(facts: Facts, trail: Trail, vm: Vm, step: p.Network, answer: str, at_s: float) -> None:
    facts.bridges[step.network.network_id] = answer


def _port(facts: Facts, trail: Trail, vm: Vm, step: p.Port, answer: str, at_s: float) -> None:
    key = port_key(step.nic)
    if key not in facts.taps:  # a changed port keeps its tap
        facts.unwired = facts.unwired or (facts.running and plan_port.holds(facts, step.nic))
    facts.taps[key] = answer
    facts.nics[key] = step.nic


def _rewired(facts: Facts, trail: Trail, vm: Vm, step: p.Rewire, answer: None, at_s: float) -> None:
    facts.unwired = False


def _port_removed(facts: Facts, trail: Trail, vm: Vm, step: p.RemovePort, answer: None, at_s: float) -> None:
    facts.taps.pop(port_key(step.nic), None)
    facts.nics.pop(port_key(step.nic), None)


def _port_plugged(facts: Facts, trail: Trail, vm: Vm, step: p.PlugPort, answer: str | None, at_s: float) -> None:
    trail.ports[step.nic.port_id] = Ask(answer or "", at_s, answer is None)
    if answer is None and facts.domain is not None and facts.domain.nics is not None:
        facts.domain = msgspec.structs.replace(facts.domain, nics=(*facts.domain.nics, step.nic.mac.lower()))


def _port_dropped(facts: Facts, trail: Trail, vm: Vm, step: p.DropPort, answer: str | None, at_s: float) -> None:
    trail.ports[step.nic.port_id] = Ask(answer or "", at_s, answer is None)
    if answer is not None:
        return
    facts.dropped.add(port_key(step.nic))
    facts.taps.pop(port_key(step.nic), None)
    facts.nics.pop(port_key(step.nic), None)
    if facts.domain is not None and facts.domain.nics is not None:
        left = tuple(m for m in facts.domain.nics if m != step.nic.mac.lower())
        facts.domain = msgspec.structs.replace(facts.domain, nics=left)


def _suspended(facts: Facts, trail: Trail, vm: Vm, step: p.Suspend, answer: None, at_s: float) -> None:
    if facts.domain is not None:
        facts.domain = msgspec.structs.replace(facts.domain, paused=SUSPENDED)


def _resumed(facts: Facts, trail: Trail, vm: Vm, step: p.Resume, answer: None, at_s: float) -> None:
    if facts.domain is None:
        return
    if facts.domain.paused == IO_ERROR:  # whether it goes on is seen
        trail.resumed_s = at_s
    else:
        facts.domain = msgspec.structs.replace(facts.domain, paused=None)


def _reset(facts: Facts, trail: Trail, vm: Vm, step: p.Reset, answer: bool | None, at_s: float) -> None:
    trail.reset = None


def _asked_stop(facts: Facts, trail: Trail, vm: Vm, step: p.AskStop, answer: bool, at_s: float) -> None:
    known = [a for a in trail.asks if (a.how, a.at_s) != (step.how, at_s)]  # it may have been let go of before
    trail.asks = (*known, Ask(step.how, at_s, answer))


def _asked_reboot(facts: Facts, trail: Trail, vm: Vm, step: p.AskReboot, answer: bool, at_s: float) -> None:
    pending = trail.reboot
    if pending is None or at_s >= pending.at_s:  # a late answer to an older ask says nothing
        trail.reboot = Ask(step.how, at_s, answer)


EFFECTS: dict[type[p.Step], Effect] = {
    p.Volume: _volume,
    p.Plug: _plugged,
    p.Tune: _tuned,
    p.Unplug: _unplugged,
    p.Release: _released,
    p.Network: _network,
    p.Port: _port,
    p.PlugPort: _port_plugged,
    p.DropPort: _port_dropped,
    p.Rewire: _rewired,
    p.Start: _started,
    p.AskStop: _asked_stop,
    p.AskReboot: _asked_reboot,
    p.Reset: _reset,
    p.Suspend: _suspended,
    p.Resume: _resumed,
    p.Destroy: _ended,
    p.RemoveDomain: _removed,
    p.RemovePort: _port_removed,
    p.RemoveVolume: _volume_removed,
}


def learn(facts: Facts, trail: Trail, record: Record, job: Job) -> dict[str, object]:
    """Take in what the job did, also if it failed half way. Returns what the record has to say."""
    notes: dict[str, object] = {}
    for step, answer, at_s in job.results:
        effect = EFFECTS.get(type(step))
        if effect is not None:
            effect(facts, trail, job.wanted, step, answer, at_s)
        if type(step) is p.Start:
            notes["made"] = tuple(d.volume_id for d in job.wanted.disks)
            notes["asked"] = False
        if type(step) in (p.Start, p.Repair):
            notes["media"] = job.wanted.media.image_id if job.wanted.media is not None else None
        if type(step) is p.Reset and answer:
            notes["reset_done"] = record.resets
    if job.error is not None and isinstance(job.steps[0], p.Reset):
        trail.reset = None
    if job.error is not None and trail.reboot is not None and isinstance(job.steps[0], p.AskReboot):
        trail.reboot = msgspec.structs.replace(trail.reboot, ok=False)
    return notes | power(record, facts.running)


def observed(
    facts: Facts, trail: Trail, record: Record, found: Found | None, now_s: float
) -> tuple[bool, dict[str, object]]:
    """Take in what the hypervisor shows of a vm that no job touched meanwhile: (is it news?, what the record has to
    say)."""
    was, first, before = facts.running, not facts.seen, facts.domain
    facts.domain, facts.seen = found, True
    if not first and found == before:
        return False, {}
    if facts.running and not was:
        trail.started_s, trail.ended_s = now_s, None
    if was and not facts.running:
        _count_end(trail, found, now_s)
    crash = _crash(before, found)
    return True, power(record, facts.running) | crash


def withdrawn(wanted: Vm, trail: Trail, record: Record, now_s: float) -> None:
    """It is wished running. If its guest was told to end before, by this process or an earlier one, it may do so still."""
    if wanted.power != "on":
        return
    if record.asked and (trail.asks or trail.heeds_until_s is None):
        trail.heeds_until_s = (trail.asks[-1].at_s if trail.asks else now_s) + wanted.stop_timeout_s
    trail.asks = ()


def _crash(before: Found | None, found: Found | None) -> dict[str, object]:
    """What the record keeps of a crash that was seen to happen."""
    if before is None or not before.running or found is None:
        return {}
    if found.paused == PANICKED and before.paused != PANICKED:
        return {"last_crash": f"{timestamp()}: {CRASHED[PANICKED]}"}
    if not found.running and found.reason in CRASHED and before.paused != PANICKED:
        return {"last_crash": f"{timestamp()}: {CRASHED[found.reason]}"}
    return {}


def power(record: Record, running: bool) -> dict[str, object]:
    """Only a change has a new time: an agent that restarts and finds what it left changes nothing."""
    now = "on" if running else "off"
    return {} if record.power == now and record.since else {"power": now, "since": timestamp()}


def timestamp() -> str:
    """UTC, to the second: for people."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _count_end(trail: Trail, found: Found | None, now_s: float) -> None:
    """It ended without us. A crash after a steady run is the first in its row."""
    steady = trail.started_s is not None and now_s - trail.started_s >= STEADY_S
    if found is not None and found.reason == GUEST_SHUTDOWN:
        trail.crashes = 0
    else:
        trail.crashes = 1 if steady else trail.crashes + 1
    trail.ended_s = now_s
