"""What a report changes of an operation that waits for its resource: its state, its status, and when it ended. Pure."""

from __future__ import annotations

from datetime import datetime

import msgspec

from nubila.intent.asking import builtins
from nubila.model import operation
from nubila.model.draft import Draft, Row


def status_of(op: Row) -> operation.Status:
    return operation.Status() if op["status"] is None else msgspec.convert(op["status"], operation.Status)


def write(
    op: Row, becomes: operation.State, before: operation.Status, after: operation.Status, draft: Draft, now: datetime
) -> bool:
    """False when that is how it stood."""
    if becomes == op["state"] and after == before:
        return False
    columns: Row = {"state": becomes.value, "status": builtins(after)}
    if becomes in operation.TERMINAL:
        columns["ended_at"] = now
    draft.updates("operation", {"id": op["id"]}, **columns)
    return True
