"""The fleet snapshot: all nodes as placement sees them, refreshed when a hint says so or when it is older than a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec

from nubila.model import node
from nubila.placement.nodes import Node, Nodes
from nubila.store.database import Record
from nubila.store.node import NodeStore

MAX_AGE_S = 1.0


class Fleet:
    """Called by the drafts of this process; `Nodes` it hands out count this process's own claims."""

    def __init__(self, store: NodeStore, clock: Callable[[], float] = time.monotonic):
        self._store = store
        self._clock = clock
        self._nodes = Nodes(())
        self._read_at = float("-inf")
        self._lock = asyncio.Lock()

    async def snapshot(self, *, fresh: bool = False) -> Nodes:
        """The nodes, at most a second old; `fresh` reads them now (before a refusal becomes final)."""
        asked_at = self._clock()
        if not fresh and asked_at - self._read_at < MAX_AGE_S:
            return self._nodes
        async with self._lock:
            if self._read_at < asked_at - (0 if fresh else MAX_AGE_S):
                read_at = self._clock()
                self._nodes = Nodes([_node(r) for r in await self._store.fleet()])
                self._read_at = read_at
            return self._nodes

    def outdated(self) -> None:
        self._read_at = float("-inf")


def _node(row: Record) -> Node:
    spec = msgspec.json.decode(row["spec"], type=node.Spec)
    status = node.Status() if row["status"] is None else msgspec.json.decode(row["status"], type=node.Status)
    inventory: dict[str, tuple[int, int]] = {} if row["inventory"] is None else msgspec.json.decode(row["inventory"])
    free = {c: inventory[c][0] - inventory[c][1] if c in inventory else 0 for c in ("cores", "memory_mib", "disk_gib")}
    return Node(
        id=row["id"],
        name=row["name"],
        zone=spec.zone,
        placeable=node.State(row["state"]) in node.PLACEABLE,
        runs_vms=node.Role.HYPERVISOR in spec.roles,
        silent_s=1e9 if row["silent_s"] is None else row["silent_s"],
        virt_methods=status.virt_methods,
        physical_cores=status.cores,
        free_cores=free["cores"],
        free_memory_mib=free["memory_mib"],
        free_disk_gib=free["disk_gib"],
        total_cores=inventory.get("cores", (0, 0))[0],
        total_memory_mib=inventory.get("memory_mib", (0, 0))[0],
        overlapping_ranges=all(d.get("overlapping_ranges", False) for d in status.drivers.get("network", {}).values()),
    )
