"""A vm's life without an agent around it: the plan carried out by a world of a few lines, which checks its invariants."""

from __future__ import annotations

from typing import Any

import msgspec
from agent_control import vm

from nubila.agent import effects
from nubila.agent import plan as planning
from nubila.agent import steps as p
from nubila.agent.hands import Job
from nubila.agent.known import Facts, Record, Trail
from nubila.drivers.hypervisor.base import Found

NEEDS_FRESH = (
    p.AskStop,
    p.AskReboot,
    p.Reset,
    p.Suspend,
    p.Resume,
    p.Destroy,
    p.RemoveDomain,
    p.RemovePort,
    p.RemoveVolume,
    p.RemoveDirectory,
)


class World:
    """One node with one vm: executes steps as the lanes do, and checks the invariants of each plan."""

    def __init__(self) -> None:
        self.wanted = vm()
        self.record = Record()
        self.now_s = 1000.0
        self.fresh, self.alone = True, False
        self.running = self.defined = self.deaf = False
        self.reason: str | None = None
        self.paused: str | None = None
        self.resets: list[int] = []  # the number under which each was done
        self.volumes: dict[str, str] = {}
        self.images: set[str] = set()
        self.starts = 0
        self.noted_reboots: list[int] = []
        self.noted_resets: list[int] = []
        self.reboot_asks: list[tuple[int, str]] = []
        self.restart_agent()

    def restart_agent(self) -> None:
        """Only what is durable or real stays."""
        self.trail = Trail()
        self.facts = Facts(volumes=dict(self.volumes), images=set(self.images), bridges={}, taps={})
        self.observe()

    def found(self) -> Found | None:
        if not self.defined:
            return None
        return Found(
            vm_id=self.wanted.vm_id,
            epoch=1,
            running=self.running,
            reason=self.reason,
            guest_agent=not self.deaf,
            paused=self.paused if self.running else None,
        )

    def observe(self) -> None:
        _, notes = effects.observed(self.facts, self.trail, self.record, self.found(), self.now_s)
        self.record = msgspec.structs.replace(self.record, **notes)

    def plan(self) -> list[p.Step]:
        effects.withdrawn(self.wanted, self.trail, self.record, self.now_s)
        steps = planning.plan(
            self.wanted, self.facts, self.record, self.trail, self.now_s, fresh=self.fresh, alone=self.alone
        )
        kinds = [type(s) for s in steps]
        assert kinds.count(p.Start) <= 1
        if not self.fresh:
            assert not [s for s in steps if isinstance(s, NEEDS_FRESH)]
        if p.Start in kinds:
            assert not self.facts.running
            assert self.wanted.power == "on" and not self.wanted.gone
            assert self.fresh or self.alone
            assert all(k is not p.Note for k in kinds[kinds.index(p.Start) :])
        return steps

    def step(self) -> bool:
        """One plan and all its steps. False: nothing to do but wait."""
        steps = self.plan()
        job = Job(
            self.wanted, self.facts, [s for s in steps if type(s) is not p.Note] or [p.Wait(0)], 0, lambda _: None
        )
        for step in steps:
            if isinstance(step, p.Note):
                self.note(step)
            elif isinstance(step, p.Rebooted):
                self.trail.reboot = None
            elif isinstance(step, p.Image):
                self.images.add(step.sha256)
                self.facts.images.add(step.sha256)
            elif not isinstance(step, p.Wait | p.Blocked):
                job.results.append((step, self.do(step), self.now_s))
        notes = effects.learn(self.facts, self.trail, self.record, job)
        self.record = msgspec.structs.replace(self.record, **notes)
        self.observe()
        waits = [s.until_s for s in steps if isinstance(s, p.Wait)]
        if waits:
            assert waits[0] > self.now_s
            self.now_s = waits[0]
        return bool(steps) and not any(isinstance(s, p.Blocked) for s in steps)

    def note(self, step: p.Note) -> None:
        if step.reboots is not None and step.reboots > self.record.reboots:
            self.noted_reboots.append(step.reboots)
        if step.resets is not None and step.resets > self.record.resets:
            self.noted_resets.append(step.resets)
        self.record = p.apply_note(self.record, step)

    def do(self, step: p.Step) -> Any:
        if isinstance(step, p.Start):
            assert not self.running
            assert {d.volume_id for d in self.wanted.disks} <= set(self.volumes)
            self.starts += 1
            self.running = self.defined = True
            self.reason = self.paused = None
        elif isinstance(step, p.Volume):
            self.volumes[step.disk.volume_id] = "/path"
            return "/path"
        elif isinstance(step, p.Network):
            return "bridge"
        elif isinstance(step, p.Port):
            return "tap"
        elif isinstance(step, p.AskStop):
            assert self.paused is None  # it could not hear
            if not self.deaf:
                self.end("guest-shutdown")
            return not (self.deaf and step.how == "agent")
        elif isinstance(step, p.AskReboot):
            assert self.record.reboots >= self.wanted.reboots  # the number is noted before
            self.reboot_asks.append((self.record.reboots, step.how))
            return step.how == "reset" or not self.deaf
        elif isinstance(step, p.Reset):
            assert self.record.resets >= self.wanted.resets  # the number is noted before
            self.resets.append(self.record.resets)
            return True
        elif isinstance(step, p.Suspend):
            self.paused = "suspended"
        elif isinstance(step, p.Resume):
            self.paused = None
        elif isinstance(step, p.Destroy):
            self.end("destroyed")
        elif isinstance(step, p.RemoveDomain):
            self.running = self.defined = False
        elif isinstance(step, p.RemoveVolume):
            self.volumes.pop(step.volume_id, None)
        return None

    def panic(self) -> None:
        if self.running and self.wanted.on_crash == "preserve":
            self.paused = "panicked"
        elif self.running:
            self.end("panicked")

    def end(self, reason: str | None) -> None:
        self.running, self.reason = False, reason

    def link(self, *, fresh: bool, alone: bool) -> None:
        self.fresh, self.alone = fresh, alone

    def settle(self) -> None:
        for _ in range(60):
            if not self.step():
                return
        raise AssertionError(f"it never comes to rest: {self.plan()}")


def wish(world: World, **changes: Any) -> None:
    if not world.wanted.gone:
        world.wanted = msgspec.structs.replace(world.wanted, generation=world.wanted.generation + 1, **changes)
