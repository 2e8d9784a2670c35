"""Numbers of counted wishes: given once, withdrawn for good. The real intents, plan and report, without a database."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
from agent_control import vm as wire
from agent_world import World
from hypothesis import given, settings
from hypothesis import strategies as st

from nubila.agent import account
from nubila.agent import steps as p
from nubila.intent import operation as cancelling
from nubila.intent import report, vm_power
from nubila.intent import vm as vm_intent
from nubila.intent.asking import Asking, Outcome
from nubila.model import operation, vm
from nubila.model.draft import Draft, Drafted

NOW = datetime(2026, 1, 1, tzinfo=UTC)
COUNTED = {operation.Verb.REBOOT: "reboots", operation.Verb.RESET: "resets"}
SENT = (
    "power",
    "stop_mode",
    "stop_timeout_s",
    "starts",
    "reboots",
    "reboot_timeout_s",
    "resets",
    "repairs",
    "suspended",
)


class Followed(msgspec.Struct):
    """An operation, and how far the node was when it was wished."""

    row: dict[str, Any]
    begun_before: int
    withdrawn_at: int = 0  # generation

    @property
    def spec(self) -> operation.Spec:
        return msgspec.convert(self.row["spec"], operation.Spec)


class Fabric:
    """One vm's rows, and the node that has it."""

    def __init__(self) -> None:
        self.world = World()
        self.ids = itertools.count(1)
        spec = vm.Spec(cores=1, memory_mib=256, virt_method="fake", hostname="a", flavor_id="f", image_id="i")
        self.row: dict[str, Any] = {
            "id": str(UUID(int=1)), "project_id": str(UUID(int=2)), "node_id": str(UUID(int=3)), "name": "a",
            "epoch": 1, "generation": 1, "version": 1, "observed_generation": 0, "state": "pending", "status": None,
            "spec": msgspec.to_builtins(spec), "user_data_secret": None,
        }  # fmt: skip
        self.operations: list[Followed] = []
        self.delivered: list[int] = []
        self.sent: list[Any] = []
        self.deliver()
        self.world.settle()
        self.report()

    def wish(self, verb: str) -> None:
        asking = Asking(actor="t", request="r", now=NOW, mint=lambda: UUID(int=next(self.ids)), project_id=UUID(int=2))
        opened = [f for f in self.operations if f.row["state"] not in operation.TERMINAL]
        view = {"vm": self.row, "operations": [f.row for f in opened], "capabilities": {}, "volumes": [], "ports": []}
        outcome: Outcome
        match verb:
            case "cancel":
                if not opened:
                    return
                outcome = cancelling.cancel(opened[-1].row, view, asking)
            case "reboot":
                outcome = vm_intent.reboot(vm_intent.VmReboot(), view, asking)
            case "stop":
                outcome = vm_intent.stop(vm_intent.VmStop(), view, asking)
            case _:
                outcome = {"reset": vm_power.reset, "start": vm_intent.start}[verb](view, asking)
        if isinstance(outcome, Drafted):
            self.commit(outcome.draft)
            if verb == "cancel" and opened[-1].row["state"] == "cancelled":
                opened[-1].withdrawn_at = self.row["generation"]

    def commit(self, draft: Draft) -> None:
        for changed in draft.update.get("vm", []):
            self.row |= {k: v for k, v in changed.items() if k != "id"}
        for changed in draft.update.get("operation", []):
            next(f for f in self.operations if f.row["id"] == str(changed["id"])).row.update(
                changed, id=str(changed["id"])
            )
        for made in draft.insert.get("operation", []):
            begun = len(self.begun(made["spec"]["verb"]))
            self.operations.append(Followed({**made, "id": str(made["id"]), "status": None}, begun))
        self.sent.append({f: self.row["spec"][f] for f in SENT} | {"generation": self.row["generation"]})

    def begun(self, verb: str) -> list[int]:
        return self.world.noted_resets if verb == "reset" else self.world.noted_reboots

    def deliver(self, back: int = 0) -> None:
        """The newest wish, or a copy of an older one that comes late: what the agent does then is its own rule."""
        sent = self.sent[-1 - back] if back < len(self.sent) else {}
        if sent.get("generation", 1) >= self.world.wanted.generation:
            self.world.wanted = msgspec.structs.replace(wire(), **sent)
            self.delivered.append(self.world.wanted.generation)

    def report(self) -> None:
        world = self.world
        said = account.report(world.wanted, world.facts, world.record, world.trail, account.Work())
        if report.taken(said, self.row) is None:
            opened = [f.row for f in self.operations if f.row["state"] not in operation.TERMINAL]
            empty: dict[str, Any] = {
                k: [] for k in ("volumes", "attachments", "volume_operations", "ports", "allocations")
            }
            draft = Draft(actor="node", request="r", reason="")
            report.apply(said, {**empty, "vm": self.row, "operations": opened}, draft, NOW)
            self.commit(draft)

    def die(self) -> None:
        """kill -9 after the number was written, before anything was done."""
        steps = self.world.plan()
        for step in itertools.takewhile(lambda s: isinstance(s, p.Note), steps):
            self.world.note(step)
        self.world.restart_agent()


