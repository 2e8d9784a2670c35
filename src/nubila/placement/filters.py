"""The filters: each says by how much every node falls short of a request; 0 passes. One literal, ordered table.

To add one: a function here and a line in FILTERS. The property suite and the oracle run over whatever the table holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec
import numpy as np

from nubila.model.node import SILENT_AFTER_S
from nubila.placement.nodes import Ints, Nodes, Request

Quantity = Literal["cores", "memory_mib", "disk_gib"]


class Filter(msgspec.Struct, frozen=True):
    name: str
    words: str  # completes '3 nodes ...'
    unit: str  # of the shortfall; '' for yes or no
    shortfall: Callable[[Request, Nodes], Ints]
    quantity: Quantity | None = None  # asking for less of this would help
    one: str = ""  # completes 'the nearest one ...'; {} is the shortfall
    fix: str = ""  # what to do about it, where asking for less is none


def _missing(passes: object) -> Ints:
    return np.where(np.asarray(passes, dtype=bool), 0, 1).astype(np.int64)


def running(_: Request, nodes: Nodes) -> Ints:
    return _missing(nodes.placeable)


def role(_: Request, nodes: Nodes) -> Ints:
    return _missing(nodes.runs_vms)


def heard_from(_: Request, nodes: Nodes) -> Ints:
    return np.maximum(0, np.ceil(nodes.silent_s - SILENT_AFTER_S)).astype(np.int64)


def zone(request: Request, nodes: Nodes) -> Ints:
    return (
        np.zeros(len(nodes), dtype=np.int64)
        if request.zone is None
        else _missing(nodes.zone.get(request.zone, nodes.none()))
    )


def virt_method(request: Request, nodes: Nodes) -> Ints:
    if request.virt_method is None:
        return _missing(nodes.boots)
    return _missing(nodes.virt.get(request.virt_method, nodes.none()))


def ranges(request: Request, nodes: Nodes) -> Ints:
    if not request.crowded:
        return np.zeros(len(nodes), dtype=np.int64)
    return _missing([n.overlapping_ranges or n.id not in request.crowded for n in nodes.rows])


def cores_of_one_node(request: Request, nodes: Nodes) -> Ints:
    return np.maximum(0, request.cores - nodes.physical_cores)


def cores(request: Request, nodes: Nodes) -> Ints:
    return np.maximum(0, request.cores - nodes.free_cores)


def memory(request: Request, nodes: Nodes) -> Ints:
    return np.maximum(0, request.memory_mib - nodes.free_memory_mib)


def disk(request: Request, nodes: Nodes) -> Ints:
    return np.maximum(0, request.disk_gib - nodes.free_disk_gib)


FILTERS: tuple[Filter, ...] = (
    Filter(
        "running", "are not running (enrolling, draining, in maintenance or lost)", "", running,
        one="takes no new VMs now", fix="Try again later, or ask your operator for a node that is not in maintenance.",
    ),
    Filter(
        "role", "have other roles than to run VMs", "", role,
        one="does not run VMs", fix="Ask your operator for a node that runs VMs.",
    ),
    Filter(
        "heard-from", "have not been heard from lately", "s", heard_from,
        one="has been silent for {} too long", fix="Try again when the node is back.",
    ),
    Filter(
        "zone", "are in another zone", "", zone,
        one="is in another zone", fix="Ask for another zone, or for none.",
    ),
    Filter(
        "virt-method", "do not offer the virt method", "", virt_method,
        one="does not offer the virt method", fix="Leave the virt method out: the best that a node offers is taken.",
    ),
    Filter(
        "ranges", "have another network with an overlapping range", "", ranges,
        one="has another network whose range overlaps that of a network asked for",
        fix="Ask for networks with other ranges, or try again when the other network has left that node.",
    ),
    Filter(
        "physical-cores", "have fewer physical cores than the VM asks for", "cores", cores_of_one_node, "cores",
        one="has {} fewer than the VM asks for",
    ),
    Filter("cores", "have too few cores left", "cores", cores, "cores", one="lacks {}"),
    Filter("memory", "have too little memory left", "MiB", memory, "memory_mib", one="lacks {} of memory"),
    Filter("disk", "have too little disk left", "GiB", disk, "disk_gib", one="lacks {} of disk"),
)  # fmt: skip
BY_NAME = {f.name: f for f in FILTERS}
