"""What is told about one vm. PURE: called by the lanes, decides how a vm's report reads.

Invariant: nothing here is a clock reading that changes by itself, so that an unchanged vm makes an unchanged report.
"""

from __future__ import annotations

from typing import Any

import msgspec

from nubila.agent.known import Facts, Record, Trail, disk_key, port_key
from nubila.agent.plan import GUEST_SHUTDOWN, IO_ERROR, PANICKED, SUSPENDED, backoff_s
from nubila.agent.plan_disk import limits
from nubila.agent.plan_port import bound, holds
from nubila.drivers.hypervisor.base import Found
from nubila.protocol import Disk, DiskReport, PortReport, Vm, VmReport

GUEST_SHUT_DOWN = "the guest shut itself down"
PRESERVED = "the guest's kernel panicked; it is kept as it was, by its crash policy, until it is stopped"
# why it ended and stays down -> what is said
HALTED: dict[str, str] = {
    GUEST_SHUTDOWN: GUEST_SHUT_DOWN,
    SUSPENDED: "it ended while it was suspended, so its memory is lost",
    "crashed": "its QEMU process ended unexpectedly, and its crash policy leaves it stopped",
    PANICKED: "the guest's kernel panicked, and its crash policy leaves it stopped",
}
RESET_UNKNOWN = "the agent was restarted during the reset, or lost sight of it; whether it was done is unknown"
REBOOT_UNKNOWN = "the agent was restarted during the reboot; whether it was done is unknown"


DISK_FAILED = (
    "one of its disks cannot be written or read, perhaps because its pool is full; the vm stands still, has lost nothing, "
    "and goes on by itself when that works again"
)


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What the lane is at."""

    doing: str | None = None
    progress: float | None = None
    trouble: str | None = None  # what keeps it from doing what is wished


def _patience(wanted: Vm, trail: Trail, running: bool) -> str | None:
    """A guest that still boots hears nothing, and who stopped it should know what comes of that."""
    if not running or wanted.power != "off" or not trail.asks:
        return None
    return f"waiting for the guest, which was asked to end; its power is cut after {wanted.stop_timeout_s:g} s"


def report(wanted: Vm, facts: Facts, record: Record, trail: Trail, work: Work) -> VmReport:
    running = facts.running
    halted = running and facts.domain is not None and facts.domain.paused == IO_ERROR
    reason = work.trouble or (DISK_FAILED if halted else _crash(wanted, record, trail, running))
    failing = reason is not None
    if reason is None:
        reason = _why(wanted, facts, record, trail, running)
    return VmReport(
        vm_id=wanted.vm_id,
        epoch=wanted.epoch,
        generation=wanted.generation,
        power="on" if running else "off",
        starts=record.starts,
        reboots=record.reboots - 1 if trail.reboot is not None else record.reboots,
        repairs=record.repairs,
        resets=record.resets - 1 if trail.reset is not None else record.resets,
        paused=facts.domain.paused if running and facts.domain is not None else None,
        gone=record.gone and wanted.gone,
        since=record.since,
        doing=work.doing or _patience(wanted, trail, running),
        progress=work.progress,
        reason=reason,
        failing=failing,
        last_crash=record.last_crash,
        media=record.media,
        **_size(wanted, facts.domain if running else None),
        addressed_at=record.addressed_at,
        metadata_at=record.metadata_at,
        guest_agent=running and facts.domain is not None and facts.domain.guest_agent,
        disks_ready=tuple(d.volume_id for d in wanted.disks if d.volume_id in facts.volumes),
        disks=_disks(wanted, facts, trail),
        released=tuple(
            DiskReport(volume_id=d.volume_id, epoch=d.epoch) for d in wanted.leaving if disk_key(d) in facts.released
        ),
        ports_active=tuple(n.port_id for n in wanted.wired if running and bound(facts, n) and holds(facts, n)),
        ports=_ports(wanted, facts, trail),
        ports_gone=tuple(
            PortReport(port_id=n.port_id, epoch=n.epoch) for n in wanted.unwired if port_key(n) in facts.dropped
        ),
    )


def _size(wanted: Vm, domain: Found | None) -> dict[str, Any]:
    """What it has now. Nothing is said of a vm that is off, nor by a driver that does not know."""
    if domain is None or not domain.cores:
        return {}
    later = []
    if domain.cores != wanted.cores:
        later.append("cores")
    if wanted.memory_mib > domain.memory_max_mib:
        later.append("memory_mib")
    return {
        "cores": domain.cores,
        "cores_max": domain.cores_max,
        "memory_mib": domain.memory_mib,
        "memory_max_mib": domain.memory_max_mib,
        "at_next_start": tuple(later),
    }


def _disks(wanted: Vm, facts: Facts, trail: Trail) -> tuple[DiskReport, ...]:
    """Each disk as the vm has it: plugged while it runs, otherwise there for its next start."""
    held = facts.domain.disks if facts.running and facts.domain is not None else None
    out = []
    for d in wanted.disks:
        has = None if held is None else held.get(d.volume_id)
        there = d.volume_id in facts.volumes
        applied = has is None or has.limits == limits(d)
        out.append(
            DiskReport(
                volume_id=d.volume_id,
                epoch=d.epoch,
                held=there and (has is not None if held is not None else not facts.running),
                generation=d.generation if there and applied else 0,
                cache=None if has is None else has.cache,
                reason=_why_not(trail, d),
            )
        )
    out += [
        DiskReport(volume_id=d.volume_id, epoch=d.epoch, reason=_why_not(trail, d))
        for d in wanted.leaving
        if disk_key(d) not in facts.released
    ]
    return tuple(out)


def _why_not(trail: Trail, disk: Disk) -> str | None:
    tried = trail.disks.get(disk.volume_id)
    return tried.how if tried is not None and tried.ok is False else None


def _ports(wanted: Vm, facts: Facts, trail: Trail) -> tuple[PortReport, ...]:
    """Each port as the vm has it: plugged in while it runs, otherwise for its next start."""
    out = []
    for n in wanted.nics:
        there = bound(facts, n)
        held = there and holds(facts, n) if facts.running else there or not n.leaving
        tried = trail.ports.get(n.port_id)
        reason = tried.how if tried is not None and tried.ok is False else None
        if port_key(n) not in facts.dropped:
            out.append(PortReport(port_id=n.port_id, epoch=n.epoch, held=held and not n.gone, reason=reason))
    return tuple(out)


def _crash(wanted: Vm, record: Record, trail: Trail, running: bool) -> str | None:
    if record.halted and record.halted == record.starts:
        return None
    if running or wanted.power == "off" or wanted.gone or trail.crashes == 0:
        return None
    times = "once" if trail.crashes == 1 else f"{trail.crashes} times in a row"
    return f"it ended unexpectedly {times}; it is started again {backoff_s(trail.crashes):g} s after that"


def _why(wanted: Vm, facts: Facts, record: Record, trail: Trail, running: bool) -> str | None:
    if not running and record.halted and record.halted == record.starts and wanted.starts <= record.starts:
        return HALTED[record.halted_by or GUEST_SHUTDOWN]
    if running and facts.domain is not None and facts.domain.paused == PANICKED:
        return PRESERVED
    if running and record.reset_done < record.resets and trail.reset is None:
        return RESET_UNKNOWN
    if running and record.rebooted < record.reboots and trail.reboot is None:
        return REBOOT_UNKNOWN
    return None