EVENTS: dict[str, Any] = {
    **{verb: lambda f, verb=verb: f.wish(verb) for verb in ("reboot", "reset", "cancel", "stop", "start")},
    "deliver": Fabric.deliver,
    "deliver-late": lambda f: f.deliver(1),
    "report": Fabric.report,
    "step": lambda f: f.world.step(),
    "kill-after-note": Fabric.die,
    "agent-restart": lambda f: f.world.restart_agent(),
}


@settings(max_examples=120, deadline=None)
@given(st.lists(st.sampled_from(sorted(EVENTS)), max_size=30))
def test_a_number_is_given_once_and_what_is_done_was_done_for_it(events: list[str]) -> None:
    """Mutants: a cancel that counts one back, and a number that is the next after what is wished: each fails here."""
    fabric = Fabric()
    for event in events:
        EVENTS[event](fabric)
    fabric.deliver()
    fabric.world.settle()
    fabric.report()
    followed = [f for f in fabric.operations if f.spec.verb in COUNTED]
    for verb in COUNTED:
        numbers = [f.spec.count for f in followed if f.spec.verb is verb]
        assert numbers == sorted(set(numbers)), f"{verb}: a number was given twice"
        begun = fabric.begun(verb)
        assert begun == sorted(set(begun))
        assert set(begun) <= set(numbers), f"{verb}: a number was acted on that nobody was given"
    for f in followed:
        begun = fabric.begun(f.spec.verb)
        if f.row["state"] == "done":
            assert f.spec.count in begun[f.begun_before :], f"{f.row['name']} is done, and the node did nothing for it"
        known = any(f.spec.generation <= g < f.withdrawn_at for g in fabric.delivered)
        if f.withdrawn_at and not known:
            assert f.spec.count not in begun, f"{f.row['name']} was withdrawn before any node knew of it"


def test_a_withdrawn_reboot_does_not_end_in_a_reset() -> None:
    """Its guest was asked and stays silent. Mutant: the button is pressed for a wish that nobody has any more."""
    fabric = Fabric()
    fabric.world.deaf = True
    fabric.wish("reboot")
    fabric.deliver()
    fabric.world.step()
    fabric.wish("cancel")
    fabric.deliver()
    asked = list(fabric.world.reboot_asks)
    fabric.world.settle()
    assert fabric.world.reboot_asks == asked
    fabric.report()
    assert (fabric.row["state"], fabric.row["status"]["reason"]) == ("running", None)
    fabric.wish("reboot")
    fabric.deliver()
    fabric.world.settle()
    assert fabric.world.reboot_asks[-1] == (fabric.row["spec"]["reboots"], "reset")  # one that stands does press it
