"""`?as_of=`: what moment is meant, and whether it can be answered."""

from __future__ import annotations

from datetime import datetime

from nubila import errors
from nubila.store.change import ChangeStore
from nubila.store.cursor import Cursor
from nubila.store.past import Moment


async def moment_of(text: str, fabric_epoch: int, changes: ChangeStore) -> Moment:
    """Raises BadRequest for what is no moment, one to come, or one that the log does not cover any more."""
    cursor = Cursor.parse(text)
    at = None if cursor is not None else _time(text)
    if at is None and cursor is None:
        raise errors.BadRequest(
            f"'{text[:64]}' is neither a time nor a cursor.",
            fix="Write a time with its zone, as in 2026-01-31T12:00:00Z, or a cursor of the change log.",
        )
    now, kept_since, cursor_at = await changes.moment(cursor)
    if at is not None and at > now:
        raise errors.BadRequest(
            f"{at.isoformat()} is yet to come: it is {now.isoformat()}.", fix="Ask for an earlier time."
        )
    if cursor is not None and cursor.fabric_epoch > fabric_epoch:
        raise errors.BadRequest(
            f"The cursor is of fabric epoch {cursor.fabric_epoch}; this is {fabric_epoch}.",
            fix="Use a cursor of this one.",
        )
    asked = at or cursor_at
    if kept_since is not None and (asked is None or asked < kept_since):
        raise errors.BadRequest(
            f"The change log is kept since {kept_since.isoformat()}; what was before is gone.",
            fix="Ask for a later time.",
            kept_since=kept_since.isoformat(),
        )
    return Moment(at=at, cursor=cursor)


def _time(text: str) -> datetime | None:
    try:
        # '+' in an address is a space to whoever decodes it
        found = datetime.fromisoformat(text.replace(" ", "+"))
        return found if found.tzinfo is not None and found.year >= 1 and found.utctimetuple() else None
    except (ValueError, OverflowError):
        return None
