"""What background work has set aside: operators only."""

from __future__ import annotations

from typing import Any

from nubila.api.context import ApiCall
from nubila.api.route import Answer
from nubila.model.ids import text
from nubila.store.database import Record


async def list_parked(call: ApiCall) -> Answer:
    """List objects that background work was set aside on after it failed: why, since when, and when it is tried again."""
    rows = await call.context.work.parked()
    return Answer(body={"items": [_shown(r) for r in rows], "next": None})


def _shown(row: Record) -> dict[str, Any]:
    return {
        "id": text(row["kind"], row["object_id"]),
        "kind": row["kind"],
        "name": row["name"],
        "reason": row["reason"],
        "since": row["since"],
        "next_attempt_at": row["until"],
    }
