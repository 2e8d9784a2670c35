"""The snapshot that placement decides over: all nodes as a structure of arrays, a column per quantity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
from numpy.typing import NDArray

from nubila.model.vm import CONTAINERS

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What has to be placed."""

    cores: int
    memory_mib: int
    disk_gib: int
    virt_method: str | None = None  # None: the best of those that boot a disk
    zone: str | None = None
    crowded: frozenset[UUID] = frozenset()  # nodes with a network whose range overlaps one that is asked for
    seed: int = 0  # of the draft: ties are broken the same way each time the draft is made


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One node as fleet reads it; `free` is total - reserved - used."""

    id: UUID
    name: str
    zone: str
    placeable: bool
    silent_s: float
    virt_methods: tuple[str, ...]
    physical_cores: int
    free_cores: int
    free_memory_mib: int
    free_disk_gib: int
    total_cores: int = 0
    total_memory_mib: int = 0
    runs_vms: bool = True  # it has the role for it
    overlapping_ranges: bool = True  # it can have networks with one range side by side, or does not say


class Nodes:
    """Columns over n nodes. Immutable once built; `taken` gives a copy with a claim applied."""

    def __init__(self, rows: Sequence[Node]):
        self.rows = tuple(rows)
        self.placeable: Bools = np.array([n.placeable for n in rows], dtype=bool)
        self.runs_vms: Bools = np.array([n.runs_vms for n in rows], dtype=bool)
        self.silent_s: NDArray[np.float64] = np.array([n.silent_s for n in rows], dtype=float)
        self.physical_cores: Ints = _column(rows, "physical_cores")
        self.free_cores: Ints = _column(rows, "free_cores")
        self.free_memory_mib: Ints = _column(rows, "free_memory_mib")
        self.free_disk_gib: Ints = _column(rows, "free_disk_gib")
        methods = sorted({m for n in rows for m in n.virt_methods})
        self.boots: Bools = np.array([any(m not in CONTAINERS for m in n.virt_methods) for n in rows], dtype=bool)
        self.virt: Mapping[str, Bools] = {m: np.array([m in n.virt_methods for n in rows], dtype=bool) for m in methods}
        zones = sorted({n.zone for n in rows})
        self.zone: Mapping[str, Bools] = {z: np.array([n.zone == z for n in rows], dtype=bool) for z in zones}

    def __len__(self) -> int:
        return len(self.rows)

    def none(self) -> Bools:
        return np.zeros(len(self.rows), dtype=bool)

    def take(self, index: int, cores: int, memory_mib: int, disk_gib: int) -> None:
        """Count a claim of this process until the next refresh, so that its next decision sees it."""
        self.free_cores[index] -= cores
        self.free_memory_mib[index] -= memory_mib
        self.free_disk_gib[index] -= disk_gib


def _column(rows: Sequence[Any], name: str) -> Ints:
    return np.array([getattr(n, name) for n in rows], dtype=np.int64)
