"""Drifts whose time of being ignored is over: open again. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from nubila.intent.asking import Asking
from nubila.model import drift
from nubila.model.draft import Draft, Row


class Heed(msgspec.Struct, frozen=True):
    """This drift is no longer ignored."""

    drift: dict[str, Any]


def step(snapshot: Sequence[Row], now: datetime) -> list[Heed]:
    return [
        Heed(row)
        for row in snapshot
        if row["state"] == drift.State.IGNORED
        and drift.state(msgspec.convert(row["spec"], drift.Spec), now) is drift.State.OPEN
    ]


def draft(command: Heed, asking: Asking) -> Draft:
    row = command.drift
    made = asking.draft()
    made.changes("drift", row, version=True, state=drift.State.OPEN.value)
    return made
