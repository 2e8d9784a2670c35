"""Placement against a brute-force oracle: counts, nearest miss, what would fit, and that a ranking holds only nodes that fit."""

from __future__ import annotations

import itertools
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nubila.placement.decide import HOSTS_MAX, Ranking, Refusal, decide
from nubila.placement.filters import BY_NAME, FILTERS
from nubila.placement.nodes import Node, Nodes, Request

METHODS = ("kvm", "qemu")

node = st.builds(
    Node,
    id=st.integers(1, 1 << 60).map(lambda n: UUID(int=n)),
    name=st.text("abc", min_size=1, max_size=4),
    zone=st.sampled_from(["z1", "z2"]),
    placeable=st.booleans(),
    runs_vms=st.sampled_from([True, True, True, False]),
    silent_s=st.sampled_from([0.0, 5.0, 29.9, 31.5, 400.0]),
    virt_methods=st.sampled_from([(), ("qemu",), ("kvm", "qemu"), ("lxc",), ("qemu", "lxc")]),
    physical_cores=st.integers(1, 16),
    free_cores=st.integers(0, 16),
    free_memory_mib=st.integers(0, 4096),
    free_disk_gib=st.integers(0, 50),
    overlapping_ranges=st.booleans(),
)
request_ = st.builds(
    Request,
    cores=st.integers(1, 16),
    memory_mib=st.integers(16, 4096),
    disk_gib=st.integers(1, 50),
    virt_method=st.sampled_from([None, *METHODS]),
    zone=st.sampled_from([None, "z1"]),
    seed=st.integers(0, 99),
)


def oracle(r: Request, n: Node) -> dict[str, int]:
    """filter -> shortfall of one node, said again in plain words."""
    short = {
        "running": 0 if n.placeable else 1,
        "role": 0 if n.runs_vms else 1,
        "heard-from": max(0, -int(-(n.silent_s - 30) // 1)),
        "zone": 0 if r.zone in (None, n.zone) else 1,
        "virt-method": 0
        if (set(n.virt_methods) - {"lxc"} if r.virt_method is None else r.virt_method in n.virt_methods)
        else 1,
        "ranges": 1 if n.id in r.crowded and not n.overlapping_ranges else 0,
        "physical-cores": max(0, r.cores - n.physical_cores),
        "cores": max(0, r.cores - n.free_cores),
        "memory": max(0, r.memory_mib - n.free_memory_mib),
        "disk": max(0, r.disk_gib - n.free_disk_gib),
    }
    return {k: v for k, v in short.items() if v > 0}


QUANTITIES = {"physical-cores": "cores", "cores": "cores", "memory": "memory_mib", "disk": "disk_gib"}


def assert_nearest(answer: Refusal, r: Request, nodes: list[Node]) -> None:
    """The node that fails the fewest filters; of those the one that lacks least in proportion; of those the first."""
    if not nodes:
        assert answer.nearest is None
        return

    def far(n: Node) -> tuple[int, float]:
        short = oracle(r, n)
        lacks = sum(v / getattr(r, QUANTITIES[k]) if k in QUANTITIES else v for k, v in short.items())
        return len(short), round(lacks, 9)

    best = min(far(n) for n in nodes)
    nearest = next(n for n in nodes if far(n) == best)
    assert answer.nearest is not None
    assert answer.nearest.node_id == str(nearest.id)
    assert answer.nearest.node_name == nearest.name
    told = {k: int(v.split()[0]) if BY_NAME[k].unit else 1 for k, v in answer.nearest.short.items()}
    assert told == oracle(r, nearest)


def would_fit(r: Request, nodes: list[Node]) -> dict[str, int | str]:
    """Every smaller amount that some node has, tried out; the change that is smallest in proportion. Then every zone."""
    found: dict[str, float] = {}
    for quantity in ("cores", "memory_mib", "disk_gib"):
        asked = getattr(r, quantity)
        amounts = {n.physical_cores for n in nodes} | {getattr(n, f"free_{quantity}") for n in nodes}
        for offer in sorted((a for a in amounts if 0 < a < asked), reverse=True):
            if any(not oracle(msgspec.structs.replace(r, **{quantity: offer}), n) for n in nodes):
                found[quantity] = offer
                break
    cost = {q: (getattr(r, q) - offer) / getattr(r, q) for q, offer in found.items()}
    best = min(cost, key=lambda q: cost[q], default=None)
    if best is not None:
        return {best: int(found[best])}
    zones = sorted(n.zone for n in nodes if not oracle(msgspec.structs.replace(r, zone=n.zone), n))
    return {"zone": zones[0]} if zones else {}


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(request_, st.lists(node, max_size=50))
def test_equals_the_oracle(r: Request, nodes: list[Node]) -> None:
    r = msgspec.structs.replace(r, crowded=frozenset(n.id for n in nodes if n.id.int % 4 == 0))
    short = [oracle(r, n) for n in nodes]
    fitting = [i for i, s in enumerate(short) if not s]
    answer = decide(r, Nodes(nodes))
    if fitting:
        assert isinstance(answer, Ranking)
        assert answer.passed == len(fitting)
        assert {c.index for c in answer.choices} <= set(fitting)
        assert len(answer.choices) == min(8, len(fitting))
        scores = [c.score for c in answer.choices]
        assert all(a >= b - 1e-5 for a, b in itertools.pairwise(scores))
        return
    assert isinstance(answer, Refusal)
    assert answer.nodes == len(nodes)
    for f in FILTERS:
        mine = [s[f.name] for s in short if f.name in s]
        told = next((x for x in answer.filters if x.filter == f.name), None)
        assert (told.refused if told else 0) == len(mine)
        assert (told.alone if told else 0) == sum(set(s) == {f.name} for s in short)
        if told and f.unit:
            assert told.least == min(mine)
    assert_nearest(answer, r, nodes)
    assert answer.hosts[:1] == ((answer.nearest,) if answer.nearest else ())
    assert len(answer.hosts) == min(HOSTS_MAX, len(nodes))
    assert answer.would_fit == would_fit(r, nodes)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(request_, st.lists(node, min_size=1, max_size=20))
def test_what_would_fit_does_fit(r: Request, nodes: list[Node]) -> None:
    answer = decide(r, Nodes(nodes))
    if isinstance(answer, Refusal) and answer.would_fit:
        assert isinstance(decide(msgspec.structs.replace(r, **answer.would_fit), Nodes(nodes)), Ranking)


@settings(max_examples=50, deadline=None)
@given(request_, st.lists(node, max_size=20))
def test_the_same_seed_gives_the_same_answer(r: Request, nodes: list[Node]) -> None:
    assert decide(r, Nodes(nodes)) == decide(r, Nodes(nodes))
