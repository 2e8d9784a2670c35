"""`?as_of=` over a log of 100,000 VMs: a page of everything, and a page of a small project among all the others.

The rows are one real VM's, copied by SQL with the triggers on, so that the log has what creates would have written; then
each is changed twice more, so that the newest row is never the one that is asked for.
"""

from __future__ import annotations

import asyncio
import time
from statistics import median
from typing import Any
from uuid import UUID

from tests import postgres
from tests.world import World

from nubila.store.database import Database
from nubila.store.migrate import migrate
from nubila.store.past import Moment, PastDatabase
from nubila.store.resource import Filter, ResourceStore

VMS = 100_000
SMALL = UUID(int=0x0196 << 112 | 7 << 76 | 2 << 62 | 1)
MAP = """
create table copies as select n, gen_random_uuid() as vm, gen_random_uuid() as port,
       case when n % 1000 = 0 then $1::uuid else (select project_id from vm limit 1) end as project
  from generate_series(1, $2::int) n
"""
VM = """
insert into vm select r.* from copies m, vm v, jsonb_populate_record(v, jsonb_build_object(
       'id', m.vm, 'name', 'v' || m.n, 'project_id', m.project)) r where v.name = 'one'
"""
PORT = """
insert into port select r.* from copies m, port p, jsonb_populate_record(p, jsonb_build_object(
       'id', m.port, 'name', 'p' || m.n, 'vm_id', m.vm, 'project_id', m.project, 'network_id', gen_random_uuid())) r
 where p.name like 'one%'
"""
ADDRESS = """
insert into address (network_id, address, subnet_id, port_id, origin)
select gen_random_uuid(), '10.9.0.1', gen_random_uuid(), port, 'allocated' from copies
"""
CHANGE = "update vm set labels = jsonb_build_object('n', $1::text)"


async def _filled(socket: str, count: int) -> Database:
    database = await Database.open(host=socket, size=4)
    world = World(socket, "nubila", database)
    await world.fill()
    await world.create_vm("one")
    async with database.connection() as c:
        await c.execute(MAP, SMALL, count)
        for sql in (VM, PORT, ADDRESS):
            await c.execute(sql, timeout=600)
    return database


async def _pages(store: ResourceStore, project_id: UUID | None, pages: int) -> list[float]:
    times: list[float] = []
    after = None
    for _ in range(pages):
        began = time.perf_counter()
        rows = await store.list("vm", Filter(project_id=project_id, limit=100, after=after))
        times.append((time.perf_counter() - began) * 1e3)
        assert rows
        after = rows[-1]["id"] if len(rows) > 100 else None
    return times


async def _measure(socket: str, quick: bool) -> dict[str, Any]:
    await migrate(socket, "bench")
    database = await _filled(socket, VMS // 10 if quick else VMS)
    try:
        moment = await database.value("select clock_timestamp()")
        async with database.connection() as c:
            for n in ("1", "2"):
                await c.execute(CHANGE, n, timeout=600)
            await c.execute("vacuum analyze", timeout=600)
        then, now = ResourceStore(PastDatabase(database, Moment(at=moment))), ResourceStore(database)
        found: dict[str, Any] = {}
        for name, store in (("as_of", then), ("present", now)):
            for scope, project_id in (("", None), ("_project", SMALL)):
                await _pages(store, project_id, 6)
                found[f"{name}{scope}_page_ms"] = median(await _pages(store, project_id, 30))
        return found
    finally:
        await database.close()


def run(quick: bool) -> dict[str, Any]:
    with postgres.running() as socket:
        import subprocess

        subprocess.run([str(postgres.binaries() / "createdb"), "-h", socket, "-U", "nubila", "nubila"], check=True)
        return asyncio.run(_measure(socket, quick))


if __name__ == "__main__":
    import sys

    print(run("--quick" in sys.argv))
