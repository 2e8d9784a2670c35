"""A database that was dumped and loaded, or set back in time: adopted, its log goes on without a gap under a new epoch."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from tests import postgres
from tests.postgres import Server, binaries
from tests.world import World

from nubila.reconcile.retention import Trimmer
from nubila.store.adopt import adopt, is_foreign
from nubila.store.audit import Anchor, AuditStore
from nubila.store.change import ChangeStore, Cursor
from nubila.store.database import Database, Record
from nubila.store.migrate import migrate
from nubila.store.past import Moment, PastDatabase
from nubila.store.resource import Filter, ResourceStore
from nubila.store.retention import Trimmed, trim
from nubila.store.seal import SealStore
from nubila.store.work import WorkStore

pytestmark = pytest.mark.slow


async def seal_all(database: Database) -> None:
    while await SealStore(database).seal(rows_max=50) is not None:
        pass


async def names(database: Database, moment: Moment) -> list[str]:
    rows = await ResourceStore(PastDatabase(database, moment)).list("vm", Filter())
    return [r["name"] for r in rows]


def run(*words: object) -> None:
    subprocess.run([str(w) for w in words], check=True, timeout=60, stdout=subprocess.DEVNULL)


async def anchors(database: Database) -> list[Anchor]:
    rows = await database.fetch("select fabric_epoch, block, hash from seal")
    return [Anchor(source="n1", **dict(r)) for r in rows]


async def test_a_dump_loaded_into_a_new_server_is_adopted_and_nothing_is_skipped(world: World, tmp_path: Path) -> None:
    for n in range(3):
        await world.create_vm(f"v{n}")
    await seal_all(world.database)
    await world.create_vm("unsealed")
    changes, old = ChangeStore(world.database), Cursor(1, 0, 0)
    logged = [r["seq"] for r in await changes.read(old, limit=1000)]
    seen, end, moment = (
        await anchors(world.database),
        await changes.end(1),
        Moment(at=await world.database.value("select clock_timestamp()")),
    )
    was = await names(world.database, moment)
    dump = tmp_path / "dump.sql"
    run(binaries() / "pg_dump", "-h", world.socket, "-U", "nubila", "-f", dump, world.name)
    with postgres.server() as server:
        run(binaries() / "createdb", "-h", server.top, "-U", "nubila", "loaded")
        run(binaries() / "psql", "-q", "-v", "ON_ERROR_STOP=1", "-h", server.top, "-U", "nubila", "-f", dump, "loaded")
        database = await Database.open(host=str(server.top), database="loaded", size=3)
        try:
            # the twin: without an adoption a new server reads nothing of what it has not come to yet
            low = await database.value("select max(c.xid) >= pg_snapshot_xmax(pg_current_snapshot()) from change c")
            assert await is_foreign(database) is low
            adopted = await adopt(database, world.mint())
            assert (adopted.fabric_epoch, adopted.sealed > 0) == (2, True)
            assert not await is_foreign(database)
            store = ChangeStore(database)
            start = Cursor(2, 0, 0, of=0)
            assert [r["seq"] for r in await store.read(start, limit=1000)] == logged
            made = World(str(server.top), "loaded", database)
            made.project_id = world.project_id
            await made.create_vm("after")
            rows = await store.read(start, limit=1000)
            assert [r["seq"] for r in rows[: len(logged)]] == logged
            assert {r["fabric_epoch"] for r in rows[len(logged) :]} == {2}
            assert {r["kind"] for r in rows[len(logged) :]} >= {"vm", "operation"}
            assert len([r for r in await store.read(Cursor(2, 0, 0), limit=1000)]) == len(rows) - len(logged)
            assert await names(database, moment) == was
            assert (await names(database, Moment()))[-1] == "after"
            assert end.fabric_epoch == 1
            await seal_all(database)
            verdict = await AuditStore(database).verify(2, seen)
            assert (verdict.findings, verdict.unsealed) == ([], 0)
            await made.close()
        finally:
            await database.close()


def archived(top: Path) -> dict[str, str]:
    """Settings of a server that keeps its WAL, as one that can be restored to a point in time must."""
    (top / "wal").mkdir()
    (top / "wal").chmod(0o777)
    return {"archive_mode": "on", "archive_command": f"cp %p {top}/wal/%f", "wal_level": "replica"}


@contextmanager
def set_back(source: Server, backup: Path, to: datetime) -> Iterator[Server]:
    """A server on the base backup, brought to a moment by the archived WAL and promoted: a point-in-time restore."""
    made = Server(backup)
    (made.data / "recovery.signal").touch()
    with (made.data / "postgresql.auto.conf").open("a") as file:
        file.write(f"restore_command = 'cp {source.top}/wal/%f %p'\n")
        file.write(f"recovery_target_time = '{to.isoformat()}'\nrecovery_target_action = 'promote'\n")
    for path in [backup, *backup.rglob("*")]:
        shutil.chown(path, "nobody", "nogroup")
    try:
        made.start()
        yield made
    finally:
        made.stop()


async def opened(server: Server, name: str = "nubila") -> Database:
    """Once it takes writes; while it recovers it refuses them, and a warm connection is one."""
    for _ in range(300):
        done = subprocess.run(
            [binaries() / "psql", "-h", server.top, "-U", "nubila", "-tAc", "select pg_is_in_recovery()", name],
            capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
        if done.stdout.strip() == "f":
            break
        await asyncio.sleep(0.1)
    return await Database.open(host=str(server.top), database=name, size=3)


async def test_a_restore_to_a_point_in_time_takes_back_what_was_and_says_so() -> None:
    top = Path(tempfile.mkdtemp(prefix="nbpg-", dir="/tmp"))
    try:
        with postgres.server(archived) as source:
            run(binaries() / "createdb", "-h", source.top, "-U", "nubila", "nubila")
            await migrate(str(source.top), "r")
            database = await Database.open(host=str(source.top), size=3)
            world = World(str(source.top), "nubila", database)
            await world.fill()
            await world.create_vm("before")
            run(
                binaries() / "pg_basebackup",
                "-h",
                source.top,
                "-U",
                "nubila",
                "-D",
                top / "data",
                "-X",
                "none",
                "-c",
                "fast",
            )
            await world.create_vm("replayed")  # after the backup: only the WAL has it
            await seal_all(database)
            reader = (await ChangeStore(database).read(Cursor(1, 0, 0), limit=1000))[-1]
            moment: datetime = await database.value("select clock_timestamp()")
            await world.create_vm("lost")
            await seal_all(database)
            seen, log = await anchors(database), await ChangeStore(database).read(Cursor(1, 0, 0), limit=1000)
            ended = await database.value("select pg_walfile_name(pg_switch_wal())")
            async with asyncio.timeout(30):
                while not (source.top / "wal" / ended).exists():
                    await asyncio.sleep(0.1)
            await database.close()
            with set_back(source, top, moment) as server:
                await after_restore(server, world, seen, log, reader)
    finally:
        shutil.rmtree(top, ignore_errors=True)


async def after_restore(server: Server, was: World, seen: list[Anchor], log: list[Record], reader: Record) -> None:
    database = await opened(server)
    try:
        assert await names(database, Moment()) == ["before", "replayed"]
        # without an adoption a node's anchor tells that the end is missing
        assert {f.what for f in (await AuditStore(database).verify(1, seen)).findings} == {"tail-cut"}
        assert (await adopt(database, was.mint())).fabric_epoch == 2
        made = World(str(server.top), "nubila", database)
        made.project_id = was.project_id
        await made.create_vm("new")
        await seal_all(database)
        verdict = await AuditStore(database).verify(2, seen)
        assert {f.what for f in verdict.findings} == {"restored"}
        assert verdict.sound
        # a reader from the lost future is told by its epoch, and starts anew
        lost = [r for r in log if (r["xid"], r["seq"]) > (reader["xid"], reader["seq"])]
        assert Cursor(1, lost[-1]["xid"], lost[-1]["seq"]).fabric_epoch != 2
        again = await ChangeStore(database).read(Cursor(2, 0, 0, of=0), limit=1000)
        kept = [(r["xid"], r["seq"]) for r in log if r not in lost]
        assert [(r["xid"], r["seq"]) for r in again][: len(kept)] == kept
        assert {"new"} == {msgspec.json.decode(r["content"])["name"] for r in again[len(kept) :] if r["kind"] == "vm"}
        assert await names(database, Moment()) == ["before", "replayed", "new"]
        assert await database.value("select pg_walfile_name(pg_current_wal_lsn()) like '00000002%'")
        await made.close()
    finally:
        await database.close()


async def test_trimmed_the_log_answers_for_every_moment_since(world: World) -> None:
    await world.create_vm("old")
    await world.create_vm("gone")
    await world.remove_vm("gone")
    for table in ("port", "volume", "vm"):  # as its node's report would have it
        await world.database.execute(
            f"update {table} set state = 'removing' where name like 'gone%' and state <> 'removing' and '{table}' = 'volume'"
        )
        await world.database.execute(
            f"update {table} set removed_at = now(), state = 'removed' where name like 'gone%'"
        )
    await world.database.execute("update flavor set removed_at = now(), state = 'removed'")
    await seal_all(world.database)
    cut = await world.database.value("select clock_timestamp()")
    await world.database.execute("update vm set labels = '{\"young\": \"1\"}' where name = 'old'")
    await seal_all(world.database)
    now = await world.database.value("select clock_timestamp()")
    stores = {
        k: await ResourceStore(PastDatabase(world.database, Moment(at=now))).list(k, Filter())
        for k in ("vm", "port", "volume", "network")
    }
    head = await world.database.value("select max(seq) from change")
    cursor = Cursor(
        1, *(await world.database.row("select xid::text::bigint, seq from change where seq = $1", head)).values()
    )  # type: ignore[union-attr]
    trimmed = await trim(world.database, cut)
    assert trimmed.since is not None and trimmed.since <= cut
    assert 0 < trimmed.kept < trimmed.gone
    for moment in (Moment(at=now), Moment(cursor=cursor)):
        past = ResourceStore(PastDatabase(world.database, moment))
        for kind, rows in stores.items():
            assert [tuple(r.values()) for r in await past.list(kind, Filter())] == [
                tuple(r.values()) for r in rows
            ] or kind == "vm"
        assert await names(world.database, moment) == ["old"]
    assert await names(world.database, Moment(at=cut)) == ["old"]
    await seal_all(world.database)
    assert (await AuditStore(world.database).verify(1)).findings == []
    assert not await ChangeStore(world.database).covers(Cursor(1, 0, 0))
    assert await ChangeStore(world.database).covers(cursor)
    # nothing of it is news to a reader
    assert not [r for r in await ChangeStore(world.database).read(cursor, limit=1000)]
    again = await trim(world.database, now + timedelta(seconds=1))
    assert again.gone > 0
    assert await names(world.database, Moment()) == ["old"]


async def test_the_log_is_kept_as_long_as_the_setting_says(world: World) -> None:
    await world.create_vm("old")
    await seal_all(world.database)
    before = await world.database.value("select count(*) from change")
    work = WorkStore(world.database)
    forever = Trimmer(world.database, work, "a", timedelta(0))
    await asyncio.wait_for(forever.run(asyncio.Event()), 1)  # without a limit there is nothing to do
    month = Trimmer(world.database, work, "a", timedelta(days=30))
    assert (await month.once()) == Trimmed(None)
    assert await world.database.value("select count(*) from change") == before
    for table in ("change", "seal"):  # as if what was done had been done long ago
        await world.database.execute(f"update {table} set at = at - interval '31 days'")
    await work.lead("trim", "another", 60)
    assert await month.once() is None
    await work.release("trim", "another")
    trimmed = await month.once()
    assert trimmed is not None
    assert 0 < trimmed.kept < trimmed.gone
    assert await names(world.database, Moment()) == ["old"]
    assert await Trimmer(world.database, work, "b", timedelta(days=30)).once() == Trimmed(
        None
    )  # the lease was given back
