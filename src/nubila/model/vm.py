"""A vm: what is wished for it (Spec), what its node reports (Status), and the state that follows from both."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from nubila.model.fields import BootString, Cores, MemoryMib, Name

SCHEMA = 1


class State(StrEnum):
    PENDING = "pending"  # accepted and placed; its node has not reported on it yet
    STARTING = "starting"
    RUNNING = "running"
    REBOOTING = "rebooting"
    STOPPING = "stopping"
    STOPPED = "stopped"
    SUSPENDED = "suspended"  # its vCPUs stand still, its memory is kept
    CRASHED = "crashed"  # its guest panicked, and it is preserved as it was then
    FAILED = "failed"  # the node says why it cannot do what is wished, and goes on trying
    REMOVING = "removing"
    REMOVED = "removed"  # tombstone


TERMINAL = frozenset({State.REMOVED})
HOLDS_MEMORY = frozenset(State) - {State.REMOVED}

# What the node may say of a vm in any order: it reports what it sees, and steps in between may be missed.
_SEEN = frozenset(
    {
        State.STARTING,
        State.RUNNING,
        State.REBOOTING,
        State.STOPPING,
        State.STOPPED,
        State.SUSPENDED,
        State.CRASHED,
        State.FAILED,
    }
)

# was -> becomes. A trigger generated from this table refuses every other step.
TRANSITIONS: dict[State, frozenset[State]] = {
    State.PENDING: _SEEN | {State.REMOVING},
    State.STARTING: _SEEN - {State.STARTING} | {State.REMOVING},
    State.RUNNING: _SEEN - {State.RUNNING} | {State.REMOVING},
    State.REBOOTING: _SEEN - {State.REBOOTING} | {State.REMOVING},
    State.STOPPING: _SEEN - {State.STOPPING} | {State.REMOVING},
    State.STOPPED: _SEEN - {State.STOPPED} | {State.REMOVING},
    State.SUSPENDED: _SEEN - {State.SUSPENDED} | {State.REMOVING},
    State.CRASHED: _SEEN - {State.CRASHED} | {State.REMOVING},
    State.FAILED: _SEEN - {State.FAILED} | {State.REMOVING},
    State.REMOVING: frozenset({State.REMOVED}),
    State.REMOVED: frozenset(),
}


class Power(StrEnum):
    ON = "on"
    OFF = "off"


class StopMode(StrEnum):
    CLEAN = "clean"  # guest agent, then the ACPI button, then, at the timeout, as `hard`
    HARD = "hard"


class CrashPolicy(StrEnum):
    """What follows when it ends without anybody's wish: QEMU is gone, or the guest's kernel panicked."""

    RESTART = "restart"  # after a pause that grows with each crash in a row
    STOP = "stop"
    PRESERVE = "preserve"  # a panicked guest is kept as it is, to be looked at; when QEMU is gone, as `stop`


class Boot(StrEnum):
    """What it tries to boot from."""

    DISK = "disk"
    CDROM = "cdrom"


class Media(msgspec.Struct, frozen=True, kw_only=True):
    """An ISO in its drive."""

    image_id: str
    sha256: str
    name: str


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """Why nothing may be changed. `plane` says whose it is: user | operator."""

    plane: str
    by: str
    reason: str
    since: str


class Spec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """Written by intents only. Ids are typed text; `generation` is the row's column."""

    cores: Cores
    memory_mib: MemoryMib
    cores_max: int = 0  # so many can be plugged while it runs; fewer than `cores`: none
    virt_method: str
    hostname: str
    flavor_id: str
    image_id: str
    power: Power = Power.ON
    stop_mode: StopMode = StopMode.CLEAN
    stop_timeout_s: float = 60.0
    # Verbs that are not levels are counters: done when the status says the same number, the generation of its wish.
    starts: int = 1
    reboots: int = 0
    reboot_timeout_s: float = 60.0
    repairs: int = 0  # its domain made as wished once more, after a change from outside
    resets: int = 0
    suspended: bool = False
    on_crash: CrashPolicy = CrashPolicy.RESTART
    zone: Name | None = None  # where it was asked to be
    boot_string: BootString = ""
    user_data_secret: str | None = None  # id in the vault
    user_data_sha256: str | None = None
    keys: tuple[str, ...] = ()  # OpenSSH public keys given to the guest
    media: Media | None = None
    boot: Annotated[tuple[Boot, ...], Meta(min_length=1, max_length=2)] = (Boot.DISK,)  # in this order
    rescue: bool = False  # boots from its drive first, until it is taken out of rescue
    protected: bool = False  # against removal
    holds: tuple[Hold, ...] = ()
    gone: bool = False  # wished removed


CONTAINERS = frozenset({"lxc"})  # virt methods that run a root file system; the others boot a disk

PLUGGABLE_TIMES = 4  # how many times its cores a vm may have without a restart; a slot costs little
PLUGGABLE_MAX = 32


def cores_max(cores: int) -> int:
    """Up to how many cores can be plugged while it runs, if it is started with so many."""
    return max(cores, min(PLUGGABLE_TIMES * cores, PLUGGABLE_MAX))


def boot_order(spec: Spec) -> tuple[str, ...]:
    """In rescue the drive comes first, whatever else is wished."""
    rest = tuple(b.value for b in spec.boot)
    return (Boot.CDROM.value, *(b for b in rest if b != Boot.CDROM)) if spec.rescue else rest


class Guest(msgspec.Struct, frozen=True, kw_only=True):
    """What the guest showed of itself."""

    addressed_at: str | None = None  # when DHCP confirmed its address
    metadata_at: str | None = None  # when it first fetched its metadata
    agent: bool = False  # the guest agent answers


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """Written by reports only."""

    power: str = "off"  # what the hypervisor says: on | off
    starts: int = 0
    reboots: int = 0
    repairs: int = 0
    resets: int = 0
    paused: str | None = None  # why its vCPUs stand still while it is on: suspended | panicked | io-error | other
    gone: bool = False
    since: str | None = None  # when the power state was first seen
    doing: str | None = None  # the step under way, for progress
    progress: float | None = None  # 0..1 of that step, where it is known
    reason: str | None = None  # why it stopped, or why it is not as wished
    failing: bool = False  # `reason` keeps the node from doing what is wished; it goes on trying
    last_crash: str | None = None  # when and how it last ended without anybody's wish
    # What it has now, while it is on: after a change of its size it may differ from the wish.
    cores: int | None = None
    cores_max: int | None = None  # more only after the next start
    memory_mib: int | None = None
    memory_max_mib: int | None = None  # what it was started with: its balloon gives and takes below that
    media: str | None = None  # id of the image in its drive
    at_next_start: tuple[str, ...] = ()  # what of the wish it gets then
    guest: Guest = Guest()


def state(spec: Spec, status: Status | None, *, was: State | None = None) -> State:
    """The state that spec and status make. Freshness is not part of it: silence never changes a state."""
    if spec.gone or was is State.REMOVING:
        return State.REMOVED if status is not None and status.gone else State.REMOVING
    if status is None:
        return State.PENDING
    if status.failing:
        return State.FAILED
    if spec.power is Power.OFF:
        return State.STOPPED if status.power == "off" else State.STOPPING
    if status.power != "on":
        return State.STARTING if status.starts < spec.starts or status.reason is None else State.STOPPED
    if status.paused in PAUSED:
        return PAUSED[status.paused]
    again = status.reboots < spec.reboots or status.resets < spec.resets
    return State.REBOOTING if again else State.RUNNING


# why its vCPUs stand still -> state
PAUSED: dict[str, State] = {"suspended": State.SUSPENDED, "panicked": State.CRASHED}
