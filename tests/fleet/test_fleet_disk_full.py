"""F8: no room is left where the database lies, then there is again: clean refusals, nothing acknowledged lost, no hand needed.

The database's files are on a small file system, in a mount namespace that only the server is in.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import postgres
from tests.fleet.installation import Installation, until
from tests.fleet.tenant import Tenant, refused
from tests.fleet.test_fleet_faults import POOL

pytestmark = [pytest.mark.slow, pytest.mark.real]
SIZE_MIB = 200
AT_ONCE = 8
SLUGS = {"database-full", "database-away", "outcome-unknown", "unavailable", "busy"}


class Disk:
    """The small file system, seen from outside."""

    def __init__(self, holder: int, data: Path):
        self._top = Path(f"/proc/{holder}/root{data}")

    def fill(self) -> None:
        with (self._top / "filler").open("ab") as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 16))
                file.flush()

    def free(self) -> None:
        (self._top / "filler").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def small() -> Iterator[tuple[Installation, Disk]]:
    nobody = pwd.getpwnam("nobody")
    top = Path(tempfile.mkdtemp(prefix="nbpg-", dir="/tmp"))
    shutil.chown(top, nobody.pw_uid, nobody.pw_gid)
    data = top / "data"
    data.mkdir()
    options = f"size={SIZE_MIB}m,mode=0700,uid={nobody.pw_uid},gid={nobody.pw_gid}"
    script = f"mount -t tmpfs -o {options} small {data} && echo ready && exec sleep 3600"
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
    holder = subprocess.Popen(words, stdout=subprocess.PIPE)
    server = postgres.Server(top)
    made = Installation(server, 1)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"ready\n"
        server.within = ("nsenter", f"--target={holder.pid}", "--mount")
        server.create()
        server.start()
        made.create()
        yield made, Disk(holder.pid, data)
    finally:
        made.destroy()
        server.stop()
        holder.kill()
        holder.wait()
        shutil.rmtree(top, ignore_errors=True)


class Writers:
    """Creates, each under its own key until it is acknowledged."""

    def __init__(self, tenant: Tenant):
        self.tenant = tenant
        self.acknowledged: dict[str, str] = {}
        self.refused: list[str] = []
        self.seen: Counter[str] = Counter()

    def burst(self, names: list[str]) -> None:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(self.create, names))

    def create(self, name: str) -> None:
        wish = self.tenant.wish(name, user_data="x" * 60_000)
        reply = self.tenant.owner.post("/v1/vms", wish, idempotency_key=f"key-{name}")
        if reply.status == 201:
            self.acknowledged[name] = reply.body["vm"]["id"]
            self.seen["201"] += 1
            return
        assert reply.status in (503, 507), reply
        problem = refused(reply, reply.status, reply.slug)
        assert problem["slug"] in SLUGS and reply.headers["retry-after"], problem
        self.seen[problem["slug"]] += 1
        self.refused.append(name)


@pytest.mark.parametrize("what", ["files", "log"])
def test_f8_a_full_disk_of_the_database_is_told_and_gotten_over(small: tuple[Installation, Disk], what: str) -> None:
    cloud, disk = small
    writers = Writers(Tenant(cloud))
    writers.burst([f"before-{n}" for n in range(AT_ONCE)])
    assert writers.seen == {"201": AT_ONCE}
    disk.fill()
    if what == "log":  # what is left of its present file is not enough to go on with
        with contextlib.suppress(Exception):
            cloud.sql("select pg_switch_wal()")
    deadline = time.monotonic() + 60
    while len(writers.refused) < 3 * AT_ONCE:
        assert time.monotonic() < deadline, writers.seen
        writers.burst([f"full-{time.monotonic_ns()}-{n}" for n in range(AT_ONCE)])
    if what == "files":
        assert writers.seen["database-full"] > 0, writers.seen
        assert writers.tenant.owner.get("/v1/vms").status in (200, 503)
    assert writers.tenant.owner.get("/healthz").status == 200
    disk.free()
    cloud.server.start()  # as the supervisor does when it has ended; nothing when it runs
    until(lambda: writers.tenant.owner.get("/readyz").status == 200, 60, why="ready again")
    again, writers.refused = list(dict.fromkeys(writers.refused))[:20], []
    acknowledged = dict(writers.acknowledged)
    until(lambda: try_again(writers, again), 60, 0.5, "what was refused is carried out")
    found = {v["name"]: v["id"] for v in writers.tenant.owner.list("/v1/vms")}
    assert acknowledged.items() <= found.items(), "something acknowledged is lost"
    assert found.keys() == {v["name"] for v in writers.tenant.all_running(len(found), 60)}
    assert cloud.faults(allowed=POOL) == []
    assert os.path.exists(f"/proc/{cloud.processes['core'].pid}")  # nobody had to start anything of ours


def try_again(writers: Writers, names: list[str]) -> bool:
    writers.burst([n for n in names if n not in writers.acknowledged])
    return all(n in writers.acknowledged for n in names)
