"""A machine of the fleet: worlds of its drivers and a disk, which outlive the agent that runs on it; and what befalls it.

The agent is the product's, from `agent.node` down to its plan and its journal; only its machine and its wire are made here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import msgspec

from nubila.agent import host, node
from nubila.agent.hands import Drivers
from nubila.drivers.hypervisor.fake import FakeHypervisor
from nubila.drivers.hypervisor.fake_world import HypervisorWorld
from nubila.drivers.network.fake import FakeNetwork, NetworkWorld
from nubila.drivers.storage.fake import FakeStorage, StorageWorld
from nubila.protocol import Hello
from nubila.testing import boundary
from nubila.testing.files import File
from nubila.testing.net import Net, Wire
from nubila.testing.stage import Process, Stage

CORES, MEMORY_MIB, DISK_GIB = 6, 8192, 120
WORKERS = 4
RESTART_S = (0.5, 3.0)  # until a supervisor starts a dead agent again
NAMES = {"hypervisor": "fake", "storage": "fake", "network": "fake"}


class Witness(Protocol):
    """Who looks on at every side effect."""

    def tell(self, who: str, what: str) -> None: ...

    def before_effect(self, host: Host, effect: str, args: tuple[Any, ...]) -> None: ...

    def after_effect(self, host: Host, effect: str, args: tuple[Any, ...]) -> None: ...


class Worlds:
    """What is on the machine whoever runs its agent."""

    def __init__(self, network: NetworkWorld | None = None):
        self.domains = HypervisorWorld(virt_methods=("fake",))
        self.disks = StorageWorld(size_gib=DISK_GIB)
        self.disks.fetches = False
        self.domains.storage = self.disks
        self.wires = network or NetworkWorld()

    def drivers(self) -> Drivers:
        return Drivers(
            hypervisor=FakeHypervisor(self.domains), storage=FakeStorage(self.disks), network=FakeNetwork(self.wires)
        )

    def lose_power(self) -> None:
        """Definitions and disks stay; guests, taps and bridges are gone."""
        self.domains.host_boot()
        for table in (self.wires.networks, self.wires.ports, self.wires.groups):
            for key in table:
                table.drop(key)


class Host:
    def __init__(self, stage: Stage, net: Net, witness: Witness, name: str, node_id: UUID, region: str):
        self.stage, self.name, self.node_id, self._region = stage, name, node_id, region
        self.net, self._witness = net, witness
        self.worlds = Worlds()
        self.disk: dict[str, File] = {}
        self.process: Process | None = None
        self.agent: node.Agent | None = None
        self.ends: dict[str, str] = {}  # a side effect, or '*' -> 'before' or 'after': the agent's next end
        self.boot = 1
        self.wall_off_s = 0.0
        self.went: dict[str, int] = {}  # how often each side effect was done

    @property
    def frozen(self) -> bool:
        return self.process is not None and self.process.frozen

    @property
    def up(self) -> bool:
        return self.process is not None and self.process.alive

    def start(self) -> None:
        self.process = Process(self.stage, self.name)
        self.process.disk, self.process.wall_off_s = self.disk, self.wall_off_s
        self.process.call_soon(self._begin)

    def _begin(self) -> None:
        assert self.process is not None
        drivers = boundary.around(self, self.worlds.drivers())
        options = node.Options(
            region=self._region,
            installation="sim",
            directory=Path("/sim", self.name),
            workers=WORKERS,
            metadata_port=None,
            real_rooms=False,
        )
        wire = Wire(self.stage, self.net, self.name, self.node_id)
        self.agent = node.Agent(self.process, options, wire, drivers, self._hello, self._ended)  # type: ignore[arg-type]
        self.agent.start()

    def _hello(self) -> Hello:
        said = host.hello(self.worlds.drivers(), NAMES, "sim", f"{self.name}.example", fake=True)
        return msgspec.structs.replace(
            said, cores=CORES, memory_mib=MEMORY_MIB, disk_gib=DISK_GIB, boot_id=f"{self.name}-{self.boot}"
        )

    # --- what befalls it

    def _ended(self, code: int | None) -> None:
        self._witness.tell(self.name, f"its agent ends by itself ({code})")
        self.kill()

    def kill(self) -> None:
        """kill -9 of the agent; its supervisor starts it again."""
        process = self.process
        if process is None or not process.alive:
            return
        delay_s = self.stage.random.uniform(*RESTART_S)
        self.stage.loop.call_later(delay_s, self._again, process)
        process.die()

    def _again(self, dead: Process) -> None:
        if self.process is dead:
            self._witness.tell(self.name, "its agent starts again")
            self.start()

    def freeze(self) -> None:
        if self.process is not None:
            self.process.freeze()

    def thaw(self) -> None:
        if self.process is not None:
            self.process.thaw()

    def lose_power(self, off_s: float) -> None:
        """Everything on it ends; what was not made durable is lost; it boots again."""
        for file in self.disk.values():
            file.lose_power()
        self.worlds.lose_power()
        self.boot += 1
        process, self.process = self.process, None
        self.stage.loop.call_later(off_s, self._booted)
        if process is not None:
            process.die()

    def _booted(self) -> None:
        if self.process is None:
            self._witness.tell(self.name, "boots")
            self.start()

    # --- the boundary

    def before(self, effect: str, args: tuple[Any, ...]) -> None:
        self._witness.before_effect(self, effect, args)
        self._end_at(effect, "before")

    def after(self, effect: str, args: tuple[Any, ...]) -> None:
        self.went[effect] = self.went.get(effect, 0) + 1
        self._witness.after_effect(self, effect, args)
        self._end_at(effect, "after")

    def _end_at(self, effect: str, when: str) -> None:
        for key in (effect, "*"):
            if self.ends.get(key) == when:
                del self.ends[key]
                self._witness.tell(self.name, f"its agent is killed {when} {effect}")
                self.kill()
