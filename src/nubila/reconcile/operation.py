"""Operations past their deadline: an alarm and an explanation, never a silent end. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from nubila.intent.asking import Asking, builtins
from nubila.intent.operation_report import status_of
from nubila.model.draft import Draft, Row


class Alarm(msgspec.Struct, frozen=True):
    """Mark this operation overdue and say so."""

    operation: dict[str, Any]


def step(snapshot: Sequence[Row], now: datetime) -> list[Alarm]:
    return [
        Alarm(row)
        for row in snapshot
        if row["ended_at"] is None
        and datetime.fromisoformat(row["deadline_at"]) < now
        and not (row["status"] or {}).get("overdue")
    ]


def draft(command: Alarm, asking: Asking) -> Draft:
    row = command.operation
    made = asking.draft()
    made.changes("operation", row, version=True, status=builtins(msgspec.structs.replace(status_of(row), overdue=True)))
    return made
