"""What random calls are about: objects in the state that a verb needs, names, and the randomness of a run."""

from __future__ import annotations

import base64
import random
import struct
from typing import Any

from tests.fleet.caller import Caller
from tests.fleet.image_client import small_iso, upload
from tests.fleet.installation import Installation, until
from tests.fleet.puppet import Puppet
from tests.fleet.tenant import Tenant
from tests.fleet.test_fleet_drift import of, said


class Rig:
    """One project with what its cases need, a node that leaves operations waiting, and the randomness of a run."""

    def __init__(self, cloud: Installation, puppet: Puppet, seed: int):
        self.cloud, self.puppet, self.draw = cloud, puppet, random.Random(seed)
        puppet.silent_for(-36000)  # it says nothing by itself, and counts as heard from all the same
        self.tenant, self.other = Tenant(cloud, quota={"images": 1000, "networks": 1000}), Tenant(cloud)
        self.owner, self.operator = self.tenant.owner, cloud.operator()
        self.owner.post("/v1/images", {"name": "disc", "format": "iso"}).ok()
        upload(self.owner, "disc", small_iso())
        self._number = 0
        self._used_groups: list[str] = []

    def name(self) -> str:
        self._number += 1
        return f"{self.draw.choice('abcxyz')}{self._number}"

    def labels(self) -> dict[str, str]:
        return {self.name(): self.draw.choice(("", "1", "a b")) for _ in range(self.draw.randrange(3))}

    def text(self) -> str:
        return (
            "".join(self.draw.choice("abc \u00e4\u4e2d'\"{}") for _ in range(self.draw.randrange(1, 40))).strip() or "x"
        )

    def some(self, **each: Any) -> dict[str, Any]:
        """At least one of these fields."""
        kept = {k: v for k, v in each.items() if self.draw.random() < 0.5}
        k = self.draw.choice(sorted(each))
        return {**kept, k: each[k]}

    # --- what calls are about

    def vm(self, *then: str, **more: Any) -> str:
        """A new VM that runs, or is what the words made of it."""
        name = self.name()
        self.tenant.running(name, **more)
        for word in then:
            body = {
                "suspend": None,
                "stop": {"mode": "hard"},
                "insert": {"image": "disc"},
                "rescue": {"image": "disc"},
            }[word]
            done = self.owner.post(f"/v1/vms/{name}/{word}?wait=20", body).ok()
            assert done["operation"]["state"] == "done", done
        return name

    def volume(self, vm: str | None = None, **more: Any) -> str:
        """A new volume that is ready; attached to the VM if one is given."""
        name = self.name()
        beside = {} if vm is None else {"for_vm": vm}
        done = self.owner.post("/v1/volumes?wait=20", {"name": name, "size_gib": 1, **beside, **more}).ok()
        assert done["operation"]["state"] == "done", done
        if vm is not None:
            self.owner.post(f"/v1/volumes/{name}/attach?wait=20", {"vm": vm}).ok()
        return name

    def snapshot(self, volume: str) -> dict[str, Any]:
        done = self.owner.post(f"/v1/volumes/{volume}/snapshots?wait=20", {"name": self.name()}).ok()
        made: dict[str, Any] = done["snapshot"]
        until(lambda: self.owner.get(f"/v1/snapshots/{made['id']}").ok()["state"] == "ready")
        return made

    def waiting(self) -> str:
        """An operation that goes on until somebody cancels it."""
        name = self.name()
        if self.draw.random() < 0.3:
            self.puppet.revive()
            made: dict[str, Any] = self.tenant.create(name, virt_method=self.puppet.method)
            return str(made["operation"]["id"])
        self.puppet.running(self.tenant, name)
        word = self.draw.choice(("stop", "reboot", "suspend", "reset"))
        return str(self.owner.post(f"/v1/vms/{name}/{word}").ok()["operation"]["id"])

    def drift(self, *, foreign: bool = False) -> str:
        vm_id = self.puppet.running(self.tenant, self.name())
        line = of(vm_id) | ({"cause": "foreign", "vm_id": ""} if foreign else {})
        said(self.puppet, {k: v for k, v in line.items() if v})
        return str(self.operator.list(f"/v1/drifts?node={self.puppet.id}")[-1]["id"])

    def image(self, caller: Caller, **more: Any) -> str:
        name = self.name()
        caller.post("/v1/images", {"name": name, "format": "raw", **more}).ok()
        if self.draw.random() < 0.5:
            caller.put_bytes(f"/v1/images/{name}/content", self.draw.randbytes(4096)).ok()
        return name

    def group(self) -> str:
        name = self.name()
        self.owner.post("/v1/security-groups", {"name": name, "rules": self.rules()}).ok()
        return name

    def used_group(self) -> str:
        """One to put a port in: a project has a hundred groups at most."""
        if len(self._used_groups) < 20:
            self._used_groups.append(self.group())
            return self._used_groups[-1]
        return self.draw.choice(self._used_groups)

    def rules(self) -> list[dict[str, Any]]:
        draw = self.draw
        return [
            draw.choice(
                (
                    {"direction": "in", "protocol": "tcp", "port_min": draw.randrange(1, 65535)},
                    {"direction": "out", "protocol": "any", "cidr": f"10.{draw.randrange(256)}.0.0/16"},
                    {"direction": "in", "protocol": "udp", "port_min": 53, "group": "default"},
                )
            )
            for _ in range(draw.randrange(4))
        ]

    def network(self) -> str:
        name = self.name()
        self.owner.post("/v1/networks", {"name": name, "subnets": self.subnets()}).ok()
        return name

    def subnets(self) -> list[dict[str, Any]]:
        third = self.draw.randrange(256)
        return [{"cidr": f"10.77.{third}.0/24"}, {"cidr": f"fd77:{third:x}::/64"}][: self.draw.choice((1, 2))]

    def user(self) -> str:
        return str(self.operator.post("/v1/users", {"name": self.name()}).ok()["name"])

    def token(self) -> str:
        return str(self.owner.post("/v1/tokens", {"name": self.name()}).ok()["token"]["id"])

    def key(self) -> str:
        blob = b"".join(struct.pack(">I", len(p)) + p for p in (b"ssh-ed25519", self.draw.randbytes(32)))
        return f"ssh-ed25519 {base64.b64encode(blob).decode()} {self.name()}"
