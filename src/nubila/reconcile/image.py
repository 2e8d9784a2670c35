"""Images whose content Nubila is to bring: which are due, and what a failure means. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from nubila.model import image
from nubila.model.draft import Row

ATTEMPTS_MAX = 6
BACKOFF_S = (5.0, 15.0, 60.0, 300.0, 900.0)


class Bring(msgspec.Struct, frozen=True):
    """Begin to bring this image's content."""

    image: dict[str, Any]


def step(snapshot: Sequence[Row], now: datetime) -> list[Bring]:
    return [Bring(row) for row in snapshot if _due(row, now)]


def _due(row: Row, now: datetime) -> bool:
    retry_at = (row["status"] or {}).get("retry_at")
    return retry_at is None or datetime.fromisoformat(retry_at) <= now


def failed(was: image.Status, reason: str, now: datetime, *, again: bool) -> image.Status:
    """After an attempt that failed: when the next one is, or that it was the last."""
    attempts = was.attempts + 1
    if not again or attempts >= ATTEMPTS_MAX:
        return image.Status(failed=True, reason=reason, attempts=attempts)
    wait = timedelta(seconds=BACKOFF_S[min(attempts - 1, len(BACKOFF_S) - 1)])
    return image.Status(
        doing="waiting for the next try", reason=reason, attempts=attempts, retry_at=(now + wait).isoformat()
    )
