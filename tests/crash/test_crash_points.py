"""Every side effect of every verb: killed before, killed after, done twice; the agent starts again; nothing is left over."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

import pytest

from nubila.model import operation
from tests.crash import scenarios, volume_scenarios
from tests.crash.boundary import JOURNAL, Plan, effects
from tests.crash.conftest import Bench
from tests.crash.host import Host, orphans, settled
from tests.crash.scenarios import Scenario, Subject, running
from tests.fleet.caller import Caller
from tests.fleet.installation import until

SCENARIOS = (*scenarios.SCENARIOS, *volume_scenarios.SCENARIOS)
MODES = ("before", "after", "twice")
# Licensed by a number that is on disk before they begin, and spent then: nobody repeats them, so twice is no case.
AT_MOST_ONCE = frozenset({"hypervisor.ask_reboot"})
# A line in the journal is only ever appended by its one writer.
ONCE = AT_MOST_ONCE | {JOURNAL}
EXHAUSTIVE = os.environ.get("NUBILA_EXHAUSTIVE") == "1"
SAMPLE = 200
CANCELS = 60
SEED = 20


NOT_TOO_LATE = {
    "create",
    "start",
    "stop",
    "reboot",
    "reset",
    "suspend",
    "resume",
    "repair",
    "volume-create",
    "volume-attach",
    "image-of-volume",
    "image-of-vm-live",
}
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
        came = _wait(scenario, s, plan, host)
        seen = host.effects()
    if plan.mode in ("before", "after"):
        with host.running(Plan(grace_s=scenario.grace_s)):
            until(lambda: scenario.holds(s), 20, 0.02, f"{scenario.name} after {plan}: {host.domain(s.vm_id)}")
            _finish(s, host)
    else:
        assert scenario.holds(s), (scenario.name, plan, host.domain(s.vm_id))
        with host.running():
            _finish(s, host)
    return came and seen[plan.effect] >= plan.number


def _wait(scenario: Scenario, s: Subject, plan: Plan, host: Host) -> bool:
    """Until the agent died at its point, or, when it need not die, until it is done."""
    if plan.mode in ("before", "after"):
        return host.ended(15.0)
    until(lambda: scenario.holds(s), 20, 0.02, f"{scenario.name} {plan}: {host.domain(s.vm_id)}")
    _quiet(s)
    return True


def _quiet(s: Subject) -> None:
    """No operation of this project is under way: a bench tries one subject at a time."""

    def over() -> bool:
        return not any(o["state"] in operation.OPEN for o in s.tenant.owner.list("/v1/operations?limit=1000"))

    until(over, 20, 0.02, f"operations of {s.name}")


def _finish(s: Subject, host: Host) -> None:
    """Whatever it was, it can be removed; then nothing of it is anywhere."""
    _quiet(s)
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
        _quiet(s)
        seen = host.effects()
    with host.running():
        _finish(s, host)
    return [
        (scenario, Plan(effect=name, number=n, mode=mode, grace_s=scenario.grace_s))
        for name, count in sorted(seen.items())
        for n in range(1, count + 1)
        for mode in MODES
        if mode != "twice" or name not in ONCE
    ]


@pytest.mark.slow
def test_every_side_effect_of_every_verb_may_be_the_last(benches: list[Bench]) -> None:
    points = [p for found in side_by_side(benches, SCENARIOS, recorded) for p in found]
    missing = effects() - {plan.effect for _, plan in points}
    assert not missing, f"side effects that no scenario has: {sorted(missing)}"
    chosen = points if EXHAUSTIVE else random.Random(SEED).sample(points, min(SAMPLE, len(points)))
    came = sum(side_by_side(benches, chosen, lambda point, bench: carried_out(*point, bench)))
    print(
        f"\ncrash points: {len(points)} found, {len(chosen)} run, {came} reached, {len(effects())} kinds of side effect"
    )
    assert came >= 0.9 * len(chosen)


@pytest.mark.slow
@pytest.mark.parametrize("forgets", ["hypervisor.remove", "storage.remove_volume", "network.remove_port"])
def test_what_a_removal_forgets_is_found(benches: list[Bench], forgets: str) -> None:
    """The twin of every run above: the scanner sees what is left over, and it is swept by the agents that come after."""
    host, s = benches[0].host, Subject(benches[0].tenant, benches[0].host)
    with host.running(Plan(forgets=forgets)):
        running(s)
        s.tenant.owner.delete(f"/v1/vms/{s.name}?wait=20").ok()
        assert orphans(host.cloud, host)
    with host.running(Plan(grace_s=0.3)):
        settled(host.cloud, host)


def _cancel(bench: Bench, operation_id: str) -> str:
    reply = bench.tenant.owner.post(f"/v1/operations/{operation_id}/cancel")
    assert reply.status < 500, [f for f in bench.host.cloud.faults() if f.startswith("front")][-1:]
    reply.ok()
    return str(bench.tenant.owner.get(f"/v1/operations/{operation_id}").ok()["state"])


def cancelled_before_the_node_hears(scenario: Scenario, bench: Bench) -> str:
    host, s = bench.host, Subject(bench.tenant, bench.host)
    with host.running():
        scenario.before(s)
    answer = scenario.act(s).ok()
    state = _cancel(bench, answer["operation"]["id"])
    with host.running():
        _finish(s, host)
    return state


def cancelled_while_held(item: tuple[Scenario, Plan], bench: Bench) -> str:
    """The agent stands within a side effect, and goes on after the cancel."""
    scenario, plan = item
    host, s = bench.host, Subject(bench.tenant, bench.host)
    with host.running():
        scenario.before(s)
    with host.running(plan):
        answer = scenario.act(s).ok()
        # an image or a network that is there already is not made again
        until(lambda: host.effects()[plan.effect] >= plan.number or scenario.holds(s), 20, 0.01, str(plan))
        state = _cancel(bench, answer["operation"]["id"])
        host.release()
        _finish(s, host)
    return state


@pytest.mark.slow
def test_every_operation_may_be_cancelled_in_each_of_its_states(benches: list[Bench]) -> None:
    """Whatever the answer is, the operation ends, nothing is stuck, and nothing is left over."""
    asked = [s for s in SCENARIOS if s.operation]
    points = [p for found in side_by_side(benches, asked, recorded) for p in found]
    held = [
        (s, Plan(effect=p.effect, number=p.number, mode="hold", grace_s=p.grace_s))
        for s, p in points
        if p.mode == "before" and p.effect != JOURNAL
    ]
    if not EXHAUSTIVE:
        held = random.Random(SEED).sample(held, min(CANCELS, len(held)))
    states = side_by_side(benches, asked, cancelled_before_the_node_hears)
    assert set(states) <= {"waiting", "cancelled"}
    # What was wished removed cannot be brought back: the answer says that it is too late.
    assert {s for s, x in zip(states, asked, strict=True) if "remove" in x.name} == {"waiting"}
    assert {s for s, x in zip(states, asked, strict=True) if x.name in NOT_TOO_LATE} == {"cancelled"}
    states += side_by_side(benches, held, cancelled_while_held)
    print(f"\ncancels: {len(states)} in {len(asked)} verbs: {dict(Counter(states))}")
