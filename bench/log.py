"""What the change log costs a VM: PostgreSQL's CPU with and without its triggers, the sealing, and bytes on disk.

The same creates by turns with the log and without it, straight to the database: what differs is the log alone.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from pathlib import Path
from typing import Any

from tests import postgres
from tests.world import World

from bench import cpu
from nubila.model.catalog import QuotaClass
from nubila.store.database import Database
from nubila.store.migrate import migrate
from nubila.store.seal import SealStore
from nubila.store.tables import TABLES

TURNS = 4
SIZE = "select pg_total_relation_size('change') + pg_total_relation_size('seal')"


async def _switch(database: Database, word: str) -> None:
    for t in TABLES:
        for trigger in ("log_insert_delete", "log_update") if t.logged else ():
            await database.execute(f'alter table "{t.name}" {word} trigger {trigger}')


async def _creates(world: World, prefix: str, count: int, postmaster: int) -> float:
    """CPU seconds of PostgreSQL."""
    before = cpu.seconds(postmaster)
    for n in range(count):
        await world.create_vm(f"{prefix}-{n}")
    return cpu.seconds(postmaster) - before


async def _measure(socket: str, count: int) -> dict[str, Any]:
    await migrate(socket, "bench")
    database = await Database.open(host=socket, size=4)
    postmaster = int((Path(socket) / "data/postmaster.pid").read_text().split()[0])
    world = World(socket, "nubila", database)
    try:
        await world.fill(0, "10.9.0.0/16")
        await world.add_node(cores=1 << 16, memory_mib=1 << 24, disk_gib=1 << 16)
        await database.execute("update quota set amount = 1000000 where class = any($1)", [c.value for c in QuotaClass])
        await database.execute("update inventory set total = 1 << 28")
        await database.execute("update node_seen set seen_at = now() + interval '1 day'")  # it says nothing here
        seals = SealStore(database)
        await _creates(world, "warm", count // TURNS, postmaster)
        used = {"enable": 0.0, "disable": 0.0}
        while await seals.seal() is not None:
            pass
        size, sealing = int(await database.value(SIZE)), 0.0
        for turn in range(TURNS):
            for word in used:
                await _switch(database, word)
                used[word] += await _creates(world, f"{word}-{turn}", count // TURNS, postmaster)
            before = cpu.seconds(postmaster) + time.process_time()
            while await seals.seal() is not None:
                pass
            sealing += cpu.seconds(postmaster) + time.process_time() - before
        vms = count // TURNS * TURNS
        return {
            "log_cpu_ms_per_vm": (used["enable"] - used["disable"]) / vms * 1e3,
            "seal_cpu_ms_per_vm": sealing / vms * 1e3,
            "unlogged_cpu_ms_per_vm": used["disable"] / vms * 1e3,
            "log_bytes_per_vm": (int(await database.value(SIZE)) - size) / vms,
        }
    finally:
        await world.close()
        await database.close()


def run(quick: bool) -> dict[str, Any]:
    with postgres.running() as socket:
        subprocess.run([str(postgres.binaries() / "createdb"), "-h", socket, "-U", "nubila", "nubila"], check=True)
        return asyncio.run(_measure(socket, 80 if quick else 400))


if __name__ == "__main__":
    import sys

    print(run("--quick" in sys.argv))
