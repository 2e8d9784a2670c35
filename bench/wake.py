"""Wake-ups as a node sees them: a node of its own, enrolled here, whose long poll is answered when its vm's wish changes."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import asyncpg

from bench.installation import Installation
from bench.node import Node
from nubila.client.transport import Transport


def main(config: dict[str, Any]) -> list[float]:
    made = Installation.elsewhere(config)
    operator, user = made.tokens["operator"], made.tokens["user"]
    node = Node(made, operator, "wake")
    made.call(0, "POST", "/v1/vms", {"name": "wake", "flavor": "tiny", "image": "mini", "virt_method": "wake"}, user)
    arrived: list[tuple[int, float]] = []
    rounds = config["rounds"]

    def poll() -> None:
        since = 0
        while len(arrived) <= rounds:
            wanted = node.wanted(since, 20)
            at = time.time()
            since = max(since, wanted.revision)
            arrived.extend((v.generation, at) for v in wanted.vms)

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    time.sleep(0.3)
    api = Transport(f"https://127.0.0.1:{made.ports[0]}", ca=made.ca, token=user)
    for n in range(rounds):
        body = json.dumps({"labels": {"n": str(n)}}).encode()
        response = api.request("PATCH", "/v1/vms/wake", body=body, headers={"Content-Type": "application/json"})
        if response.status != 200:
            raise RuntimeError(response.body.decode())
        time.sleep(0.004)
    thread.join(10)
    committed = asyncio.run(commits(str((made.top / "run/postgresql").resolve())))
    return [(at - committed[g]) * 1e3 for g, at in arrived if g in committed and g > 1]


async def commits(socket: str) -> dict[int, float]:
    """generation -> when it was committed, by PostgreSQL's own commit timestamps (the same machine's clock)."""
    c = await asyncpg.connect(host=socket, user="nubila", database="nubila")
    sql = """select c.generation,
                    extract(epoch from pg_xact_commit_timestamp((c.xid::text::bigint & 4294967295)::text::xid))::float8 as at
               from change c join vm v on v.id = c.object_id where v.name = 'wake' and c.kind = 'vm'"""
    rows = await c.fetch(sql)
    await c.close()
    return {r["generation"]: r["at"] for r in rows}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(Path(sys.argv[1]).read_text()))))
