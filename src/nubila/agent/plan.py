"""What to do next for one vm. PURE: called by the lanes with what is known, decides, and touches nothing.

Rule of the right to act: serving and adopting always; starting without a fresh answer only once the control plane
proved to be away (`alone`) and the vm was wished running; rebooting, stopping and removing on a fresh answer only.
Invariants: a perfect world gives an empty plan; no plan starts what runs; a counter is noted before the step it
licenses.
"""

from __future__ import annotations

from nubila.agent import plan_disk, plan_port
from nubila.agent.known import Facts, Record, Trail, port_key
from nubila.agent.steps import (
    AskReboot,
    AskStop,
    Blocked,
    Destroy,
    Image,
    Network,
    Note,
    Port,
    Rebooted,
    Release,
    RemoveDirectory,
    RemoveDomain,
    RemovePort,
    RemoveVolume,
    Repair,
    Reset,
    Resume,
    Rewire,
    Seed,
    Start,
    Step,
    Suspend,
    Wait,
)
from nubila.protocol import Vm

ASK_AGAIN_S = 5.0  # a guest that still boots does not hear the first press of the button
CRASH_BACKOFF_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)
GUEST_SHUTDOWN = "guest-shutdown"
SUSPENDED = "suspended"
PANICKED = "panicked"
IO_ERROR = "io-error"  # a disk failed it: it stands still, and loses nothing by that
IO_AGAIN_S = 10.0
CRASHES = frozenset({"crashed", PANICKED})
NEWER = "a newer epoch of this vm runs here than is wished; it is left alone"


def plan(
    wanted: Vm, facts: Facts, record: Record, trail: Trail, now_s: float, *, fresh: bool, alone: bool = False
) -> list[Step]:
    """The steps for one vm, in order. `fresh`: the control plane confirmed this wish in this session, not long ago."""
    if not facts.seen:
        return []
    domain = facts.domain
    if domain is not None and domain.epoch > wanted.epoch:
        return [Blocked(NEWER)]
    if wanted.gone:
        return _remove(wanted, record) if fresh else []
    if domain is not None and domain.running and domain.epoch < wanted.epoch:
        return [RemoveDomain()] if fresh else []
    if (
        fresh
        and domain is not None
        and record.repairs < wanted.repairs
        and wanted.power == ("on" if domain.running else "off")
    ):
        images = _images(wanted, facts)
        return images or [*_ensure(wanted, facts, wires=True), Repair(), Note(repairs=wanted.repairs)]
    if fresh and domain is None and record.repairs < wanted.repairs:
        return [Note(repairs=wanted.repairs)]  # its definition is made at its start
    if wanted.power == "off":
        if facts.running and fresh:
            return _off(wanted, facts, record, trail, now_s)
        return _serve(wanted, facts) + (_rest(wanted, facts, trail, now_s) if fresh and not facts.running else [])
    if facts.running:
        return _running(wanted, facts, record, trail, now_s, fresh)
    steps = _on(wanted, facts, record, trail, now_s) if fresh or alone else []
    return steps or (_rest(wanted, facts, trail, now_s) if fresh else [])


def _rest(wanted: Vm, facts: Facts, trail: Trail, now_s: float) -> list[Step]:
    """For a vm that does not run, and stays so: what it shall not have any more is let go of."""
    steps = [*plan_disk.rest(wanted, facts), *plan_port.bind(wanted, facts)]
    return steps or plan_port.keep(wanted, facts, trail, now_s)


def _running(wanted: Vm, facts: Facts, record: Record, trail: Trail, now_s: float, fresh: bool) -> list[Step]:
    steps = _serve(wanted, facts)
    if record.starts < wanted.starts:
        steps.append(Note(starts=wanted.starts))
    heeds = _heeds(record, trail, now_s)
    if record.asked and not heeds:
        steps.append(Note(asked=False))  # whatever it does from now on is its own will
    hold = _hold(wanted, facts, trail, now_s) if fresh else []
    again = hold or _again(wanted, facts, record, trail, now_s, fresh)
    return steps + (again or (_keep(wanted, facts, trail, now_s) if fresh else [])) or heeds


