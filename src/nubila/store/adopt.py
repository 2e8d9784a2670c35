"""Taking over a database that was restored or loaded: a new fabric epoch, so that nobody takes its numbers for the old ones.

A new server counts transactions anew, and one that was set back gives numbers again that readers have seen. Under a new
epoch older cursors get a reset, agents ask for everything, and rows of older epochs stay where they are in the log.
"""

from __future__ import annotations

from uuid import UUID

import msgspec

from nubila.store.database import Database
from nubila.store.seal import SealStore

# a transaction that this server has not come to: the rows were written on another one
FOREIGN = """
select exists (select from change c, fabric f where c.fabric_epoch = f.fabric_epoch and c.xid >= pg_snapshot_xmax(pg_current_snapshot()))
"""
RAISE = "update fabric set fabric_epoch = fabric_epoch + 1 returning fabric_epoch"
NOTE = """insert into call (id, actor, request, action, outcome, detail)
values ($1, 'system:adopt', '', 'database.adopt', 'accepted', jsonb_build_object('fabric_epoch', $2::bigint))"""


class Adopted(msgspec.Struct, frozen=True):
    fabric_epoch: int
    sealed: int  # rows that were not sealed yet


async def is_foreign(database: Database) -> bool:
    """The log holds rows of transactions that this server never had: it was loaded, and must be adopted first."""
    return bool(await database.value(FOREIGN))


async def adopt(database: Database, call_id: UUID) -> Adopted:
    """Close the epoch that was with a last seal, and begin the next. All of it or nothing but seals."""
    sealed = 0
    async with database.connection() as c, c.transaction():
        await c.execute("lock table change in exclusive mode")  # whoever writes meanwhile does so in the new epoch
        while (seal := await SealStore(database).seal(closing=True)) is not None:
            sealed += seal.count
        epoch = int(await c.fetchval(RAISE))
        await c.execute(f"alter table change alter column fabric_epoch set default {epoch}")
        await c.execute("delete from lease")
        await c.execute(NOTE, call_id, epoch)
    return Adopted(epoch, sealed)
