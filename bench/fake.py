"""The control plane alone, on the fake drivers: create to running, creates a second, CPU per vm, wake-ups, memory."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import asyncpg

from bench import cpu, reports
from bench.installation import Installation, installation


def percentile(values: list[float], p: int) -> float:
    return quantiles(values, n=100, method="inclusive")[p - 1] if len(values) > 1 else values[0]


def load(made: Installation, parallel: int, count: int, prefix: str) -> dict[str, Any]:
    caller = {"ca": str(made.ca), "port": made.ports[0], "token": made.tokens["user"]}
    result: dict[str, Any] = made.apart("bench.load", **caller, parallel=parallel, count=count, prefix=prefix)
    return result


def postmaster(made: Installation) -> int:
    data = Path((made.top / "run/postgresql").resolve()) / "data" / "postmaster.pid"
    return int(data.read_text().split()[0])


def creates(made: Installation, quick: bool) -> dict[str, Any]:
    out: dict[str, Any] = {}
    load(made, 50, 200, "warm-")  # every connection of the pools has made its plans
    alone = load(made, 1, 50 if quick else 200, "one-")
    out["fake_create_p50_ms"] = median(alone["running"])
    out["fake_create_p99_ms"] = percentile(alone["running"], 99)
    out["fake_accept_p50_ms"] = median(alone["accepted"])
    pids = [made.processes[w].pid for w in ("public", "internal", "agent")] + [postmaster(made)]
    before = [cpu.seconds(p) for p in pids]
    spins, rounds, each = [cpu.spin_ms()], [], 300 if quick else 500
    for n in range(1 if quick else 3):
        rounds.append(load(made, 50, each, f"many{n}-"))
        spins.append(cpu.spin_ms())
    used = [cpu.seconds(p) - b for p, b in zip(pids, before, strict=True)]
    count, running = each * len(rounds), [ms for r in rounds for ms in r["running"]]
    out["vm_per_s_rounds"] = [each / r["seconds"] for r in rounds]
    out["vm_per_s"] = median(out["vm_per_s_rounds"])
    out["spin_ms"] = median(spins)
    out["fake_create_c50_p50_ms"] = median(running)
    out["fake_create_c50_p99_ms"] = percentile(running, 99)
    out["cpu_ms_per_vm"] = sum(used) / count * 1e3
    out["cpu_ms_per_vm_by_part"] = {
        w: round(u / count * 1e3, 3)
        for w, u in zip(("user_operator", "internal_reconcile", "agent", "postgresql"), used, strict=True)
    }
    out["load_generator_cpu_ms_per_vm"] = sum(r["cpu_s"] for r in rounds) / count * 1e3
    out["control_pss_mib"] = sum(cpu.pss_mib(made.processes[w].pid) for w in ("public", "internal"))
    out["fake_agent_pss_mib"] = cpu.pss_mib(made.processes["agent"].pid)
    return out


async def floor(socket: str) -> dict[str, float]:
    """INSERT + NOTIFY in PostgreSQL to a listener, with the same fsync: what no wake-up can beat."""
    writer = await asyncpg.connect(host=socket, user="nubila", database="nubila")
    listener = await asyncpg.connect(host=socket, user="nubila", database="nubila")
    await writer.execute("create temporary table if not exists floor (n int)")
    heard: list[float] = []
    event = asyncio.Event()

    def on(*_: object) -> None:
        heard.append(time.time())
        event.set()

    await listener.add_listener("floor", on)
    raw: list[float] = []
    for n in range(200):
        event.clear()
        async with writer.transaction():
            xid = await writer.fetchval("select pg_current_xact_id()::text")
            await writer.execute("insert into floor values ($1)", n)
            await writer.execute("notify floor")
        await asyncio.wait_for(event.wait(), 5)
        committed = await writer.fetchval(
            "select extract(epoch from pg_xact_commit_timestamp($1::text::xid))::float8", str(int(xid) & 0xFFFFFFFF)
        )
        raw.append((heard[-1] - committed) * 1e3)
    settings = {k: await writer.fetchval(f"show {k}") for k in ("fsync", "synchronous_commit", "full_page_writes")}
    await writer.close()
    await listener.close()
    return {"raw_notify_p50_ms": median(raw), "raw_notify_p99_ms": percentile(raw, 99), **settings}


def wakeups(made: Installation, quick: bool) -> dict[str, float]:
    """From PostgreSQL's commit timestamp to the arrival of the long poll's answer in another process."""
    values: list[float] = made.apart("bench.wake", rounds=100 if quick else 400)
    return {"wakeup_p50_ms": median(values), "wakeup_p99_ms": percentile(values, 99)}


def run(quick: bool = False) -> dict[str, Any]:
    with installation("nbfake", "fake", 4, b"\0" * 4096, "raw") as made:
        out: dict[str, Any] = asyncio.run(floor(str((made.top / "run/postgresql").resolve())))
        out |= creates(made, quick)
        out |= wakeups(made, quick)
        out |= reports.measure(made, postmaster(made), quick)
        out["wakeup_over_raw"] = out["wakeup_p50_ms"] / out["raw_notify_p50_ms"]
        return out


if __name__ == "__main__":
    print(json.dumps(run("--quick" in sys.argv), indent=2))
