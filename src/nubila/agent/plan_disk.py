"""What a vm's lane does with its disks beyond their start: plug, unplug, limit, let go of. PURE, a part of `plan`.

All of it on a fresh answer only. Letting go is proven step by step: the device is gone from the vm, then nobody has the
disk open, then the floor below which this node opens it no more is on disk; only then it is said.
"""

from __future__ import annotations

from nubila.agent.known import Facts, Trail, disk_key
from nubila.agent.steps import Plug, Release, Step, Tune, Unplug, Volume, Wait
from nubila.drivers.hypervisor.base import Held
from nubila.protocol import Disk, Vm

AGAIN_S = 5.0  # after a guest that did not let go, or a driver that refused


def keep(wanted: Vm, facts: Facts, trail: Trail, now_s: float) -> list[Step]:
    """For a vm that runs."""
    held = facts.domain.disks if facts.domain is not None else None
    if held is None:  # not known yet
        return []
    steps: list[Step] = []
    waits: list[float] = []
    for disk, step in [*_leave(wanted, facts, held), *_take(wanted, held)]:
        tried = trail.disks.get(disk.volume_id)
        if tried is not None and tried.ok is False and now_s < tried.at_s + AGAIN_S:
            waits.append(tried.at_s + AGAIN_S)
        else:
            steps += [Volume(disk), step] if isinstance(step, Plug) else [step]
    return steps or ([Wait(min(waits))] if waits else [])


def rest(wanted: Vm, facts: Facts) -> list[Step]:
    """For a vm that does not run: what it shall not have any more is let go of."""
    return [Release(d) for d in wanted.leaving if disk_key(d) not in facts.released]


def own(wanted: Vm, facts: Facts) -> list[Step]:
    """Before a start: disks that are not here, and the ownership of all. A volume may have been another's before, and a copy
    of a running one leaves it to nobody in particular."""
    return [Volume(d) for d in wanted.disks]


def lost(wanted: Vm, facts: Facts, made: tuple[str, ...]) -> str | None:
    for d in wanted.disks:
        if (d.made or d.volume_id in made) and d.volume_id not in facts.volumes:
            return f"{d.volume_id} was here and is missing on this node; it is not made anew, so that no loss is hidden"
    return None


def limits(disk: Disk) -> tuple[int, ...]:
    """As a hypervisor has them; a burst's length says nothing where there is no burst."""
    bursts = (disk.read_iops_burst, disk.write_iops_burst, disk.read_bytes_burst, disk.write_bytes_burst)
    plain = (disk.read_iops, disk.write_iops, disk.read_bytes, disk.write_bytes)
    return (*plain, *bursts, disk.burst_s if any(bursts) else 1)


def _leave(wanted: Vm, facts: Facts, held: dict[str, Held]) -> list[tuple[Disk, Step]]:
    out: list[tuple[Disk, Step]] = []
    for d in wanted.leaving:
        has = held.get(d.volume_id)
        if has is not None and has.epoch <= d.epoch:
            out.append((d, Unplug(d)))
        elif disk_key(d) not in facts.released:
            out.append((d, Release(d)))
    return out


def _take(wanted: Vm, held: dict[str, Held]) -> list[tuple[Disk, Step]]:
    out: list[tuple[Disk, Step]] = []
    for d in wanted.disks:
        has = held.get(d.volume_id)
        if has is None:
            out.append((d, Plug(d)))
        elif has.limits != limits(d):
            out.append((d, Tune(d)))
    return out
