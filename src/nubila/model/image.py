"""An image: immutable bytes known by their hash, from which volumes are made or which are put into a VM's drive."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

SCHEMA = 1

MAX_BYTES = 64 << 30
MAX_VIRTUAL_BYTES = 4 << 40  # a small file may say that its disk is huge


class State(StrEnum):
    PENDING = "pending"  # registered; the content has not come yet, or not all of it
    READY = "ready"
    FAILED = "failed"  # Nubila was to bring the content and could not; the status has the reason
    REMOVED = "removed"


TRANSITIONS: dict[State, frozenset[State]] = {
    State.PENDING: frozenset({State.READY, State.FAILED, State.REMOVED}),
    State.READY: frozenset({State.REMOVED}),
    State.FAILED: frozenset({State.REMOVED}),
    State.REMOVED: frozenset(),
}
TERMINAL = frozenset({State.REMOVED})


class Format(StrEnum):
    QCOW2 = "qcow2"
    RAW = "raw"
    ISO = "iso"
    TAR = "tar"  # the root file system of a container


class Origin(StrEnum):
    """Who brings the content."""

    UPLOAD = "upload"
    URL = "url"
    VOLUME = "volume"


class Right(StrEnum):
    """What a project may do with an image that is shared with it."""

    USE = "use"


Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$(?!\n)", description="64 lower-case hexadecimal digits")]
SizeBytes = Annotated[int, msgspec.Meta(ge=1, le=MAX_BYTES, description="bytes, at most 64 GiB")]


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    format: Format
    public: bool = False
    os: Annotated[str, msgspec.Meta(max_length=63)] = "linux"
    login: Annotated[str, msgspec.Meta(max_length=32)] = "root"  # the account that gets the SSH keys
    min_disk_gib: Annotated[int, msgspec.Meta(ge=0, le=1024 * 1024)] = 0
    min_memory_mib: Annotated[int, msgspec.Meta(ge=0, le=16 * 1024 * 1024)] = 0
    origin: Origin = Origin.UPLOAD
    url: str | None = None  # without its query, which may hold a secret
    volume_id: str | None = None
    size_bytes: int | None = None  # what is expected, when it was said
    sha256: str | None = None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    sha256: str = ""
    size_bytes: int = 0
    virtual_bytes: int = 0
    doing: str | None = None
    progress: float | None = None  # 0..1
    reason: str | None = None
    attempts: int = 0
    retry_at: str | None = None
    failed: bool = False


def state(spec: Spec, status: Status | None, *, was: State | None = None) -> State:
    if was is State.REMOVED:
        return State.REMOVED
    if status is not None and status.sha256:
        return State.READY
    return State.FAILED if status is not None and status.failed else State.PENDING
