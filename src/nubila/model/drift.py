"""A drift: one field in which a node differs from what is wished of it, since it was first seen and until it is gone.

What is foreign on a node and what was left there of ours are drifts too: something is there and nothing is wished.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated

import msgspec

from nubila.model.fields import Reason

SCHEMA = 1
KEPT_MAX = 512  # of one node; what is beyond is counted by its agent's log only


class State(StrEnum):
    OPEN = "open"
    IGNORED = "ignored"  # an operator said until when
    RESOLVED = "resolved"  # tombstone: wish and world agree again


TERMINAL = frozenset({State.RESOLVED})
TRANSITIONS: dict[State, frozenset[State]] = {
    State.OPEN: frozenset({State.IGNORED, State.RESOLVED}),
    State.IGNORED: frozenset({State.OPEN, State.RESOLVED}),
    State.RESOLVED: frozenset(),
}


class Cause(StrEnum):
    OUTSIDE = "changed-outside"  # the definition differs from the wish, and not by us
    NEXT_START = "next-start"  # the definition is as wished; what runs was started before
    MISSING = "missing"  # wished, and not there
    FOREIGN = "foreign"  # not ours: shown, never touched
    ORPHAN = "orphan"  # ours, and wished by nobody: removed after a time of grace


class Verb(StrEnum):
    REPAIR = "repair"  # make the world as it is wished
    ADOPT = "adopt"  # make the wish as the world is


# Which verbs make sense for which cause. `ignore` is right for every one.
VERBS: dict[Cause, frozenset[Verb]] = {
    Cause.OUTSIDE: frozenset({Verb.REPAIR, Verb.ADOPT}),
    Cause.NEXT_START: frozenset({Verb.REPAIR}),
    Cause.MISSING: frozenset(),
    Cause.FOREIGN: frozenset(),
    Cause.ORPHAN: frozenset(),
}
# Why not, and what to do instead.
INSTEAD: dict[Cause, tuple[str, str]] = {
    Cause.OUTSIDE: ("", ""),
    Cause.NEXT_START: ("the wish is newer than what runs", "Stop and start the VM, or repair."),
    Cause.MISSING: ("its bytes cannot be made again", "Put it back from a backup, or delete what needs it."),
    Cause.FOREIGN: ("it is not Nubila's, and what is foreign is never touched", "Remove it by hand, or ignore it."),
    Cause.ORPHAN: ("its node removes it by itself after a time of grace", "Wait, or ignore it."),
}
# Fields of a domain that the vm's wish has too, so that it can be made as the world is. A medium by path is no image, and
# limits are those of a volume.
ADOPTABLE = frozenset({"cores", "memory_mib", "boot"})


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """Written by operators."""

    ignore_until: datetime | None = None
    ignore_reason: Reason = ""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """Reported by the node. `wished` and `observed` are for people; '' stands for nothing."""

    kind: str  # of the thing: domain, link, file, table, process, ...
    thing: str  # its name on the node
    field: str
    wished: str
    observed: str
    cause: Cause


Hours = Annotated[float, msgspec.Meta(gt=0, le=24 * 366, description="hours")]


def state(spec: Spec, now: datetime, *, was: State | None = None) -> State:
    if was is State.RESOLVED:
        return State.RESOLVED
    return State.IGNORED if spec.ignore_until is not None and spec.ignore_until > now else State.OPEN


def refused(verb: Verb, cause: Cause, field: str) -> tuple[str, str] | None:
    """(why, what to do) when this drift cannot be met that way."""
    if verb not in VERBS[cause]:
        return INSTEAD[cause]
    if verb is Verb.ADOPT and field not in ADOPTABLE:
        return (
            f"only {', '.join(sorted(ADOPTABLE))} can be taken over into the wish",
            "Repair it, or ignore it for a time.",
        )
    return None
