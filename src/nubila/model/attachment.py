"""An attachment: the right of one holder to write one volume, under an epoch that only grows."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    ACTIVE = "active"
    INCOMING = "incoming"  # the target of a migration; only with a migration's id
    REVOKING = "revoking"
    REVOKED = "revoked"  # with the storage's proof


TRANSITIONS: dict[State, frozenset[State]] = {
    State.INCOMING: frozenset({State.ACTIVE, State.REVOKING, State.REVOKED}),
    State.ACTIVE: frozenset({State.REVOKING, State.REVOKED}),
    State.REVOKING: frozenset({State.REVOKED}),
    State.REVOKED: frozenset(),
}
TERMINAL = frozenset({State.REVOKED})
