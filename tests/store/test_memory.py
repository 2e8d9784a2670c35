"""The simulation's tables are held to PostgreSQL: the same drafts on both give the same refusals, rows and views."""

from __future__ import annotations

import random
from typing import Any
from uuid import UUID

import msgspec
from tests.world import World

from nubila import errors
from nubila.intent import operation, vm
from nubila.intent.asking import Asking
from nubila.store import volume as volume_views
from nubila.store.database import Database, Retry
from nubila.store.tables import TABLES
from nubila.testing.stage import Stage
from nubila.testing.store import Tables
from nubila.testing.views import VIEWS

TIMES = ("created_at", "updated_at", "at")


class Beside:
    """Every commit of a database, carried out on tables in memory too; what differs is kept."""

    def __init__(self, database: Database):
        self.tables, self.differences, self.commits, self.refused = Tables(Stage(1)), [], 0, 0
        self._database, self._real = database, database._commit
        database._commit = self._commit  # type: ignore[method-assign]

    async def _commit(self, encoded: str) -> str:
        told: Any = None
        answer = ""
        try:
            answer = await self._real(encoded)
            told = sorted(k for k in msgspec.json.decode(answer) if k != "now")
        except errors.NubilaError as e:
            told = _said(e)
        memory: Any = None
        try:
            memory = sorted(k for k in self.tables.commit(msgspec.json.decode(encoded)) if k != "now")
        except errors.NubilaError as e:
            memory = _said(e)
        self.commits += 1
        self.refused += not answer
        if told != memory:
            self.differences.append((told, memory))
        if not answer:
            raise await self._again(encoded)
        return answer

    async def _again(self, encoded: str) -> errors.NubilaError:
        """The refusal once more, as it was: nothing was written."""
        try:
            await self._real(encoded)
        except errors.NubilaError as e:
            return e
        raise AssertionError("refused, and then not")


def _said(e: errors.NubilaError) -> Any:
    changed = sorted(msgspec.json.encode(c, order="sorted").decode() for c in e.changed) if isinstance(e, Retry) else []
    return type(e).__name__, getattr(e, "claim", None), changed


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    shown = {
        k: list(v) if isinstance(v, tuple) else _plain(v) if isinstance(v, dict) else v
        for k, v in row.items()
        if k not in TIMES
    }
    return {k: None if k.endswith("_at") and v is not None else v for k, v in shown.items()}


async def _differing(beside: Beside, database: Database) -> list[str]:
    """Tables whose rows are not the same."""
    found = []
    for t in TABLES:
        if t.name == "node_seen":  # written beside commits
            continue
        rows = await database.fetch(f'select to_jsonb(t)::text as row from "{t.name}" t')
        real = [_plain(msgspec.json.decode(r["row"])) for r in rows]
        memory = [_plain(r) for r in beside.tables.rows[t.name]]
        key = lambda r: [str(r[c]) for c in t.key]  # noqa: B023, E731
        if sorted(real, key=key) != sorted(memory, key=key):
            found.append(t.name)
    return found


async def _something(world: World, draw: random.Random, number: int) -> None:
    rows = await world.database.fetch("select name from vm where removed_at is null order by id")
    name = draw.choice([r["name"] for r in rows]) if rows else "none"
    verb = draw.choice(("create", "create", "start", "stop", "remove", "cancel", "same-name"))
    if verb == "create" or not rows:
        await world.create_vm(f"v{number}", key=f"k{number}")
        return
    view = await world.vm(name)
    if verb == "same-name":
        await world.create_vm(name)
    if verb == "start":
        await world.do(lambda a: vm.start(view, a))
    if verb == "stop":
        for _ in range(2):  # the second rests on what is no longer so
            await world.do(lambda a: vm.stop(vm.VmStop(), view, a))
    if verb == "remove":
        await world.do(lambda a: vm.remove(view, a))
    if verb == "cancel" and view["operations"]:
        op = draw.choice(view["operations"])

        def cancel(asking: Asking) -> Any:
            return operation.cancel(op, view, asking)

        await world.do(cancel)


async def test_the_same_drafts_on_postgresql_and_on_the_simulation_s_tables(
    postgres_socket: str, database_name: str, database: Database
) -> None:
    beside, draw = Beside(database), random.Random(3)
    world = World(postgres_socket, database_name, database)
    await world.fill(nodes=2)
    for number in range(170):
        try:
            await _something(world, draw, number)
        except errors.NubilaError:
            continue
    assert beside.differences == []
    assert beside.commits > 80
    assert beside.refused > 5
    assert await _differing(beside, database) == []
    await _same_views(beside, world)
    await world.close()


async def _same_views(beside: Beside, world: World) -> None:
    """What a report and a verb look at, read from both."""
    rows = await world.database.fetch("select id from vm where removed_at is null")
    read = beside.tables.read()
    for r in rows:
        await _same(world, "BY_ID", r["id"], read)
    for d in await world.database.fetch("select id from volume where removed_at is null"):
        real = await world.database.fetch(volume_views.BY_ID, None, d["id"])
        _equal(real[0], VIEWS[volume_views.BY_ID](read, None, d["id"])[0])
    assert rows


async def _same(world: World, name: str, vm_id: UUID, read: Any) -> None:
    from nubila.store import vm as vm_views

    sql = getattr(vm_views, name)
    real = await world.database.fetch(sql, None, vm_id)
    _equal(real[0], VIEWS[sql](read, None, vm_id)[0])


def _equal(real: Any, memory: Any) -> None:
    assert set(real.keys()) == set(memory)
    for column in memory:
        if column == "now":
            continue
        a, b = (_decoded(x[column]) for x in (real, memory))
        assert a == b, column


def _decoded(value: Any) -> Any:
    found = msgspec.json.decode(value) if isinstance(value, str) and value[:1] in "[{" else value
    if isinstance(found, list):
        return sorted((_plain(x) if isinstance(x, dict) else x for x in found), key=str)
    return _plain(found) if isinstance(found, dict) else found
