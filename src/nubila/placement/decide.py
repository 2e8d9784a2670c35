"""decide: a ranking of nodes for a request, or a refusal that says how near it was. Pure; called by intent/vm.py."""

from __future__ import annotations

import msgspec
import numpy as np

from nubila.placement.filters import FILTERS
from nubila.placement.nodes import Ints, Nodes, Request
from nubila.placement.scores import SCORES

TOP = 8
HOSTS_MAX = 20  # of which a refusal says why


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """What one filter did, over all nodes, whether or not another filter refused them too."""

    filter: str
    words: str
    refused: int  # nodes that this filter refuses
    alone: int  # of these, nodes that no other filter refuses
    unit: str = ""
    least: int = 0  # the smallest shortfall among them


class Miss(msgspec.Struct, frozen=True, kw_only=True):
    """A node that did not pass, with each shortfall."""

    node_id: str
    node_name: str
    short: dict[str, str]  # filter -> '312 MiB'


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    nodes: int
    filters: tuple[Refused, ...]
    nearest: Miss | None  # what failed the fewest filters by the least
    hosts: tuple[Miss, ...] = ()  # the nearest first; for operators alone
    would_fit: dict[str, int | str]  # one quantity, changed to this, would fit; if none does, another zone


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    score: float
    parts: dict[str, float]


class Ranking(msgspec.Struct, frozen=True, kw_only=True):
    """The best nodes, best first; ties are broken by the request's seed."""

    choices: tuple[Choice, ...]
    nodes: int
    passed: int
    filters: tuple[Refused, ...]


def decide(request: Request, nodes: Nodes) -> Ranking | Refusal:
    shortfalls = [f.shortfall(request, nodes) for f in FILTERS]
    failed = np.array([s > 0 for s in shortfalls]) if len(nodes) else np.zeros((len(FILTERS), 0), dtype=bool)
    fails = failed.sum(axis=0)
    passing = np.flatnonzero(fails == 0)
    if len(passing) == 0:
        hosts = _misses(shortfalls, fails, nodes, request)
        return Refusal(
            nodes=len(nodes),
            filters=_account(shortfalls, failed, fails),
            nearest=hosts[0] if hosts else None,
            hosts=hosts,
            would_fit=_would_fit(request, nodes, shortfalls),
        )
    parts = {s.name: s.weight * s.rate(request, nodes)[passing] for s in SCORES}
    total = np.sum(list(parts.values()), axis=0)
    # The seed only orders equals: it weighs less than any difference that matters.
    jitter = np.random.default_rng(request.seed & 0xFFFFFFFF).random(len(passing)) * 1e-6
    order = np.argsort(-(total + jitter), kind="stable")[:TOP]
    return Ranking(
        choices=tuple(
            Choice(
                index=int(passing[i]), score=float(total[i]), parts={n: round(float(p[i]), 4) for n, p in parts.items()}
            )
            for i in order
        ),
        nodes=len(nodes),
        passed=len(passing),
        filters=_account(shortfalls, failed, fails) if len(passing) < len(nodes) else (),
    )


def _account(shortfalls: list[Ints], failed: np.ndarray, fails: np.ndarray) -> tuple[Refused, ...]:
    out = []
    for f, short, bad in zip(FILTERS, shortfalls, failed, strict=True):
        if bad.any():
            out.append(
                Refused(
                    filter=f.name,
                    words=f.words,
                    refused=int(bad.sum()),
                    alone=int((bad & (fails == 1)).sum()),
                    unit=f.unit,
                    least=int(short[bad].min()) if f.unit else 0,
                )
            )
    return tuple(out)


def _misses(shortfalls: list[Ints], fails: np.ndarray, nodes: Nodes, request: Request) -> tuple[Miss, ...]:
    if len(nodes) == 0:
        return ()
    asked = {"cores": request.cores, "memory_mib": request.memory_mib, "disk_gib": request.disk_gib}
    relative = np.zeros(len(nodes))
    for f, short in zip(FILTERS, shortfalls, strict=True):
        relative += short / max(1, asked[f.quantity]) if f.quantity else short
    # Equal sums of unequal parts differ in their last bits.
    order = np.lexsort((np.arange(len(nodes)), np.round(relative, 9), fails))
    return tuple(_miss(int(i), shortfalls, nodes) for i in order[:HOSTS_MAX])


def _miss(index: int, shortfalls: list[Ints], nodes: Nodes) -> Miss:
    return Miss(
        node_id=str(nodes.rows[index].id),
        node_name=nodes.rows[index].name,
        short={
            f.name: f"{int(s[index])} {f.unit}" if f.unit else f.one
            for f, s in zip(FILTERS, shortfalls, strict=True)
            if s[index] > 0
        },
    )


def _would_fit(request: Request, nodes: Nodes, shortfalls: list[Ints]) -> dict[str, int | str]:
    """The change of one quantity, smallest in proportion, with which some node would take the request."""
    best: tuple[float, str, int] | None = None
    for quantity in ("cores", "memory_mib", "disk_gib"):
        others = [s for f, s in zip(FILTERS, shortfalls, strict=True) if f.quantity != quantity]
        mine = [s for f, s in zip(FILTERS, shortfalls, strict=True) if f.quantity == quantity]
        if len(nodes) == 0 or not mine:
            continue
        able = np.all([s == 0 for s in others], axis=0)
        asked = getattr(request, quantity)
        offers = (asked - np.max(mine, axis=0))[able]
        if len(offers) and (offer := int(offers.max())) > 0:
            cost = (asked - offer) / asked
            if best is None or cost < best[0]:
                best = (cost, quantity, offer)
    return _other_zone(nodes, shortfalls) if best is None else {best[1]: best[2]}


def _other_zone(nodes: Nodes, shortfalls: list[Ints]) -> dict[str, int | str]:
    """The zone where a node would take the request, if that is all that is wrong with it."""
    others = [s for f, s in zip(FILTERS, shortfalls, strict=True) if f.name != "zone"]
    zones = [n.zone for n, short in zip(nodes.rows, np.sum(others, axis=0), strict=True) if short == 0]
    return {"zone": min(zones)} if zones else {}
