"""A project with its people, made by the operators' API; and the few calls that every test makes in it."""

from __future__ import annotations

import itertools
from typing import Any
from uuid import UUID

from nubila.model import ids
from tests.fleet.caller import Caller, Reply
from tests.fleet.installation import FRONTS, Installation, until

_NUMBER = itertools.count(1)
LARGE = {"vms": 1000, "cores": 10**6, "memory_mib": 1 << 40, "volumes": 10**5, "disk_gib": 1 << 30, "networks": 20}


class Tenant:
    """`owner` is a client at the first API process; `at(front)` gives one at another."""

    def __init__(
        self,
        cloud: Installation,
        name: str | None = None,
        *,
        cidr: str = "10.9.0.0/16",
        cidr6: str = "fd09::/64",
        quota: dict[str, int] | None = None,
    ):
        self.cloud = cloud
        self.name = name or f"p{next(_NUMBER)}"
        operator = cloud.operator()
        self.id: str = operator.post("/v1/projects", {"name": self.name}).ok()["id"]
        operator.put(f"/v1/projects/{self.name}/quota", {"quota": {**LARGE, **(quota or {})}}).ok()
        self.user = f"{self.name}-owner"
        self.token = self.person(self.user, "owner")
        self.owner = cloud.caller("user", self.token)
        body = {"name": "default", "subnets": [{"cidr": cidr}, {"cidr": cidr6}]}
        self.network_id: str = self.owner.post("/v1/networks", body).ok()["id"]

    def person(self, name: str, role: str) -> str:
        """A new user of this project with a role; returns a token."""
        operator = self.cloud.operator()
        operator.post("/v1/users", {"name": name}).ok()
        operator.put(f"/v1/projects/{self.name}/members/{name}", {"role": role}).ok()
        token: str = operator.post(f"/v1/users/{name}/tokens", {"name": "t", "project": self.name}).ok()["secret"]
        return token

    def at(self, front: str) -> Caller:
        return self.cloud.caller("user", self.token, front)

    def fronts(self) -> list[Caller]:
        return [self.at(f) for f in FRONTS]

    def wish(self, name: str, **more: Any) -> dict[str, Any]:
        """The body of a create. The virt method is one that only the installation's own nodes have."""
        return {"name": name, "flavor": "tiny", "image": "mini", "virt_method": "kvm", **more}

    def create(self, name: str, *, wait: float = 0, **more: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.owner.post(f"/v1/vms?wait={wait}", self.wish(name, **more)).ok()
        return answer

    def running(self, name: str, **more: Any) -> dict[str, Any]:
        """A VM that runs."""
        answer = self.create(name, wait=20, **more)
        assert answer["operation"]["state"] == "done", answer
        vm: dict[str, Any] = answer["vm"]
        assert vm["state"] == "running"
        return vm

    def vm(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.owner.get(f"/v1/vms/{name}").ok()
        return found

    def quota(self) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = self.owner.get("/v1/project").ok()["quota"]
        return found

    def all_running(self, count: int, timeout_s: float = 60.0) -> list[dict[str, Any]]:
        """Waits until so many VMs of the project run, and no other exists."""

        def look() -> list[dict[str, Any]] | None:
            vms = self.owner.list("/v1/vms?limit=1000")
            return vms if len(vms) == count and all(v["state"] == "running" for v in vms) else None

        found: list[dict[str, Any]] = until(look, timeout_s, 0.2, f"{count} running VMs")
        return found


def absent(kind: str, n: int = 1) -> str:
    """The id of something that never was."""
    return ids.text(kind, UUID(int=(0x01960000 << 96) | (7 << 76) | (2 << 62) | n))


def refused(reply: Reply, status: int, slug: str) -> dict[str, Any]:
    """A problem as every API promises it."""
    assert reply.status == status, reply
    problem: dict[str, Any] = reply.body
    assert problem["slug"] == slug, reply
    assert problem["status"] == status
    assert problem["detail"]
    assert problem["fix"]
    assert problem["request_id"].startswith("req-")
    return problem
