"""The database as it was: the statements that read the present, run over the views of the schema `past`.

The schema goes first in the search path and the moment into the session, for one transaction; so every list and every
resource has a past without a line of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import asyncpg
import msgspec

from nubila.store.cursor import Cursor
from nubila.store.database import Database, Record

SET = """select set_config('search_path', 'past, public', true), set_config('nubila.as_of', $1, true),
    set_config('nubila.as_of_epoch', $2, true), set_config('nubila.as_of_xid', $3, true),
    set_config('nubila.as_of_seq', $4, true)"""
# Another text is another prepared statement: planned once for the past, and once for the present.
MARK = " -- as of"
BIGGEST = str(2**63 - 1)
# The time of a read: now, or that of the moment that is asked for; of a cursor, that of the last row up to it.
CLOCK = """select case coalesce(current_setting('nubila.as_of', true), '') when '' then now()
    when 'infinity' then (select at from change where (fabric_epoch, xid, seq) <= (nullif(current_setting('nubila.as_of_epoch', true), '')::bigint,
        nullif(current_setting('nubila.as_of_xid', true), '')::xid8, nullif(current_setting('nubila.as_of_seq', true), '')::bigint)
        order by fabric_epoch desc, xid desc, seq desc limit 1)
    else current_setting('nubila.as_of')::timestamptz end"""


class Moment(msgspec.Struct, frozen=True):
    """Up to when: a time, or a place in the log."""

    at: datetime | None = None
    cursor: Cursor | None = None

    def settings(self) -> tuple[str, str, str, str]:
        at = "infinity" if self.at is None else self.at.isoformat()
        if self.cursor is None:
            return at, BIGGEST, BIGGEST, BIGGEST
        epoch, xid, seq = self.cursor.place
        return at, str(epoch), str(xid), str(seq)


class PastDatabase(Database):
    """Reads what the same statements would have read then."""

    def __init__(self, database: Database, moment: Moment):
        super().__init__(database.connections)
        self._settings = moment.settings()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection]:
        async with super().connection() as c, c.transaction(readonly=True):
            await c.fetchval(SET, *self._settings)
            yield c

    async def fetch(self, sql: str, *args: Any) -> list[Record]:
        return await super().fetch(sql + MARK, *args)

    async def row(self, sql: str, *args: Any) -> Record | None:
        return await super().row(sql + MARK, *args)

    async def value(self, sql: str, *args: Any) -> Any:
        return await super().value(sql + MARK, *args)
