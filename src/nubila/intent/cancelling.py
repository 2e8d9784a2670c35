"""What a cancel answers, whatever the operation is about. Pure; called by the cancels of vms, volumes and images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from nubila.model.draft import Draft, Drafted, Effect, Row
from nubila.model.ids import text


def taken_back(op: Row, draft: Draft, said: str, hints: list[str], refers: Mapping[str, Any] | None = None) -> Drafted:
    """The draft takes the operation's wish back; `said` is what that means."""
    operation_id = UUID(op["id"])
    effect = Effect(
        action="change",
        kind="operation",
        id=text("operation", operation_id),
        name=op["name"],
        details={"state": "cancelled"},
    )
    return Drafted(
        draft=draft,
        status=200,
        refers={"operation": operation_id, **(refers or {})},
        effects=[effect],
        secret={"cancelled": "yes", "detail": said},
        hints=hints,
    )


def too_late(op: Row, empty: Draft, said: str) -> Drafted:
    """Nothing changes."""
    return Drafted(
        draft=empty, status=200, refers={"operation": UUID(op["id"])}, secret={"cancelled": "no", "detail": said}
    )
