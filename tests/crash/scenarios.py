"""What is tried at every crash point: for each verb, how to get to where it can be asked, the call, and what then must be true."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import msgspec

from tests.crash.host import Host
from tests.fleet.caller import Reply
from tests.fleet.installation import until
from tests.fleet.tenant import Tenant

_NUMBER = itertools.count(1)


class Subject:
    """One vm of a scenario, on the host under test."""

    def __init__(self, tenant: Tenant, host: Host):
        self.tenant, self.host = tenant, host
        self.name = f"s{next(_NUMBER)}"
        self.vm_id = ""
        self.notes: dict[str, Any] = {}

    def create(self, **more: Any) -> Reply:
        wish = self.tenant.wish(self.name, **{"virt_method": self.host.name, "image": self.host.image, **more})
        reply = self.tenant.owner.post("/v1/vms", wish, idempotency_key=self.name)
        if reply.status == 201:
            self.vm_id = reply.body["vm"]["id"]
        return reply

    def post(self, verb: str, body: Any = None) -> Reply:
        return self.tenant.owner.post(f"/v1/vms/{self.name}/{verb}", body, idempotency_key=f"{self.name}-{verb}")

    def vm(self) -> dict[str, Any]:
        found: dict[str, Any] = self.tenant.owner.get(f"/v1/vms/{self.vm_id}").ok()
        return found

    def reach(self, state: str) -> None:
        until(lambda: self.vm()["state"] == state, 20, 0.02, f"{self.name} {state}: {self.vm()}")

    def boots(self) -> int:
        return int(self.host.domain(self.vm_id).get("boots", 0))

    def is_running(self) -> bool:
        return bool(self.host.domain(self.vm_id).get("running"))


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """`before` brings the subject to where `act` can be asked; `holds` says what the world shows in the end."""

    name: str
    before: Callable[[Subject], None]
    act: Callable[[Subject], Reply]
    holds: Callable[[Subject], bool]
    grace_s: float = 60.0
    operation: bool = True  # the call's answer names one


def nothing(s: Subject) -> None:
    """From nothing."""


def running(s: Subject) -> None:
    s.create().ok()
    s.reach("running")
    s.notes["boots"] = until(s.boots, 20, 0.02, f"{s.name} boots")


def stopped(s: Subject) -> None:
    running(s)
    s.post("stop", {"mode": "hard"}).ok()
    s.reach("stopped")
    s.notes["boots"] = s.boots()


def suspended(s: Subject) -> None:
    running(s)
    s.post("suspend").ok()
    s.reach("suspended")


def tampered(s: Subject) -> None:
    running(s)
    s.host.stop()
    s.notes["defined"] = s.host.domain(s.vm_id)["defined"]
    s.host.tamper(s.vm_id)
    s.host.start()
    operator = s.tenant.cloud.operator()

    def seen() -> list[dict[str, Any]]:
        return [d for d in operator.list("/v1/drifts?limit=1000") if s.vm_id in str(d["status"])]

    s.notes["drift"] = until(seen, 20, 0.05, f"drift of {s.name}")[0]["id"]


def repair(s: Subject) -> Reply:
    return s.tenant.cloud.operator().post(f"/v1/drifts/{s.notes['drift']}/repair")


def as_wished(s: Subject) -> bool:
    return s.is_running() and bool(s.host.domain(s.vm_id)["defined"] == s.notes["defined"])


def removed(s: Subject) -> None:
    running(s)
    s.tenant.owner.delete(f"/v1/vms/{s.name}?wait=20").ok()


def swept(s: Subject) -> bool:
    world, done = s.host.world(), s.host.effects()
    littered = all(done[f"{driver}.remove_leftover"] for driver in ("hypervisor", "storage", "network"))
    return littered and not (world["network"] or world["image"] or world["volume"] or world["port"])


def gone(s: Subject) -> bool:
    world = s.host.world()
    return s.vm_id not in world["domain"] and s.tenant.owner.get(f"/v1/vms/{s.name}").status == 404


# verb -> scenario. At-most-once verbs count boots: a crash may lose one, and must not make two.
SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        name="create",
        before=nothing,
        act=lambda s: s.create(),
        holds=lambda s: s.is_running() and s.boots() == 1,
    ),
    Scenario(
        name="start",
        before=stopped,
        act=lambda s: s.post("start"),
        holds=lambda s: s.is_running() and s.boots() == s.notes["boots"] + 1,
    ),
    Scenario(
        name="stop", before=running, act=lambda s: s.post("stop", {"timeout_s": 1}), holds=lambda s: not s.is_running()
    ),
    Scenario(
        name="stop-hard",
        before=running,
        act=lambda s: s.post("stop", {"mode": "hard"}),
        holds=lambda s: not s.is_running(),
    ),
    Scenario(
        name="reboot",
        before=running,
        act=lambda s: s.post("reboot", {}),
        holds=lambda s: s.is_running() and s.boots() <= s.notes["boots"] + 1,
    ),
    Scenario(name="remove", before=running, act=lambda s: s.tenant.owner.delete(f"/v1/vms/{s.name}"), holds=gone),
    Scenario(
        name="reset",
        before=running,
        act=lambda s: s.post("reset"),
        holds=lambda s: s.is_running() and s.boots() <= s.notes["boots"] + 1,
    ),
    Scenario(
        name="suspend",
        before=running,
        act=lambda s: s.post("suspend"),
        holds=lambda s: bool(s.host.domain(s.vm_id).get("paused")) and s.boots() == s.notes["boots"],
    ),
    Scenario(
        name="resume",
        before=suspended,
        act=lambda s: s.post("resume"),
        holds=lambda s: s.is_running() and not s.host.domain(s.vm_id).get("paused") and s.boots() == s.notes["boots"],
    ),
    Scenario(name="repair", before=tampered, act=repair, holds=as_wished),
    Scenario(
        name="sweep",
        before=removed,
        act=lambda s: s.tenant.owner.get("/v1/vms"),
        holds=swept,
        grace_s=0.3,
        operation=False,
    ),
    Scenario(
        name="remove-stopped", before=stopped, act=lambda s: s.tenant.owner.delete(f"/v1/vms/{s.name}"), holds=gone
    ),
)