def _keep(wanted: Vm, facts: Facts, trail: Trail, now_s: float) -> list[Step]:
    """Devices that come and go while it runs. A wait is only for when there is nothing to do."""
    found = [*plan_disk.keep(wanted, facts, trail, now_s), *plan_port.keep(wanted, facts, trail, now_s)]
    waits = [s for s in found if isinstance(s, Wait)]
    return [s for s in found if not isinstance(s, Wait)] or [Wait(min(w.until_s for w in waits)) for _ in waits[:1]]


def until_noted(steps: list[Step]) -> list[Step]:
    """As far as a plan can be carried out before the next note: what follows one may rest on it, and is planned again.

    Notes at the end stand for themselves: they are taken when all before them is done."""
    for n, step in enumerate(steps):
        if isinstance(step, Note) and not all(isinstance(s, Note) for s in steps[n:]):
            return steps[:n]
    return steps


def backoff_s(failures: int) -> float:
    """How long to wait after that many failures in a row."""
    return CRASH_BACKOFF_S[min(failures, len(CRASH_BACKOFF_S)) - 1] if failures > 0 else 0.0


# --- on


def _on(wanted: Vm, facts: Facts, record: Record, trail: Trail, now_s: float) -> list[Step]:
    """It does not run and shall: start it, unless its guest shut itself down after the newest start."""
    notes: list[Step] = []
    if record.starts < wanted.starts or record.reboots < wanted.reboots or record.resets < wanted.resets:
        # a start does what a reboot or a reset would have done
        reboots, resets = max(wanted.reboots, record.reboots), max(wanted.resets, record.resets)
        starts = max(wanted.starts, record.starts)
        notes.append(Note(starts=starts, reboots=reboots, rebooted=reboots, resets=resets, reset_done=resets))
    if record.starts >= wanted.starts:
        if record.halted == record.starts:
            return []
        why = _stays_down(wanted, facts, record, trail)
        if why is not None:
            return [Note(halted=record.starts, halted_by=why)]
        due_s = (trail.ended_s or 0.0) + backoff_s(trail.crashes)
        if trail.ended_s is not None and now_s < due_s:
            return [Wait(due_s)]
    lost = plan_disk.lost(wanted, facts, record.made)
    if lost is not None:
        return [Blocked(lost)]
    images = _images(wanted, facts)
    return images or [*notes, *plan_disk.rest(wanted, facts), *_ensure(wanted, facts), Seed(), Start()]


def _stays_down(wanted: Vm, facts: Facts, record: Record, trail: Trail) -> str | None:
    """Why a vm that ended by itself is not started again, or None."""
    ended = None if facts.domain is None else facts.domain.reason
    if ended == GUEST_SHUTDOWN and trail.reboot is None and not _asked_to_end(record, trail):
        return GUEST_SHUTDOWN
    if wanted.suspended:
        return SUSPENDED
    return ended if ended in CRASHES and wanted.on_crash != "restart" else None


def _hold(wanted: Vm, facts: Facts, trail: Trail, now_s: float) -> list[Step]:
    """Stop and continue its vCPUs. What a disk failed is let go on from time to time: QEMU does the failed request again,
    and stops it anew while that still fails. What stands still for another reason is left as it is."""
    paused = None if facts.domain is None else facts.domain.paused
    if paused == PANICKED:
        return [Destroy()] if wanted.on_crash == "restart" else []
    if paused == IO_ERROR and not wanted.suspended:
        due_s = 0.0 if trail.resumed_s is None else trail.resumed_s + IO_AGAIN_S
        return [Resume()] if now_s >= due_s else [Wait(due_s)]
    if wanted.suspended and paused is None:
        return [Suspend()]
    return [Resume()] if paused == SUSPENDED and not wanted.suspended else []


def _again(wanted: Vm, facts: Facts, record: Record, trail: Trail, now_s: float, fresh: bool) -> list[Step]:
    if facts.domain is not None and facts.domain.paused is not None:
        return []
    if record.resets < wanted.resets and trail.reset is None and fresh:
        return [Note(resets=wanted.resets), Reset()]  # at most once: the number is on disk before
    return _reboot(wanted, facts, record, trail, now_s, fresh)


def _heeds(record: Record, trail: Trail, now_s: float) -> list[Step]:
    """Until when it may go down for a stop that was withdrawn; nothing when that is over, or it was never told to."""
    until_s = trail.heeds_until_s
    return [Wait(until_s)] if record.asked and until_s is not None and now_s < until_s else []


