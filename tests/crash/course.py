"""The course of one crash point: to where the verb can be asked, the verb, the agent's end in the midst of it, its next
start, what then must hold, and that nothing of it is left anywhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

from nubila.model import operation
from tests import counts
from tests.crash.boundary import JOURNAL, Plan
from tests.crash.conftest import Bench
from tests.crash.host import Host, settled
from tests.crash.scenarios import Scenario, Subject
from tests.fleet.caller import Caller
from tests.fleet.installation import until

EXHAUSTIVE = os.environ.get("NUBILA_EXHAUSTIVE") == "1"
MODES = ("before", "after", "twice")
# Licensed by a number that is on disk before they begin, and spent then: nobody repeats them, so twice is no case.
AT_MOST_ONCE = frozenset({"hypervisor.ask_reboot"})
# A line in the journal is only ever appended by its one writer.
ONCE = AT_MOST_ONCE | {JOURNAL}
Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(benches: list[Bench], items: Iterable[Item], do: Callable[[Item, Bench], Result]) -> list[Result]:
    """Each item on the next bench that is free."""
    free: SimpleQueue[Bench] = SimpleQueue()
    for bench in benches:
        free.put(bench)

    def one(item: Item) -> Result:
        bench = free.get()
        try:
            return do(item, bench)
        finally:
            bench.host.stop()
            free.put(bench)

    with ThreadPoolExecutor(len(benches)) as pool:
        return list(pool.map(one, items))


def carried_out(scenario: Scenario, plan: Plan, bench: Bench) -> bool:
    """One run from nothing to nothing. Returns whether the planned call came; what must hold is asserted."""
    host, s = bench.host, Subject(bench.tenant, bench.host)
    with host.running():
        scenario.before(s)
    with host.running(plan):
        scenario.act(s).ok()
        came = _came(scenario, s, plan, host)
        seen = host.effects()
    if plan.mode in ("before", "after"):
        with host.running(Plan(grace_s=scenario.grace_s)):
            until(lambda: scenario.holds(s), 20, 0.02, f"{scenario.name} after {plan}: {host.domain(s.vm_id)}")
            finish(s, host)
    else:
        assert scenario.holds(s), (scenario.name, plan, host.domain(s.vm_id))
        with host.running():
            finish(s, host)
    return came and seen[plan.effect] >= plan.number


def _came(scenario: Scenario, s: Subject, plan: Plan, host: Host) -> bool:
    """Until the agent died at its point, or, when it need not die, until it is done."""
    if plan.mode in ("before", "after"):
        died = host.ended(host.patience_s)
        counts.add(counts.AGENT_KILLS, died)
        return died
    until(lambda: scenario.holds(s), 20, 0.02, f"{scenario.name} {plan}: {host.domain(s.vm_id)}")
    quiet(s)
    return True


def quiet(s: Subject) -> None:
    """No operation of this project is under way: a bench tries one subject at a time."""

    def over() -> bool:
        return not any(o["state"] in operation.OPEN for o in s.tenant.owner.list("/v1/operations?limit=1000"))

    until(over, 20, 0.02, f"operations of {s.name}")


def finish(s: Subject, host: Host) -> None:
    """Whatever it was, it can be removed; then nothing of it is anywhere."""
    quiet(s)
    owner = s.tenant.owner
    for row in owner.list("/v1/images"):
        if row["project_id"] == s.tenant.id:
            _remove(owner, "images", row["id"])
    for kind in ("snapshots", "vms", "volumes"):
        for row in owner.list(f"/v1/{kind}"):
            if row["state"] != "removing":  # a cancelled create is leaving already
                _remove(owner, kind, row["id"])
        until(lambda kind=kind: not owner.list(f"/v1/{kind}"), 20, 0.02, f"{kind} of {s.name}")  # type: ignore[misc]
    settled(host.cloud, host)


def _remove(owner: Caller, kind: str, name: str) -> None:
    reply = owner.delete(f"/v1/{kind}/{name}?wait=20")
    assert reply.status in (200, 202, 404), reply.body.get("detail")


def recorded(scenario: Scenario, bench: Bench) -> list[tuple[Scenario, Plan]]:
    """The side effects of an undisturbed run, each with its number, in each mode that it has."""
    host, s = bench.host, Subject(bench.tenant, bench.host)
    with host.running():
        scenario.before(s)
    with host.running(Plan(grace_s=scenario.grace_s)):
        scenario.act(s).ok()
        until(lambda: scenario.holds(s), 20, 0.02, scenario.name)
        quiet(s)
        seen = host.effects()
    with host.running():
        finish(s, host)
    return [
        (scenario, Plan(effect=name, number=n, mode=mode, grace_s=scenario.grace_s))
        for name, count in sorted(seen.items())
        for n in range(1, count + 1)
        for mode in MODES
        if mode != "twice" or name not in ONCE
    ]
