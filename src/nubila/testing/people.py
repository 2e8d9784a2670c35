"""People at work: in each project somebody creates, starts, stops, attaches, cancels, and asks again with the same key when
an answer was lost. Called by `schedule`; what they ask goes through the product's handlers.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import msgspec

from nubila.api.context import ApiCall
from nubila.api.noun import operation, vm, vm_more, volume
from nubila.api.route import Answer
from nubila.client.answers import Response
from nubila.intent.snapshot import SnapshotCreate
from nubila.intent.vm import VmReboot, VmStop
from nubila.intent.vm_create import VmCreate
from nubila.intent.volume import VolumeAttach, VolumeChange, VolumeRollBack
from nubila.intent.volume_create import VolumeCreate
from nubila.model.ids import parse, text
from nubila.model.vm import CrashPolicy, StopMode
from nubila.testing.control import user
from nubila.testing.fleet import FLAVOR, IMAGE, Fleet
from nubila.testing.judge import Judge
from nubila.testing.rows import Row

PAUSE_S = 7.0  # between two of one person's wishes, on average
LOST = 0.08  # share of answers that are lost
AGAIN = 0.05  # share of calls that are sent once more though they were answered
TRIES = 12
VMS_WISHED = 11  # of one project
VOLUMES_WISHED = 7


class Wish(msgspec.Struct, frozen=True):
    """One call to be made."""

    handler: Callable[[ApiCall], Awaitable[Answer]]
    body: Any = None
    params: dict[str, str] = {}


class Person:
    """Who works in one project."""

    def __init__(self, fleet: Fleet, judge: Judge, project_id: UUID, name: str):
        self.fleet, self.judge, self.project_id, self.name = fleet, judge, project_id, name
        self.draw = fleet.stage.random
        self.asked: Counter[tuple[str, str]] = Counter()  # verb and how it was answered
        self._principal = user(project_id, fleet.mint())
        self._number = itertools.count(1)

    async def work(self) -> None:
        """Until cancelled."""
        while True:
            full = len(self.living("vm")) < VMS_WISHED
            await asyncio.sleep(self.draw.expovariate(1 / (PAUSE_S / 4 if full else PAUSE_S)))
            names = list(VERBS)
            verb = self.draw.choices(names, [VERBS[n][0] for n in names])[0]
            wish = VERBS[verb][1](self)
            if wish is not None:
                await self.ask(verb, wish)

    async def ask(self, verb: str, wish: Wish) -> None:
        """Until it is answered, always with the same key."""
        key = f"{self.name}-{next(self._number)}"
        for _ in range(TRIES):
            alive = [c for c in self.fleet.controls if c.alive]
            answer = await self._once(verb, key, wish) if alive else None
            if answer is None or answer.status in (429, 503):
                await asyncio.sleep(self.draw.uniform(0.2, 4.0))
                continue
            self._answered(verb, key, answer)
            if self.draw.random() < AGAIN:
                answer = await self._once(verb, key, wish)
                if answer is not None and answer.status < 300:
                    self._answered(verb, key, answer)
            return
        self.asked[verb, "unanswered"] += 1

    async def _once(self, verb: str, key: str, wish: Wish) -> Response | None:
        alive = [c for c in self.fleet.controls if c.alive]
        if not alive:
            return None
        control = self.draw.choice(alive)
        path = f"/v1/{verb}/" + "/".join(wish.params.values())
        call = control.call(self._principal, "POST", path, body=wish.body, params=wish.params, idempotency_key=key)
        lost = self.draw.random() < LOST
        try:
            answer = await asyncio.shield(asyncio.ensure_future(control.ask(wish.handler, call)))
        except asyncio.CancelledError:
            if control.alive:  # it is this person who ends
                raise
            return None
        return None if lost else answer

    def _answered(self, verb: str, key: str, answer: Response) -> None:
        if answer.status == 500:
            self.judge.violated("I11", f"{verb} was answered with {answer.status}: {answer.body[:300]!r}")
        body = msgspec.json.decode(answer.body) if answer.body else {}
        if answer.status >= 300:
            self.asked[verb, str(body.get("slug"))] += 1
            if body.get("slug") == "name-taken":  # every name is given once
                self.judge.violated("I6", f"{verb} under the key {key} was carried out before, and is refused now")
            return
        self.asked[verb, "ok"] += 1
        shown = {k: v for k, v in body.items() if isinstance(v, dict) and "id" in v}
        ids = {k: i for k, v in shown.items() if (i := parse(k, v["id"])) is not None}
        self.fleet.stage.process = None
        self.judge.tell(self.name, f"{verb}: " + ", ".join(f"{k} {v.get('name')}" for k, v in shown.items()))
        self.judge.told(key, verb, ids)

    # --- what there is

    def living(self, kind: str) -> list[Row]:
        return [
            r
            for r in self.fleet.tables.rows[kind]
            if r["project_id"] == str(self.project_id) and r["removed_at"] is None and not r["spec"].get("gone")
        ]

    def one(self, kind: str, *states: str) -> dict[str, str] | None:
        """Some object of the kind, as a path's parameter."""
        rows = [r for r in self.living(kind) if not states or r["state"] in states]
        return {kind: text(kind, UUID(self.draw.choice(rows)["id"]))} if rows else None

    def fresh_name(self, kind: str) -> str:
        return f"{self.name}-{kind}{next(self._number)}"


