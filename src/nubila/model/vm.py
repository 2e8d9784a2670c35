"""A vm: what is wished for it (Spec), what its node reports (Status), and the state that follows from both."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from nubila.model.fields import BootString, Cores, MemoryMib

SCHEMA = 1


class State(StrEnum):
    PENDING = "pending"  # accepted and placed; its node has not reported on it yet
    STARTING = "starting"
    RUNNING = "running"
    REBOOTING = "rebooting"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"  # the node says why it cannot do what is wished, and goes on trying
    REMOVING = "removing"
    REMOVED = "removed"  # tombstone


TERMINAL = frozenset({State.REMOVED})
HOLDS_MEMORY = frozenset(State) - {State.REMOVED}

# was -> becomes. A trigger generated from this table refuses every other step.
TRANSITIONS: dict[State, frozenset[State]] = {
    State.PENDING: frozenset(
        {State.STARTING, State.RUNNING, State.STOPPING, State.STOPPED, State.FAILED, State.REMOVING, State.REBOOTING}
    ),
    State.STARTING: frozenset(
        {State.RUNNING, State.STOPPING, State.STOPPED, State.FAILED, State.REMOVING, State.REBOOTING}
    ),
    State.RUNNING: frozenset(
        {State.REBOOTING, State.STOPPING, State.STOPPED, State.STARTING, State.FAILED, State.REMOVING}
    ),
    State.REBOOTING: frozenset(
        {State.RUNNING, State.STARTING, State.STOPPING, State.STOPPED, State.FAILED, State.REMOVING}
    ),
    State.STOPPING: frozenset(
        {State.STOPPED, State.RUNNING, State.STARTING, State.FAILED, State.REMOVING, State.REBOOTING}
    ),
    State.STOPPED: frozenset(
        {State.STARTING, State.RUNNING, State.STOPPING, State.FAILED, State.REMOVING, State.REBOOTING}
    ),
    State.FAILED: frozenset(
        {State.STARTING, State.RUNNING, State.STOPPING, State.STOPPED, State.REMOVING, State.REBOOTING}
    ),
    State.REMOVING: frozenset({State.REMOVED}),
    State.REMOVED: frozenset(),
}


class Power(StrEnum):
    ON = "on"
    OFF = "off"


class StopMode(StrEnum):
    CLEAN = "clean"  # guest agent, then the ACPI button, then, at the timeout, as `hard`
    HARD = "hard"


class Spec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """Written by intents only. Ids are typed text; `generation` is the row's column."""

    cores: Cores
    memory_mib: MemoryMib
    virt_method: str
    hostname: str
    flavor_id: str
    image_id: str
    power: Power = Power.ON
    stop_mode: StopMode = StopMode.CLEAN
    stop_timeout_s: float = 60.0
    # Verbs that are not levels are counters: done when the status says the same number.
    starts: int = 1
    reboots: int = 0
    reboot_timeout_s: float = 60.0
    repairs: int = 0  # its domain made as wished once more, after a change from outside
    boot_string: BootString = ""
    user_data_secret: str | None = None  # id in the vault
    user_data_sha256: str | None = None
    keys: tuple[str, ...] = ()  # OpenSSH public keys given to the guest
    gone: bool = False  # wished removed


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
    gone: bool = False
    since: str | None = None  # when the power state was first seen
    doing: str | None = None  # the step under way, for progress
    progress: float | None = None  # 0..1 of that step, where it is known
    reason: str | None = None  # why it stopped, or why it is not as wished
    failing: bool = False  # `reason` keeps the node from doing what is wished; it goes on trying
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
    return State.REBOOTING if status.reboots < spec.reboots else State.RUNNING
