"""The whole of one schedule: stage, tables, control-plane processes, hosts, and the projects that people work in.

What is there at the beginning is written by the product's own intents. Called by `schedule`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

from nubila.intent import catalog, image, network, node
from nubila.intent.asking import Asking, Outcome
from nubila.intent.carry import Caller, Done
from nubila.model import ids
from nubila.model.image import Format
from nubila.testing.control import Bus, Control
from nubila.testing.host import Host, Witness
from nubila.testing.net import Net
from nubila.testing.stage import Stage
from nubila.testing.store import Tables

SHA = "a" * 64
REGION = "sim"
FLAVOR, IMAGE = "small", "mini"
MEMORY_MIB, DISK_GIB = 512, 4


class Fleet:
    def __init__(self, stage: Stage, witness: Witness, *, hosts: int, controls: int = 2, projects: int = 2):
        self.stage, self._witness = stage, witness
        self.tables = Tables(stage)
        self.net, self.bus = Net(stage), Bus(stage)
        self.controls = [Control(stage, self.tables, self.bus, self.mint, f"c{n + 1}", REGION) for n in range(controls)]
        self.net.servers = list(self.controls)
        self._sizes = hosts, projects
        self.hosts: list[Host] = []
        self.projects: list[UUID] = []

    def mint(self) -> UUID:
        return ids.uuid7(int(self.stage.wall_s() * 1000), self.stage.random.getrandbits(74))

    async def fill(self) -> None:
        """Projects, a flavor, an image, networks and nodes; the control plane runs, the hosts do not yet."""
        for control in self.controls:
            control.start()
        hosts, projects = self._sizes
        for n in range(projects):
            body = catalog.ProjectCreate(name=f"p{n + 1}")
            self.projects.append(await self._do("project", lambda a, body=body: catalog.create_project(body, a)))  # type: ignore[misc]
        flavor = catalog.FlavorCreate(name=FLAVOR, cores=1, memory_mib=MEMORY_MIB, disk_gib=DISK_GIB)
        await self._do("flavor", lambda a: catalog.create_flavor(flavor, a))
        picture = await self._do("image", lambda a: image.create(image.ImageCreate(name=IMAGE, format=Format.RAW), a))
        row = self.tables.rows["image"].get(str(picture))
        assert row is not None
        arrived = image.Arrived(sha256=SHA, size_bytes=4096, virtual_bytes=4096)
        await self._do("image", lambda a: image.fill(row, a, arrived))
        for project_id in self.projects:
            net = network.NetworkCreate(name="default", subnets=[network.SubnetCreate(cidr="10.9.0.0/24")])
            await self._do("network", lambda a, net=net: network.create(net, a), project_id=project_id)  # type: ignore[misc]
        for n in range(hosts):
            await self._host(f"h{n + 1}")

    async def _host(self, name: str) -> None:
        node_id, token_id = self.mint(), self.mint()
        await self._do("join_token", lambda a: node.create_join_token(node.JoinTokenCreate(), a, token_id, ("", "00")))
        token = {"id": str(token_id), "spec": {"roles": ["hypervisor"], "zone": "default"}}
        await self._do("node", lambda a: node.enrol(f"{name}.example", token, a, node_id, name, "k"))
        self.hosts.append(Host(self.stage, self.net, self._witness, name, node_id, REGION))

    async def _do(self, kind: str, make: Callable[[Asking], Outcome], project_id: UUID | None = None) -> UUID:
        context = self.controls[0].context

        async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
            return make(asking(await context.accounts.now()))

        caller = Caller(
            actor="operator:sim",
            request="setup",
            action=f"{kind}.setup",
            project_id=project_id,
            operator=project_id is None,
        )
        done: Any = await context.carrier.carry(caller, attempt)
        assert isinstance(done, Done)
        made = done.refers[kind]
        assert made is not None
        return made
