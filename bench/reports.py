"""What nodes say: the status reports of 1,000 VMs, as the share of a core that the control plane needs when each VM is
reported once a second. All of them new, and all of them as they were. A node of its own, enrolled here, reports.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from bench import cpu
from bench.installation import Installation
from bench.node import Node
from nubila.protocol import Vm, VmReport

PEER = "update peer set status = status || jsonb_build_object('guest_agent', $1::boolean), version = version + 1"


def as_wished(vm: Vm, guest_agent: bool) -> VmReport:
    return VmReport(
        vm_id=vm.vm_id,
        epoch=vm.epoch,
        generation=vm.generation,
        power="on",
        starts=vm.starts,
        guest_agent=guest_agent,
        disks_ready=tuple(d.volume_id for d in vm.disks),
        ports_active=tuple(n.port_id for n in vm.nics),
    )


def create(made: Installation, token: str, method: str, count: int) -> None:
    def one(n: int) -> None:
        body = {"name": f"{method}-{n}", "flavor": "tiny", "image": "mini", "virt_method": method}
        made.call(0, "POST", "/v1/vms", body, token)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(count)))


async def peer(socket: str, rounds: int, postmaster: int) -> float:
    """The same rows in a table without triggers, changed by one statement: no way of writing them down costs less."""
    c = await asyncpg.connect(host=socket, user="nubila", database="nubila")
    await c.execute(
        "create table peer as select v.* from vm v join node n on n.id = v.node_id where n.name = 'reports'"
    )
    await c.execute("alter table peer add primary key (id)")
    before = cpu.seconds(postmaster)
    for n in range(rounds):
        await c.execute(PEER, n % 2 == 0)
    used = cpu.seconds(postmaster) - before
    rows = await c.fetchval("select count(*) from peer")
    await c.execute("drop table peer")
    await c.close()
    return used / rounds / rows * 1000


def main(config: dict[str, Any]) -> dict[str, float]:
    made = Installation.elsewhere(config)
    count, rounds, pids = config["vms"], config["rounds"], config["pids"]
    node = Node(made, made.tokens["operator"], "reports")
    create(made, made.tokens["user"], "reports", count)
    vms = node.wanted().vms
    if len(vms) != count:
        raise RuntimeError(f"{len(vms)} of {count} vms came here")
    node.report([as_wished(v, False) for v in vms])
    time.sleep(3)  # what all that led to is over
    out: dict[str, float] = {}
    for word, change in (("changed", True), ("same", False)):
        before, began = sum(map(cpu.seconds, pids)), time.monotonic()
        for n in range(rounds):
            node.report([as_wished(v, change and n % 2 == 0) for v in vms])
        out[f"reports_{word}_s"] = (time.monotonic() - began) / rounds / count * 1000
        out[f"reports_{word}_cores"] = (sum(map(cpu.seconds, pids)) - before) / rounds / count * 1000
    socket = str((made.top / "run/postgresql").resolve())
    out["reports_peer_cores"] = asyncio.run(peer(socket, rounds * 5, pids[-1]))
    return out


def measure(made: Installation, postmaster: int, quick: bool) -> dict[str, float]:
    pids = [made.processes[w].pid for w in ("public", "internal")] + [postmaster]
    count, rounds = (200, 6) if quick else (1000, 10)
    result: dict[str, float] = made.apart("bench.reports", vms=count, rounds=rounds, pids=pids)
    return result


if __name__ == "__main__":
    print(msgspec.json.encode(main(json.loads(Path(sys.argv[1]).read_text()))).decode())
