"""An operation: one wish put to the fabric, followed until it is met, given up or overtaken.

Its state is computed from the resource it is about whenever that is written; nobody sets it by hand.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

SCHEMA = 1


class State(StrEnum):
    WAITING = "waiting"  # committed; its node has not begun
    RUNNING = "running"
    DONE = "done"
    OVERTAKEN = "overtaken"  # a later wish on the same resource replaced it
    CANCELLED = "cancelled"


TERMINAL = frozenset({State.DONE, State.OVERTAKEN, State.CANCELLED})
OPEN = frozenset(State) - TERMINAL

TRANSITIONS: dict[State, frozenset[State]] = {
    State.WAITING: frozenset({State.RUNNING, State.DONE, State.OVERTAKEN, State.CANCELLED}),
    State.RUNNING: frozenset({State.DONE, State.OVERTAKEN, State.CANCELLED}),
    State.DONE: frozenset(),
    State.OVERTAKEN: frozenset(),
    State.CANCELLED: frozenset(),
}


class Verb(StrEnum):
    CREATE = "create"
    START = "start"
    STOP = "stop"
    REBOOT = "reboot"
    RESET = "reset"
    SUSPEND = "suspend"
    RESUME = "resume"
    REMOVE = "remove"
    REPAIR = "repair"
    ATTACH = "attach"
    DETACH = "detach"
    RESIZE = "resize"
    CHANGE = "change"
    ROLL_BACK = "roll-back"
    INSERT = "insert"
    EJECT = "eject"
    RESCUE = "rescue"


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """The wish: which verb, met when the resource's status reaches these numbers."""

    verb: Verb
    resource_kind: str
    resource_id: str
    resource_name: str
    generation: int  # of the resource, when the wish was written
    count: int | None = None  # the number that a counted verb waits for
    stood: int | None = None  # the number that was wished before: what a cancel goes back to
    deadline_s: float = 60.0


class Status(msgspec.Struct, frozen=True, kw_only=True):
    doing: str | None = None
    progress: float | None = None
    reason: str | None = None
    overdue: bool = False  # the deadline passed; the work goes on, and an alarm was raised


# verb -> seconds until the operation is overdue, when the request does not say
DEADLINE_S: dict[Verb, float] = {
    Verb.CREATE: 300.0,
    Verb.START: 60.0,
    Verb.STOP: 120.0,
    Verb.REBOOT: 120.0,
    Verb.RESET: 60.0,
    Verb.SUSPEND: 60.0,
    Verb.RESUME: 60.0,
    Verb.REMOVE: 120.0,
    Verb.REPAIR: 60.0,
    Verb.ATTACH: 60.0,
    Verb.DETACH: 60.0,
    Verb.RESIZE: 120.0,
    Verb.CHANGE: 60.0,
    Verb.ROLL_BACK: 300.0,
    Verb.INSERT: 300.0,
    Verb.EJECT: 60.0,
    Verb.RESCUE: 300.0,
}


def state(
    spec: Spec, *, was: State, resource_state: str, observed_generation: int, counted: int | None, wished: str
) -> State:
    """Where the operation stands, from its resource alone.

    `resource_state` is the vm's state as it is now, `wished` the state that its spec asks for, `counted` what its status
    says of the counter that this verb waits for.
    """
    if was in TERMINAL:
        return was
    begun = observed_generation >= spec.generation
    if spec.verb is Verb.REMOVE:
        done = resource_state == "removed"
    elif spec.count is not None and (counted is None or counted < spec.count):
        done = False
    else:
        done = begun and resource_state == GOAL[spec.verb].get(wished)
    if done:
        return State.DONE
    if begun and spec.verb in NEEDS_RUNNING and resource_state == "stopped":
        return State.OVERTAKEN
    return State.RUNNING if begun else State.WAITING


# What a vm that ended meanwhile can no longer do.
NEEDS_RUNNING = frozenset({Verb.RESET, Verb.SUSPEND, Verb.RESUME})

# verb -> state that the vm's spec wishes -> state in which the verb is done
GOAL: dict[Verb, dict[str, str]] = {
    Verb.CREATE: {"running": "running", "stopped": "stopped", "ready": "ready"},
    Verb.START: {"running": "running"},
    Verb.STOP: {"stopped": "stopped"},
    Verb.REBOOT: {"running": "running"},
    Verb.RESET: {"running": "running"},
    Verb.SUSPEND: {"suspended": "suspended"},
    Verb.RESUME: {"running": "running"},
    Verb.REMOVE: {},
    Verb.REPAIR: {"running": "running", "stopped": "stopped"},
    Verb.ATTACH: {"ready": "ready"},
    Verb.DETACH: {"ready": "ready"},
    Verb.RESIZE: {"running": "running", "stopped": "stopped", "suspended": "suspended", "ready": "ready"},
    Verb.CHANGE: {"ready": "ready"},
    Verb.ROLL_BACK: {"ready": "ready"},
    Verb.INSERT: {"running": "running", "stopped": "stopped", "suspended": "suspended"},
    Verb.EJECT: {"running": "running", "stopped": "stopped", "suspended": "suspended"},
    Verb.RESCUE: {"running": "running"},
}
