"""An image: immutable bytes known by their hash, from which volumes are made."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

SCHEMA = 1

MAX_BYTES = 64 << 30


class State(StrEnum):
    PENDING = "pending"  # registered; the content has not come yet
    READY = "ready"
    REMOVED = "removed"


TRANSITIONS: dict[State, frozenset[State]] = {
    State.PENDING: frozenset({State.READY, State.REMOVED}),
    State.READY: frozenset({State.REMOVED}),
    State.REMOVED: frozenset(),
}
TERMINAL = frozenset({State.REMOVED})


class Format(StrEnum):
    QCOW2 = "qcow2"
    RAW = "raw"


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    format: Format
    public: bool = False
    os: Annotated[str, msgspec.Meta(max_length=63)] = "linux"
    login: Annotated[str, msgspec.Meta(max_length=32)] = "root"  # the account that gets the SSH keys
    min_disk_gib: Annotated[int, msgspec.Meta(ge=0, le=1024 * 1024)] = 0
    min_memory_mib: Annotated[int, msgspec.Meta(ge=0, le=16 * 1024 * 1024)] = 0


class Status(msgspec.Struct, frozen=True, kw_only=True):
    sha256: str = ""
    size_bytes: int = 0
    virtual_bytes: int = 0


def state(spec: Spec, status: Status | None, *, was: State | None = None) -> State:
    if was is State.REMOVED:
        return State.REMOVED
    return State.READY if status is not None and status.sha256 else State.PENDING