def _asked_to_end(record: Record, trail: Trail) -> bool:
    """Whether the guest did what it was told to before that was withdrawn: that is no will of its own. One that went
    down while no agent looked did so before its time was over, or the record would say so."""
    until_s, ended_s = trail.heeds_until_s, trail.ended_s
    return record.asked and (until_s is None or ended_s is None or ended_s <= until_s)


def _images(wanted: Vm, facts: Facts) -> list[Step]:
    images: list[Step] = [
        Image(d.image_id or "", d.image_sha256)
        for d in wanted.disks
        if d.image_sha256 and d.volume_id not in facts.volumes and d.image_sha256 not in facts.images
    ]
    if wanted.media is not None and wanted.media.sha256 not in facts.images:
        images.append(Image(wanted.media.image_id, wanted.media.sha256))
    return images


def _ensure(wanted: Vm, facts: Facts, *, wires: bool = False) -> list[Step]:
    return plan_disk.own(wanted, facts) + _serve(wanted, facts, wires=wires)


def _serve(wanted: Vm, facts: Facts, *, wires: bool = False) -> list[Step]:
    """What a vm needs around it, running or about to: done at once and always, control plane or not. `wires`: a
    definition names its taps, also of a vm that is off."""
    if not facts.running and wanted.power == "off" and not wires:
        return []
    steps: list[Step] = []
    made = False
    for nic in wanted.wired:
        if nic.network.network_id not in facts.bridges:
            step = Network(nic.network)
            if step not in steps:
                steps.append(step)
        lost = port_key(nic) not in facts.taps
        if lost or facts.nics.get(port_key(nic)) != nic:
            steps.append(Port(nic))
        made = made or (lost and plan_port.holds(facts, nic))  # one that is new to it is plugged in by itself
    if facts.running and (made or facts.unwired) and all(d.volume_id in facts.volumes for d in wanted.disks):
        steps.append(Rewire())
    return steps


def _reboot(wanted: Vm, facts: Facts, record: Record, trail: Trail, now_s: float, fresh: bool) -> list[Step]:
    """At most once: the number is on disk before the guest is asked. The guest agent first, at the timeout the reset.

    An ask that came back True has happened; one that has not come back may still."""
    pending = trail.reboot
    if pending is None:
        if record.reboots >= wanted.reboots or not fresh:
            return []
        agent = facts.domain is not None and facts.domain.guest_agent
        return [Note(reboots=wanted.reboots), AskReboot("agent" if agent else "reset")]
    if pending.ok or wanted.reboots < record.reboots:  # withdrawn: a guest that was asked already is not pressed
        return [Note(rebooted=record.reboots), Rebooted()]
    due_s = pending.at_s + wanted.reboot_timeout_s
    if pending.ok is None and pending.how == "agent" and now_s < due_s:
        return [Wait(due_s)]
    return [AskReboot("reset")] if fresh else []


# --- off


def _off(wanted: Vm, facts: Facts, record: Record, trail: Trail, now_s: float) -> list[Step]:
    """Guest agent, then the ACPI button, again and again, then at the timeout the plug. That it was asked is on disk
    before."""
    paused = None if facts.domain is None else facts.domain.paused
    if wanted.stop_mode == "hard" or paused == PANICKED:
        return [Destroy()]
    if paused == SUSPENDED:
        return [Resume()]  # it could not hear
    noted: list[Step] = [] if record.asked else [Note(asked=True)]
    if not trail.asks:
        return [*noted, AskStop("agent" if facts.domain is not None and facts.domain.guest_agent else "acpi")]
    last = trail.asks[-1]
    due_s = trail.asks[0].at_s + wanted.stop_timeout_s
    if now_s >= due_s:
        return [Destroy()]
    next_s = last.at_s if last.how == "agent" and last.ok is False else last.at_s + ASK_AGAIN_S
    return [*noted, AskStop("acpi")] if now_s >= next_s else [Wait(min(next_s, due_s))]


def _remove(wanted: Vm, record: Record) -> list[Step]:
    if record.gone:
        return []
    return [
        RemoveDomain(),
        *[RemovePort(n) for n in wanted.nics],
        *[Release(d) if d.stays else RemoveVolume(d.volume_id) for d in (*wanted.disks, *wanted.leaving)],
        RemoveDirectory(),
        Note(gone=True),
    ]
