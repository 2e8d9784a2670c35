"""The simulation itself: a seed is a story, some seeds hold, each mutant is caught, and the command says so by its exit."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import structlog

from nubila.store.shape import metadata
from nubila.testing.boundary import EFFECTS
from nubila.testing.faults import FAULTS
from nubila.testing.mutants import MUTANTS, mutated
from nubila.testing.rows import tables
from nubila.testing.schedule import Outcome, Settings, run

SEEDS = 3
MUTANT_SEEDS = 4
NOTHING = logging.CRITICAL  # above what anything of ours says


@pytest.fixture(autouse=True)
def _without_logs() -> Iterator[None]:
    """A mutant may fail thousands of times, each with a trace that takes longer to write than to come to."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(NOTHING))
    yield
    structlog.configure(**before)


def short(seed: int) -> Outcome:
    return run(Settings(seed=seed, minutes=6, faults=len(FAULTS)))


def test_every_table_and_constraint_of_the_product_is_known_to_the_tables_in_memory() -> None:
    assert set(tables()) == set(metadata.tables)


def test_every_invariant_has_a_mutant_of_its_own() -> None:
    assert sorted(m.invariant for m in MUTANTS.values()) == sorted(f"I{n}" for n in range(1, 13))


def test_the_boundary_sees_what_changes_something() -> None:
    assert {"hypervisor.start", "storage.ensure_volume", "network.remove_port"} <= EFFECTS
    assert not {"hypervisor.observe", "storage.find", "network.ranges"} & EFFECTS


@pytest.mark.slow
def test_the_same_seed_tells_the_same_story() -> None:
    first, second = short(5), short(5)
    assert first.story.text() == second.story.text()
    assert len(first.story.lines) > 200


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, SEEDS + 1))
def test_invariants_hold_whatever_befalls_whom(seed: int) -> None:
    outcome = run(Settings(seed=seed))
    assert not outcome.violations, outcome.story.text(60)
    assert outcome.virtual_s >= 30 * 60
    assert outcome.vms >= 20
    assert sum(outcome.faults.values()) >= 20


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MUTANTS))
def test_each_mutant_is_caught(name: str) -> None:
    with mutated(name):
        assert any(run(Settings(seed=seed)).violations for seed in range(1, MUTANT_SEEDS + 1))


@pytest.mark.slow
def test_the_command_tells_a_story_and_exits_with_1() -> None:
    words = (sys.executable, "-m", "nubila", "simulate", "--mutant", "epoch-ahead", "--seed", "2", "--minutes", "3")
    ran = subprocess.run(words, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert ran.returncode == 1, ran.stderr
    assert "I3 violated" in ran.stdout
    assert "again: nubila simulate --seed 2 --minutes 3 --mutant epoch-ahead --story" in ran.stdout
