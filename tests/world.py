"""A small fabric for tests below the API: project, flavor, image, network and nodes, all written by the product's intents."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

from nubila.fleet.fleet import Fleet
from nubila.intent import catalog, image, network, node, vm
from nubila.intent.asking import Asking, Outcome
from nubila.intent.carry import Caller, Carrier, Done, Planned
from nubila.intent.vm_create import VmCreate, create
from nubila.model import ids
from nubila.model.image import Format
from nubila.protocol import Hello
from nubila.store.database import Database
from nubila.store.node import NodeStore
from nubila.store.notify import Hub, Notifier
from nubila.store.resource import AccountStore, ResourceStore
from nubila.store.vm import VmStore

SHA = "a" * 64
HELLO = Hello(
    protocol=1,
    agent_version="0",
    fqdn="n.example",
    boot_id="b",
    kernel="k",
    cores=8,
    memory_mib=8192,
    disk_gib=100,
    virt_methods=("fake",),
    drivers={"hypervisor": {"fake": {}}},
)


class World:
    def __init__(self, socket: str, name: str, database: Database):
        self.socket, self.name, self.database = socket, name, database
        self.random = random.Random(7)
        self.hub = Hub()
        self.notifier = Notifier(self.hub, {"host": socket, "user": "nubila", "database": name})
        self.fleet = Fleet(NodeStore(database))
        self.carrier = Carrier(database, self.notifier, self.fleet, self.mint)
        self.accounts = AccountStore(database)
        self.resources = ResourceStore(database)
        self.vms = VmStore(database)
        self.nodes = NodeStore(database)
        self.project_id = UUID(int=0)
        self.node_ids: list[UUID] = []
        self.sessions: dict[UUID, int] = {}

    def mint(self) -> UUID:
        return ids.uuid7(time.time_ns() // 1_000_000, self.random.getrandbits(74))

    def caller(self, action: str = "test", **more: Any) -> Caller:
        values: dict[str, Any] = {
            "actor": "user:test",
            "request": "req-test",
            "action": action,
            "project_id": self.project_id,
            **more,
        }
        return Caller(**values)

    async def do(self, make: Callable[[Asking], Outcome], **more: Any) -> Done:
        async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
            return make(asking(await self.accounts.now()))

        done = await self.carrier.carry(self.caller(**more), attempt)
        assert isinstance(done, Done)
        return done

    async def fill(self, nodes: int = 1, cidr: str = "10.9.0.0/24") -> None:
        done = await self.do(
            lambda a: catalog.create_project(catalog.ProjectCreate(name="p"), a), project_id=None, operator=True
        )
        assert done.refers["project"] is not None
        self.project_id = done.refers["project"]
        await self.do(
            lambda a: catalog.create_flavor(catalog.FlavorCreate(name="tiny", cores=1, memory_mib=128, disk_gib=1), a),
            project_id=None,
        )
        done = await self.do(
            lambda a: image.create(image.ImageCreate(name="mini", format=Format.RAW), a), project_id=None
        )
        row = await self.resources.whole("image", object_id=done.refers["image"])
        assert row is not None
        await self.do(
            lambda a: image.fill(row, a, image.Arrived(sha256=SHA, size_bytes=4096, virtual_bytes=4096)),
            project_id=None,
        )
        body = network.NetworkCreate(name="default", subnets=[network.SubnetCreate(cidr=cidr)])
        await self.do(lambda a: network.create(body, a))
        for _ in range(nodes):
            await self.add_node()

    async def add_node(self, **hello: Any) -> UUID:
        node_id, token_id = self.mint(), self.mint()
        body = node.JoinTokenCreate()
        await self.do(lambda a: node.create_join_token(body, a, token_id, ("", "00")), project_id=None, operator=True)
        token = {"id": str(token_id), "spec": {"roles": ["hypervisor"], "zone": "default"}}
        name = f"n{len(self.node_ids) + 1}"
        await self.do(lambda a: node.enrol("n.example", token, a, node_id, name, "k"), project_id=None, operator=True)
        await self.open_session(node_id, **hello)
        self.node_ids.append(node_id)
        return node_id

    async def open_session(self, node_id: UUID, **hello: Any) -> int:
        import msgspec

        said = msgspec.structs.replace(HELLO, **hello)
        rows = await self.accounts.node_rows(node_id)
        assert rows is not None
        whole, methods, inventory = (msgspec.json.decode(rows[k] or "[]") for k in ("node", "methods", "inventory"))
        await self.do(lambda a: node.open_session(said, whole, methods, inventory, a), project_id=None, operator=True)
        self.sessions[node_id] = await self.nodes.new_session(node_id)
        self.fleet.outdated()
        return self.sessions[node_id]

    def creating(self, body: VmCreate) -> Callable[[Callable[[datetime], Asking]], Any]:
        async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
            view = await self.vms.create_view(
                self.project_id,
                name=body.name,
                flavor=(body.flavor, None),
                image=(body.image, None),
                networks=None,
                keys=([], []),
                random=[self.random.getrandbits(62) for _ in range(16)],
            )
            entropy = [self.random.getrandbits(40) for _ in range(8)]
            nodes = await self.fleet.snapshot()
            return create(
                body, view, nodes, asking(view["now"]), seed=self.random.getrandbits(32), sealed=None, entropy=entropy
            )

        return attempt

    async def create_vm(
        self,
        name: str,
        *,
        plan: bool = False,
        key: str | None = None,
        actor: str = "user:test",
        request: str = "req-test",
        **body: Any,
    ) -> Done | Planned:
        wanted = VmCreate(name=name, **{"flavor": "tiny", "image": "mini", **body})
        who = {"actor": actor, "request": request, "idempotency_key": key, "fingerprint": name}
        return await self.carrier.carry(self.caller("vm.create", plan=plan, **who), self.creating(wanted))

    async def vm(self, name: str) -> dict[str, Any]:
        view = await self.vms.one_view(self.project_id, None, name)
        assert view is not None
        return view

    async def remove_vm(self, name: str) -> Done:
        view = await self.vm(name)
        return await self.do(lambda a: vm.remove(view, a))

    async def counts(self) -> dict[str, int]:
        """How many rows each table of the schema has: equal before and after means that nothing was written."""
        tables = await self.database.fetch("select tablename from pg_tables where schemaname = 'public'")
        return {t["tablename"]: await self.database.value(f'select count(*) from "{t["tablename"]}"') for t in tables}

    async def close(self) -> None:
        await self.notifier.stop()
