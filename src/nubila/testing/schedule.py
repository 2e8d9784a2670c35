"""One schedule: a seed, so many minutes of people and faults, then quiet; and what was violated.

The same seed gives the same schedule to the last line of its story. Called by the word `simulate` and by tests.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from nubila.agent import node, observer
from nubila.testing.faults import FAULTS, Ground
from nubila.testing.fleet import Fleet
from nubila.testing.judge import Judge, Violation
from nubila.testing.people import Person
from nubila.testing.quiet import unsettled
from nubila.testing.stage import Stage
from nubila.testing.story import Story
from nubila.testing.threads import acting

HOSTS, MINUTES, FAULTS_EACH = 5, 30, 39
BEGIN_S = 60.0  # before the first fault
QUIET_S = 300.0  # in which everything has to come to rest
LOOK_S = 5.0
# Clocks that only look whether it is time: coarser here, since every look costs.
COARSER: tuple[tuple[Any, str, float], ...] = ((observer, "PAUSE_S", 0.5), (node, "TICK_S", 1.0))


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    seed: int
    minutes: float = MINUTES
    hosts: int = HOSTS
    faults: int = FAULTS_EACH
    mutate: Callable[[], Any] | None = None  # a context manager: the product with one thing broken


class Outcome(msgspec.Struct, kw_only=True):
    seed: int
    violations: list[Violation]
    story: Story
    virtual_s: float
    took_s: float
    faults: Counter[str]
    met: Counter[tuple[str, str]]  # kind of fault, operation that was open
    asked: Counter[tuple[str, str]]
    effects: Counter[str]
    vms: int
    commits: int


class Schedule:
    def __init__(self, settings: Settings):
        self.settings = settings
        self.stage = Stage(settings.seed)
        self.story = Story(self.stage)
        self.judge = Judge(self.story)
        self.fleet = Fleet(self.stage, self.judge, hosts=settings.hosts)
        self.judge.fleet = self.fleet
        self.fleet.tables.on_commit = self.judge.committed
        self.fleet.net.on_wanted = self._heard
        self.ground = Ground(self.fleet, self.judge)
        self.people: list[Person] = []
        self._over = asyncio.Event()
        self.judge.on_violation = self._over.set

    def _heard(self, host: str) -> None:
        self.judge.heard_s[host] = self.stage.monotonic()

    async def run(self) -> None:
        await self.fleet.fill()
        for host in self.fleet.hosts:
            host.start()
        self.people = [Person(self.fleet, self.judge, p, f"u{n + 1}") for n, p in enumerate(self.fleet.projects)]
        work = [asyncio.ensure_future(p.work()) for p in self.people]
        work.append(asyncio.ensure_future(self._strike()))
        await self._until(self.settings.minutes * 60)
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        self.ground.heal()
        self.judge.tell("**", "faults and people have stopped")
        await self._rest()

    async def _until(self, seconds: float) -> None:
        """So much time, or less when something was violated."""
        await asyncio.wait((asyncio.ensure_future(self._over.wait()),), timeout=seconds - self.stage.now_s)

    async def _strike(self) -> None:
        end_s = self.settings.minutes * 60
        times = sorted(self.stage.random.uniform(BEGIN_S, end_s) for _ in range(self.settings.faults))
        kinds = [*FAULTS] * (len(times) // len(FAULTS) + 1)  # each kind about equally often, in any order
        self.stage.random.shuffle(kinds)
        for at_s, kind in zip(times, kinds, strict=False):
            await asyncio.sleep(max(0.0, at_s - self.stage.now_s))
            self.ground.strike(kind)

    async def _rest(self) -> None:
        """Wait until all is quiet; what is not by the bound is a violation."""
        until_s = self.stage.now_s + QUIET_S
        while self.stage.now_s < until_s and not self.judge.found:
            await asyncio.sleep(LOOK_S)
            self.stage.process = None
            if not unsettled(self.fleet):
                break
        else:
            if not self.judge.found:
                for invariant, what in unsettled(self.fleet):
                    self.judge.violated(invariant, what)
        for host in self.fleet.hosts:
            self.judge.capacity(str(host.node_id))
        for project_id in self.fleet.projects:
            self.judge.quota(str(project_id))
        self.judge.all_kept()
        for control in self.fleet.controls:
            for failure in control.failures:
                self.judge.violated("I11", f"{control.name} failed: {failure}")

    def outcome(self, took_s: float) -> Outcome:
        effects: Counter[str] = Counter()
        asked: Counter[tuple[str, str]] = Counter()
        for host in self.fleet.hosts:
            effects.update(host.went)
        for person in self.people:
            asked.update(person.asked)
        return Outcome(
            seed=self.settings.seed,
            violations=self.judge.found,
            story=self.story,
            virtual_s=self.stage.now_s,
            took_s=took_s,
            faults=self.ground.done,
            met=self.ground.met,
            asked=asked,
            effects=effects,
            vms=len(self.fleet.tables.rows["vm"].rows),
            commits=self.fleet.tables.commits,
        )


def run(settings: Settings) -> Outcome:
    """Carry a schedule out, from nothing to quiet."""
    began_s = time.perf_counter()
    before = [(module, name, getattr(module, name)) for module, name, _ in COARSER]
    schedule: Schedule | None = None
    for module, name, value in COARSER:
        setattr(module, name, value)
    try:
        schedule = Schedule(settings)
        with acting(schedule.stage):
            asyncio.set_event_loop(schedule.stage.loop)
            schedule.stage.loop.run_until_complete(schedule.run())
            outcome = schedule.outcome(time.perf_counter() - began_s)
            schedule.stage.close()
        return outcome
    finally:
        asyncio.set_event_loop(None)
        for module, name, was in before:
            setattr(module, name, was)
