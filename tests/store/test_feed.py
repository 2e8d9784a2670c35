"""Event streams of one process: one reader for all, a slow one is cut at a place from which nothing is skipped."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from tests.world import World

from nubila.api.noun.event import EventQuery, Source, Wanted, _follow
from nubila.api.route import Gate
from nubila.model.catalog import Plane
from nubila.store.change import ChangeStore, Cursor
from nubila.store.database import Record
from nubila.store.feed import BATCH, Feed

ALL = Wanted(None, None, None, None)


class Counted(ChangeStore):
    """Counts how often the log is read."""

    reads = 0

    async def read(self, after: Cursor, **more: Any) -> list[Record]:
        self.reads += 1
        return await super().read(after, **more)


@asynccontextmanager
async def feeding(world: World, changes: ChangeStore, rows_max: int = 4096) -> AsyncIterator[Feed]:
    feed = Feed(partial(changes.read, limit=BATCH), partial(changes.end, 1), world.hub, 1, rows_max)
    task = asyncio.create_task(feed.run())
    try:
        yield feed
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def up(feed: Feed) -> None:
    """The feed has come to the end of the log."""
    async with asyncio.timeout(10):
        while feed.ring is None:
            await asyncio.sleep(0.01)


async def taken(source: Source, count: int) -> list[int]:
    got: list[int] = []
    async with asyncio.timeout(10):
        while len(got) < count:
            rows = await source.next()
            assert rows is not None
            got += [r["seq"] for r in rows]
            await asyncio.sleep(0.01)
    return got


async def seqs(world: World, after: int) -> list[int]:
    return [
        r["seq"] for r in await world.database.fetch("select seq from change where seq > $1 order by xid, seq", after)
    ]


async def test_twenty_streams_are_one_reader(world: World) -> None:
    shared, own = Counted(world.database), Counted(world.database)
    async with feeding(world, shared) as feed:
        last = await world.database.value("select max(seq) from change")
        sources = [Source(feed, own, ALL, await own.end(1)) for _ in range(20)]
        await up(feed)
        for n in range(5):
            await world.create_vm(f"v{n}")
        wanted = await seqs(world, last)
        assert all([await taken(s, len(wanted)) == wanted for s in sources])
        assert own.reads <= 20
        before = own.reads
        await world.create_vm("more")
        more = await seqs(world, wanted[-1])
        assert all([await taken(s, len(more)) == more for s in sources])
        assert own.reads == before  # the twin of the above: not one read of their own any more
        for s in sources:
            s.close()
        async with asyncio.timeout(5):
            while feed.ring is not None:
                await asyncio.sleep(0.05)
        before = shared.reads
        await world.create_vm("nobody-listens")
        await asyncio.sleep(0.3)
        assert shared.reads == before


async def test_one_that_resumes_reads_its_own_way_up_and_each_row_comes_once(world: World) -> None:
    changes = ChangeStore(world.database)
    async with feeding(world, changes) as feed:
        first = Source(feed, changes, ALL, await changes.end(1))
        await up(feed)
        for n in range(3):
            await world.create_vm(f"v{n}")
        late = Source(feed, changes, ALL, Cursor(1, 0, 0))
        wanted = await seqs(world, 0)
        assert await taken(late, len(wanted)) == wanted
        await world.create_vm("last")
        assert await taken(late, 1) == await seqs(world, wanted[-1])
        only = Source(feed, changes, Wanted(("vm",), world.project_id, None, world.node_ids[0]), Cursor(1, 0, 0))
        assert len(await taken(only, 4)) == 4
        await world.create_vm("filtered")
        assert len(await taken(only, 1)) == 1
        for s in (first, late, only):
            s.close()


def a_call(feed: Feed) -> Any:
    async def again() -> Any:
        return principal

    principal = SimpleNamespace(plane=Plane.OPERATOR, project_id=None, role=None, permissions=frozenset())
    context = SimpleNamespace(feed=feed, fabric_epoch=1)
    return SimpleNamespace(
        context=context, gate=Gate(), query=EventQuery(), principal=principal, again=again, viewer="operator"
    )


async def events(pieces: AsyncIterator[bytes], until: str) -> list[dict[str, str]]:
    out: list[dict[str, str]] = []
    async with asyncio.timeout(10):
        async for piece in pieces:
            for text in piece.decode().split("\n\n"):
                fields = dict(line.split(": ", 1) for line in text.splitlines() if not line.startswith(":"))
                out += [fields] if fields else []
            if out and out[-1]["event"] == until:
                break
    return out


async def test_a_slow_client_is_cut_and_resumes_without_a_gap(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nubila.api.noun.event._refused", lambda call: asyncio.sleep(0))
    changes = ChangeStore(world.database)
    last = await world.database.value("select max(seq) from change")
    async with feeding(world, changes, rows_max=10) as feed:
        slow = _follow(a_call(feed), changes, ALL, await changes.end(1), reset=False)
        assert b"event: begin" in await anext(slow)
        taking = asyncio.ensure_future(anext(slow))  # comes up to the feed, takes one batch, and then nothing
        await up(feed)
        await world.create_vm("v0")
        begun = await taking
        for n in range(1, 6):
            await world.create_vm(f"v{n}")
        high = await world.database.value("select max(seq) from change")
        async with asyncio.timeout(10):
            while feed.ring is None or feed.ring.high[2] < high:
                await asyncio.sleep(0.01)
        rest = await events(slow, "cut")
        assert rest[-1]["event"] == "cut"
        told = [f for f in begun.decode().split("\n\n") if f]
        cursor = Cursor.parse(rest[-1]["id"])
        assert cursor is not None
        assert rest[-1]["id"] == (rest[-2]["id"] if len(rest) > 1 else told[-1].splitlines()[0].removeprefix("id: "))
        got = [int(f.splitlines()[0].rpartition(".")[2]) for f in told] + [
            int(e["id"].rpartition(".")[2]) for e in rest[:-1]
        ]
        await slow.aclose()
        again = _follow(a_call(feed), changes, ALL, cursor, reset=False)
        wanted = await seqs(world, last)
        async with asyncio.timeout(10):
            async for piece in again:
                found = [line for line in piece.decode().splitlines() if line.startswith("data: ")]
                got += [
                    int(c["cursor"].rpartition(".")[2]) for line in found if "action" in (c := json.loads(line[6:]))
                ]
                if len(got) >= len(wanted):
                    break
        await again.aclose()
        assert got == wanted
