"""The database of a schedule: the product's `Database` over tables in memory, with outages and unknown outcomes to order.

What is above it - stores, the joint commits, the carrier of drafts - is the product's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec

from nubila import errors
from nubila.store import ledger, together
from nubila.store.database import Database, Record
from nubila.store.resource import AccountStore, ResourceStore
from nubila.testing.commit import Commit
from nubila.testing.rows import Row, tables
from nubila.testing.stage import Stage
from nubila.testing.view_parts import Read, encoded, moment
from nubila.testing.views import VIEWS, node_rows

LATENCY_S = (0.0005, 0.004)


class Tables:
    """What all processes share: the rows, the clock, and what befalls commits."""

    def __init__(self, stage: Stage):
        self.stage = stage
        self.rows = tables()
        self.away = False
        self.unknown = 0  # so many of the next commits do not say what became of them
        self.commits = 0
        self.on_commit: Callable[[dict[str, Any], Commit], None] = lambda draft, commit: None

    def now(self) -> datetime:
        before, self.stage.process = self.stage.process, None
        try:
            return datetime.fromtimestamp(round(self.stage.wall_s(), 6), UTC)
        finally:
            self.stage.process = before

    def read(self) -> Read:
        return Read(self.rows, self.now())

    def commit(self, draft: dict[str, Any]) -> dict[str, Any]:
        commit = Commit(self.rows, self.now().isoformat())
        answer = commit.run(draft)
        self.commits += 1
        self.on_commit(draft, commit)
        return answer


class MemoryDatabase(Database):
    """One process's connection to the tables."""

    def __init__(self, tables: Tables, *, at_once: int = 6):
        self._tables = tables
        self.commits_at_once = at_once
        self._turns = asyncio.Semaphore(at_once)
        self._together = together.Together(self._write)

    async def fetch(self, sql: str, *args: Any) -> list[Record]:
        await self._travel()
        rows = self._rare(sql, args) if sql not in VIEWS else list[Record](VIEWS[sql](self._tables.read(), *args))
        await self._travel()
        return rows

    async def row(self, sql: str, *args: Any) -> Record | None:
        found = await self.fetch(sql, *args)
        return found[0] if found else None

    async def value(self, sql: str, *args: Any) -> Any:
        found = await self.row(sql, *args)
        return None if found is None else next(iter(found.values()))

    async def execute(self, sql: str, *args: Any) -> str:
        await self.fetch(sql, *args)
        return ""

    def _rare(self, sql: str, args: tuple[Any, ...]) -> list[Record]:
        r = self._tables.read()
        if sql == AccountStore.NODE_ROWS:
            return list(node_rows(r, *args))
        if sql == ledger.CALL or sql in ledger.FORGET:
            return []
        raise LookupError(f"nobody taught the simulation this statement: {sql[:200]}")

    async def _commit(self, encoded_draft: str) -> str:
        await self._travel()
        unknown = self._tables.unknown > 0
        if unknown:
            self._tables.unknown -= 1
            if self._tables.stage.random.random() < 0.5:
                raise errors.OutcomeUnknown(inside="lost on its way to the database")
        answer = self._tables.commit(msgspec.json.decode(encoded_draft))
        if unknown:
            raise errors.OutcomeUnknown(inside="the answer was lost")
        await self._travel()
        return msgspec.json.encode(answer).decode()

    async def _travel(self) -> None:
        await asyncio.sleep(self._tables.stage.random.uniform(*LATENCY_S))
        if self._tables.away:
            raise errors.DatabaseAway(inside="the simulated database is away")


class MemoryResources(ResourceStore):
    """Objects as their readers see them, without the columns that only people need."""

    def __init__(self, database: Database, tables: Tables):
        super().__init__(database)
        self._tables = tables

    async def one(
        self,
        kind: str,
        *,
        project_id: UUID | None = None,
        object_id: UUID | None = None,
        name: str | None = None,
        removed: bool = False,
    ) -> Record | None:
        await asyncio.sleep(0.001)
        row = self._find(kind, project_id, object_id, name, removed=removed or kind == "operation")
        return None if row is None else shown(self._tables.read(), kind, row)

    async def whole(
        self,
        kind: str,
        *,
        project_id: UUID | None = None,
        object_id: UUID | None = None,
        name: str | None = None,
        **equals: Any,
    ) -> dict[str, Any] | None:
        await asyncio.sleep(0.001)
        row = self._find(kind, project_id, object_id, name, removed=kind == "operation")
        return None if row is None else dict(row)

    def _find(
        self, kind: str, project_id: UUID | None, object_id: UUID | None, name: str | None, *, removed: bool
    ) -> Row | None:
        if self._tables.away:
            raise errors.DatabaseAway(inside="the simulated database is away")
        for row in self._tables.rows[kind]:
            mine = project_id is None or row.get("project_id") in (None, str(project_id))
            meant = row["id"] == str(object_id) if object_id is not None else row["name"] == name
            if mine and meant and (removed or row["removed_at"] is None):
                return row
        return None


# columns that a reader gets as ids and times, not as text
IDS = ("id", "project_id", "node_id", "vm_id", "volume_id", "image_id", "flavor_id", "resource_id", "network_id")


def shown(r: Read, kind: str, row: Row) -> Row:
    out = {k: encoded(v) if k in ("spec", "status", "labels") else v for k, v in row.items()}
    out |= {k: UUID(row[k]) for k in IDS if isinstance(row.get(k), str)}
    out |= {k: moment(v) for k, v in row.items() if k.endswith("_at") and isinstance(v, str)}
    if kind == "vm":
        seen = r.tables["node_seen"].get(row["node_id"])
        out["silent_s"] = None if seen is None else (r.now - moment(seen["seen_at"])).total_seconds()
        out |= {"addresses": "", "flavor_name": "", "image_name": "", "login": None, "node_name": ""}
    if kind == "volume":
        held = [a for a in r.tables["attachment"].of("volume_id", row["id"]) if a["state"] in ("active", "revoking")]
        vm_id = held[0]["vm_id"] if held else None
        out |= {"vm_id": None if vm_id is None else UUID(vm_id), "vm_name": r.name("vm", vm_id), "epoch": 0}
        out["detaching"] = bool(held) and held[0]["state"] == "revoking"
    if kind == "snapshot":
        out["volume_name"] = r.name("volume", row["volume_id"])
    return out
