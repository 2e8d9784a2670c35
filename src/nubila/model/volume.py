"""A volume: a disk of one project, held by at most one vm or job at a time."""

from __future__ import annotations

from enum import StrEnum

import msgspec

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


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Per second; 0 means unlimited."""

    read_iops: int = 0
    write_iops: int = 0
    read_bytes: int = 0
    write_bytes: int = 0


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
    remove_with_vm: bool = False
    gone: bool = False


class Status(msgspec.Struct, frozen=True, kw_only=True):
    ready: bool = False
    gone: bool = False
    reason: str | None = None
    failing: bool = False


def state(spec: Spec, status: Status | None, *, was: State | None = None) -> State:
    if spec.gone or was is State.REMOVING:
        return State.REMOVED if status is not None and status.gone else State.REMOVING
    if status is None:
        return State.PENDING
    if status.failing:
        return State.FAILED
    return State.READY if status.ready else State.PENDING
