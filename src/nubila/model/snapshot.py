"""A snapshot: the bytes of one volume at one moment, kept inside of it, to which it can be rolled back."""

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
    State.READY: frozenset({State.FAILED, State.REMOVING}),
    State.FAILED: frozenset({State.READY, State.REMOVING, State.PENDING}),
    State.REMOVING: frozenset({State.REMOVED}),
    State.REMOVED: frozenset(),
}


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    volume_id: str
    size_gib: SizeGib  # of the volume at that moment; so much room it may come to need
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
