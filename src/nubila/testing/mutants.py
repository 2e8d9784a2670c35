"""The product with one thing broken: a literal table, a break for each invariant that is checked.

Each mutant must be caught in most schedules: what is not caught when it is broken is not checked. Called by `simulate`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import msgspec

from nubila.agent import disk_hands, garbage, hands, lanes
from nubila.api.internal import report as report_api
from nubila.intent import carry
from nubila.intent import report as reports
from nubila.intent import vm as vm_intent
from nubila.model.draft import Draft
from nubila.testing import commit, view_parts
from nubila.testing.store import MemoryDatabase


class Mutant(msgspec.Struct, frozen=True):
    invariant: str
    what: str
    broken: tuple[tuple[Any, str, Callable[[Any], Any]], ...]  # where, name, what it becomes of what it was


def _everybodys(was: Callable[..., Any]) -> Callable[..., Any]:
    """A node is told of every vm, whoever has it."""

    def wanted(r: Any, told: list[Any], node_id: str) -> list[Any]:
        out = []
        for v in r.living("vm"):
            out += was(r, [{"vm_id": v["id"], "kind": "vm"}], v["node_id"])
        return out

    return wanted


def _let_go(was: Callable[..., Any]) -> Callable[..., Any]:
    """It is said that a disk is let go of, whoever writes it."""
    return lambda self, *args: None


def _begun_anew(was: Callable[..., Any]) -> Callable[..., Any]:
    """The right that a detach takes back is proven by nobody."""

    def revoke(draft: Draft, held: Any) -> None:
        draft.changes("attachment", held, version=True, state="revoked", proof={"by": "nobody"})

    return revoke


def _unlicensed(was: Callable[..., Any]) -> Callable[..., Any]:
    """Disks are opened under the next epoch, before anybody gave it."""

    def disk(self: Any, job: Any, d: Any) -> Any:
        return was(self, job, msgspec.structs.replace(d, epoch=d.epoch + 1))

    return disk


def _goes_back(was: Callable[..., Any]) -> Callable[..., Any]:
    """An old report is taken, and its generation with it."""

    def apply(report: Any, view: Any, draft: Draft, now: Any) -> bool:
        changed = bool(was(report, view, draft, now))
        for row in draft.update.get("vm", ()):
            if str(row["id"]) == view["vm"]["id"] and "observed_generation" in row:
                row["observed_generation"] = max(0, report.generation - 1)
        return changed

    return apply


def _forgotten(was: Callable[..., Any]) -> Callable[..., Any]:
    """An answer before its commit: some are never carried out."""
    count = iter(range(1, 1 << 40))

    async def written(self: Any, encoded: str) -> str:
        if '"vm.create"' in encoded and next(count) % 8 == 0:
            return '{"now":"2026-01-01T00:00:00+00:00"}'
        answer: str = await was(self, encoded)
        return answer

    return written


def _never_seen(was: Callable[..., Any]) -> Callable[..., Any]:
    """A key is never recognised, and never kept."""

    async def replay(self: Any, caller: Any) -> None:
        return None

    return replay


def _keyless(was: Callable[..., Any]) -> Callable[..., Any]:
    async def committed(self: Any, caller: Any, drafted: Any) -> Any:
        return await was(self, msgspec.structs.replace(caller, idempotency_key=None), drafted)

    return committed


def _overbooked(was: Callable[..., Any]) -> Callable[..., Any]:
    """Capacity is counted and never refused."""

    def capacity(self: Any, claims: list[Any]) -> None:
        for x in claims:
            row = self._tables["inventory"].get(x["n"], x["c"])
            self._put("inventory", {**row, "used": row["used"] + max(x["a"], 0)})

    return capacity


def _early(was: Callable[..., Any]) -> Callable[..., Any]:
    """Addresses are free when a removal is wished, not when it happened."""

    def leave(view: Any, asking: Any, draft: Draft) -> Any:
        for a in view["addresses"]:
            draft.deletes("address", network_id=a["network_id"], address=a["address"])
        return was(view, asking, draft)

    return leave


def _left(was: Callable[..., Any]) -> Callable[..., Any]:
    """What nobody wishes stays."""
    return lambda world, known, since, now_s: garbage.Swept((), dict(since))


def _unwoken(was: Callable[..., Any]) -> Callable[..., Any]:
    """What is wished of a volume does not raise its node's revision."""

    def wakes(self: Draft, node_id: UUID, object_id: UUID, kind: str = "vm") -> None:
        if kind != "volume":
            was(self, node_id, object_id, kind)

    return wakes


