"""A volume: a disk of one project, held by at most one vm or job at a time."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from nubila.model.fields import SizeGib

SCHEMA = 1


class State(StrEnum):
    PENDING = "pending"
    READY = "ready"
    FAILED = "failed"
    REMOVING = "removing"
    REMOVED = "removed"


TERMINAL = frozenset({State.REMOVED})

TRANSITIONS: dict[State, frozenset[State]] = {
    State.PENDING: frozenset({State.READY, State.FAILED, State.REMOVING}),
    State.READY: frozenset({State.FAILED, State.REMOVING, State.PENDING}),
    State.FAILED: frozenset({State.READY, State.REMOVING, State.PENDING}),
    State.REMOVING: frozenset({State.REMOVED}),
    State.REMOVED: frozenset(),
}


class Format(StrEnum):
    QCOW2 = "qcow2"
    RAW = "raw"


class Cache(StrEnum):
    DEFAULT = "default"
    NONE = "none"
    WRITETHROUGH = "writethrough"
    WRITEBACK = "writeback"
    DIRECTSYNC = "directsync"
    UNSAFE = "unsafe"


Rate = Annotated[int, Meta(ge=0, le=1 << 40, description="per second; 0 means unlimited")]
BurstS = Annotated[int, Meta(ge=1, le=3600, description="for how many seconds a burst may last")]


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Per second; 0 means unlimited. A burst is a higher rate, allowed for `burst_s` after a time of rest."""

    read_iops: Rate = 0
    write_iops: Rate = 0
    read_bytes: Rate = 0
    write_bytes: Rate = 0
    read_iops_burst: Rate = 0
    write_iops_burst: Rate = 0
    read_bytes_burst: Rate = 0
    write_bytes_burst: Rate = 0
    burst_s: BurstS = 1


# what is limited -> the field of its burst
BURSTS: dict[str, str] = {
    "read_iops": "read_iops_burst",
    "write_iops": "write_iops_burst",
    "read_bytes": "read_bytes_burst",
    "write_bytes": "write_bytes_burst",
}


def limits_fault(limits: Limits) -> str | None:
    """Why these limits make no sense together, or None."""
    for plain, burst in BURSTS.items():
        rate, high = getattr(limits, plain), getattr(limits, burst)
        if high and not rate:
            return f"{burst} is {high}, but {plain} is not limited"
        if high and high <= rate:
            return f"{burst} is {high}, which is not more than {plain}, {rate}"
    return None


SNAPSHOTS_MAX = 32  # of one volume


class Export(msgspec.Struct, frozen=True, kw_only=True):
    """Its bytes become that image's content; its node sends them while this stands here."""

    image_id: str
    format: Format


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    size_gib: SizeGib
    pool: str = "local"
    driver: str = "directory"
    format: Format = Format.QCOW2
    cache: Cache = Cache.DEFAULT
    limits: Limits = Limits()
    image_id: str | None = None  # copy-on-write from this image
    image_sha256: str | None = None
    image_format: str | None = None
    source_volume_id: str | None = None  # made as a copy of this volume, on the same node
    remove_with_vm: bool = False
    # A roll-back is no lasting state: it is done when the status says the same number.
    rollbacks: int = 0
    rollback_to: str | None = None  # the snapshot that the newest of them goes back to
    exports: tuple[Export, ...] = ()
    gone: bool = False


class Status(msgspec.Struct, frozen=True, kw_only=True):
    ready: bool = False
    made: bool = False  # it was ready once: a node that has it no more has lost it, and does not make it anew
    gone: bool = False
    reason: str | None = None
    failing: bool = False
    doing: str | None = None
    progress: float | None = None
    size_gib: int | None = None  # as the guest sees it; None until the node said so
    rollbacks: int = 0
    held_epoch: int = 0  # newest attachment under which its vm has it
    released_epoch: int = 0  # newest attachment whose end is proven
    applied: int = 0  # generation of the newest wish whose limits its vm runs with
    cache: str | None = None  # the cache mode its vm runs with; None while it does not run


def state(spec: Spec, status: Status | None, *, was: State | None = None) -> State:
    if spec.gone or was is State.REMOVING:
        return State.REMOVED if status is not None and status.gone else State.REMOVING
    if status is None:
        return State.PENDING
    if status.failing:
        return State.FAILED
    return State.READY if status.ready else State.PENDING
