"""The scores: each rates every node from 0 to 1; the weighted sum ranks them. One literal table."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from nubila.placement.nodes import Nodes, Request

Floats = NDArray[np.float64]


class Score(msgspec.Struct, frozen=True):
    name: str
    weight: float
    rate: Callable[[Request, Nodes], Floats]


def _share(free: NDArray[np.int64]) -> Floats:
    top = free.max(initial=0)
    return np.asarray(free / top if top > 0 else np.zeros(len(free)), dtype=float)


def spread_memory(_: Request, nodes: Nodes) -> Floats:
    return _share(nodes.free_memory_mib)


def spread_cores(_: Request, nodes: Nodes) -> Floats:
    return _share(nodes.free_cores)


def spread_disk(_: Request, nodes: Nodes) -> Floats:
    return _share(nodes.free_disk_gib)


SCORES: tuple[Score, ...] = (
    Score("free-memory", 0.5, spread_memory),
    Score("free-cores", 0.4, spread_cores),
    Score("free-disk", 0.1, spread_disk),
)