def _watchdog(was: Callable[..., Any]) -> Callable[..., Any]:
    """A node that hears nothing stops its guests."""

    def plan(
        wanted: Any, facts: Any, record: Any, trail: Any, now_s: float, *, fresh: bool, alone: bool = False
    ) -> Any:
        if alone and not fresh:
            wanted = msgspec.structs.replace(wanted, power="off", stop_mode="hard")
        return was(wanted, facts, record, trail, now_s, fresh=fresh or alone, alone=alone)

    return plan


def _raises(was: Callable[..., Any]) -> Callable[..., Any]:
    """Some reports cannot be taken: somebody would have to repair rows by hand."""

    def drafted(draft: Draft, views: list[Any], reported: dict[UUID, Any]) -> list[str]:
        for view in views:
            if view["vm"]["id"].endswith(("0", "1", "2")) and view["vm"]["generation"] > 1:
                raise ValueError("a row that nobody expected")
        return list(was(draft, views, reported))

    return drafted


MUTANTS: dict[str, Mutant] = {
    "two-hosts": Mutant("I1", "every node is told of every vm", ((view_parts, "wanted_vms", _everybodys),)),
    "release-unproven": Mutant(
        "I2",
        "an agent says that a disk is let go of without looking",
        ((disk_hands.DiskHands, "unplug", _let_go), (disk_hands.DiskHands, "release", _let_go)),
    ),
    "epoch-ahead": Mutant(
        "I3", "a disk is opened under an epoch that nobody gave", ((hands.Hands, "disk", _unlicensed),)
    ),
    "generation-goes-back": Mutant(
        "I4", "an older generation is written over a newer one", ((reports, "apply", _goes_back),)
    ),
    "answer-before-commit": Mutant(
        "I5", "some creates are answered and never committed", ((MemoryDatabase, "_commit", _forgotten),)
    ),
    "key-forgotten": Mutant(
        "I6",
        "an Idempotency-Key is not kept",
        ((carry.Carrier, "_replay", _never_seen), (carry.Carrier, "_commit", _keyless)),
    ),
    "overbooked": Mutant(
        "I7", "capacity is never refused nor given back", ((commit.Commit, "_capacity", _overbooked),)
    ),
    "address-free-early": Mutant("I8", "addresses are free when a removal is wished", ((vm_intent, "leave", _early),)),
    "nothing-swept": Mutant("I9", "what no vm needs stays on the hosts", ((garbage, "sweep", _left),)),
    "node-not-woken": Mutant("I10", "a node is not told what is wished of volumes", ((Draft, "wakes", _unwoken),)),
    "report-refused": Mutant("I11", "reports of some rows fail for good", ((report_api, "_draft", _raises),)),
    "watchdog": Mutant("I12", "a node that hears nothing stops its guests", ((lanes, "plan", _watchdog),)),
}


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """The product, broken so, until it is left. Raises KeyError for an unknown name."""
    broken = MUTANTS[name].broken
    before = [(where, word, getattr(where, word)) for where, word, _ in broken]
    for (where, word, becomes), (_, _, was) in zip(broken, before, strict=True):
        setattr(where, word, becomes(was))
    try:
        yield
    finally:
        for where, word, was in before:
            setattr(where, word, was)
