"""Every side effect of every verb: killed before, killed after, done twice; the agent starts again; nothing is left over."""

from __future__ import annotations

import random

import pytest

from tests import counts
from tests.crash import port_scenarios, scenarios, volume_scenarios
from tests.crash.boundary import JOURNAL, Plan, effects
from tests.crash.conftest import Bench
from tests.crash.course import EXHAUSTIVE, carried_out, finish, recorded, side_by_side
from tests.crash.host import orphans, settled
from tests.crash.scenarios import Scenario, Subject, running
from tests.fleet.installation import until

SCENARIOS = (*scenarios.SCENARIOS, *volume_scenarios.SCENARIOS, *port_scenarios.SCENARIOS)
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
    "port-add",
    "port-add-stopped",
}


@pytest.mark.slow
def test_f2_every_side_effect_of_every_verb_may_be_the_last(benches: list[Bench]) -> None:
    points = [p for found in side_by_side(benches, SCENARIOS, recorded) for p in found]
    missing = effects() - {plan.effect for _, plan in points}
    assert not missing, f"side effects that no scenario has: {sorted(missing)}"
    chosen = points if EXHAUSTIVE else random.Random(SEED).sample(points, min(SAMPLE, len(points)))
    came = sum(side_by_side(benches, chosen, lambda point, bench: carried_out(*point, bench)))
    counts.add(counts.POINTS_FOUND, len(points))
    counts.add(counts.POINTS_RUN, came)
    counts.add(counts.KINDS, len(effects()))
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
        finish(s, host)
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
        finish(s, host)
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
    counts.add(counts.CANCELS, len(states))