def _on(
    kind: str, handler: Callable[[ApiCall], Awaitable[Answer]], *states: str, body: Any = None
) -> Callable[[Person], Wish | None]:
    def wish(p: Person) -> Wish | None:
        params = p.one(kind, *states)
        return None if params is None else Wish(handler, body(p) if callable(body) else body, params)

    return wish


def _create(p: Person) -> Wish | None:
    if len(p.living("vm")) >= VMS_WISHED:
        return None
    policy = p.draw.choice((CrashPolicy.RESTART, CrashPolicy.RESTART, CrashPolicy.STOP))
    return Wish(vm.create_vm, VmCreate(name=p.fresh_name("vm"), flavor=FLAVOR, image=IMAGE, on_crash=policy))


def _make_volume(p: Person) -> Wish | None:
    beside = p.one("vm")
    if len(p.living("volume")) - len(p.living("vm")) >= VOLUMES_WISHED:
        return None
    source = p.one("volume", "ready") if p.draw.random() < 0.25 else None
    body = VolumeCreate(
        name=p.fresh_name("vol"),
        size_gib=None if source else 1,
        source=source["volume"] if source else None,
        for_vm=beside["vm"] if beside and not source else None,
    )
    return Wish(volume.create_volume, body)


def _free(p: Person, attached: bool) -> dict[str, str] | None:
    """A volume that is no boot disk, and is attached or not."""
    held = {a["volume_id"] for a in p.fleet.tables.rows["attachment"] if a["state"] == "active" and a["vm_id"]}
    rows = [v for v in p.living("volume") if not v["spec"]["remove_with_vm"] and (v["id"] in held) == attached]
    return {"volume": text("volume", UUID(p.draw.choice(rows)["id"]))} if rows else None


def _attach(p: Person) -> Wish | None:
    params = _free(p, attached=False)
    if params is None:
        return None
    row = p.fleet.tables.rows["volume"].get(str(parse("volume", params["volume"])))
    beside = [v for v in p.living("vm") if row is not None and v["node_id"] == row["node_id"]]
    if not beside:
        return None
    return Wish(volume.attach_volume, VolumeAttach(vm=text("vm", UUID(p.draw.choice(beside)["id"]))), params)


def _detach(p: Person) -> Wish | None:
    params = _free(p, attached=True)
    return None if params is None else Wish(volume.detach_volume, None, params)


def _remove_volume(p: Person) -> Wish | None:
    params = _free(p, attached=False)
    return None if params is None else Wish(volume.remove_volume, None, params)


def _grow(p: Person) -> Wish | None:
    params = p.one("volume", "ready")
    row = None if params is None else p.fleet.tables.rows["volume"].get(str(parse("volume", params["volume"])))
    if params is None or row is None or row["spec"]["size_gib"] > 6:
        return None
    return Wish(volume.change_volume, VolumeChange(size_gib=row["spec"]["size_gib"] + 1), params)


def _snapshot(p: Person) -> Wish | None:
    params = p.one("volume", "ready")
    if params is None or len(p.living("snapshot")) > 6:
        return None
    return Wish(volume.create_snapshot, SnapshotCreate(name=p.fresh_name("snap")), params)


def _roll_back(p: Person) -> Wish | None:
    rows = [s for s in p.living("snapshot") if s["state"] == "ready"]
    if not rows:
        return None
    row = p.draw.choice(rows)
    to = VolumeRollBack(snapshot=text("snapshot", UUID(row["id"])))
    return Wish(volume.roll_back_volume, to, {"volume": text("volume", UUID(row["volume_id"]))})


def _cancel(p: Person) -> Wish | None:
    rows = [
        o for o in p.fleet.tables.rows["operation"] if o["project_id"] == str(p.project_id) and o["ended_at"] is None
    ]
    if not rows:
        return None
    return Wish(operation.cancel_operation, None, {"operation": text("operation", UUID(p.draw.choice(rows)["id"]))})


def _stop(p: Person) -> VmStop:
    return VmStop(
        mode=p.draw.choice((StopMode.CLEAN, StopMode.CLEAN, StopMode.HARD)), timeout_s=p.draw.choice((5.0, 20.0))
    )


# verb -> how often, and the wish it makes of what there is
VERBS: dict[str, tuple[float, Callable[[Person], Wish | None]]] = {
    "vm.create": (6.0, _create),
    "vm.start": (2.5, _on("vm", vm.start_vm, "stopped")),
    "vm.stop": (2.5, _on("vm", vm.stop_vm, "running", "starting", "suspended", body=_stop)),
    "vm.reboot": (1.0, _on("vm", vm.reboot_vm, "running", body=lambda p: VmReboot(timeout_s=10.0))),
    "vm.reset": (0.7, _on("vm", vm_more.reset_vm, "running")),
    "vm.suspend": (0.7, _on("vm", vm_more.suspend_vm, "running")),
    "vm.resume": (0.7, _on("vm", vm_more.resume_vm, "suspended")),
    "vm.remove": (1.6, _on("vm", vm.remove_vm)),
    "volume.create": (2.0, _make_volume),
    "volume.attach": (2.0, _attach),
    "volume.detach": (1.6, _detach),
    "volume.grow": (1.0, _grow),
    "volume.remove": (0.8, _remove_volume),
    "volume.roll-back": (0.5, _roll_back),
    "snapshot.create": (1.0, _snapshot),
    "snapshot.remove": (0.7, _on("snapshot", volume.remove_snapshot, "ready")),
    "operation.cancel": (1.2, _cancel),
}
