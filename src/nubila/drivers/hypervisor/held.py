"""Which interfaces a process holds the other end of, as the kernel tells. Standard library only."""

from __future__ import annotations

import os
from pathlib import Path


def taps_of(pid: int) -> set[str]:
    """The interfaces whose ends a process holds."""
    found: set[str] = set()
    try:
        entries = list(os.scandir(f"/proc/{pid}/fdinfo"))
    except OSError:
        return found
    for entry in entries:
        try:
            lines = Path(entry.path).read_text().splitlines()
        except OSError:
            continue
        found |= {line.split(":", 1)[1].strip() for line in lines if line.startswith("iff:")}
    return found - {""}
