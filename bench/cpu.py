"""CPU seconds and proportional memory of processes, read from /proc."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SPIN = "import time; t = time.perf_counter(); sum(range(5_000_000)); print((time.perf_counter() - t) * 1e3)"
TICK = os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    found = [pid]
    for p in Path("/proc").iterdir():
        if p.name.isdigit():
            try:
                stat = (p / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(stat[1]) == pid:
                found += children(int(p.name))
    return found


def seconds(pid: int) -> float:
    """User and system time of a process and its living and reaped children."""
    total = 0
    for p in children(pid):
        try:
            stat = Path(f"/proc/{p}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += int(stat[11]) + int(stat[12]) + (int(stat[13]) + int(stat[14]) if p == pid else 0)
    return total / TICK


def pss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no Pss")


def spin_ms() -> float:
    """How long a fixed loop takes on two cores at once: a machine whose host does something else is slower here too."""
    both = [subprocess.Popen([sys.executable, "-c", SPIN], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    return sum(float(p.communicate(timeout=60)[0]) for p in both) / 2
