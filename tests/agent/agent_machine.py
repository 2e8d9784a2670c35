"""An agent with fake drivers over worlds that outlive it, for tests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent_control import REGION, Control, ControlWire

from nubila import protocol
from nubila.agent import host
from nubila.agent.hands import Drivers
from nubila.agent.node import Agent, Options
from nubila.drivers.hypervisor.fake import FakeHypervisor
from nubila.drivers.hypervisor.fake_world import FakeDomain, HypervisorWorld
from nubila.drivers.network.fake import FakeNetwork, NetworkWorld
from nubila.drivers.storage.fake import FakeStorage, StorageWorld


class Machine:
    """What stays when the agent ends."""

    def __init__(self, directory: Path, control: Control, workers: int = 4, long_poll_s: float = 0.5):
        self.directory, self.control = directory, control
        self.domains, self.disks, self.wires = HypervisorWorld(), StorageWorld(), NetworkWorld()
        self.domains.storage = self.disks
        self.workers, self.long_poll_s = workers, long_poll_s
        self.codes: list[int | None] = []
        self.agent: Agent | None = None

    def start(self) -> Agent:
        drivers = Drivers(
            hypervisor=FakeHypervisor(self.domains),
            storage=FakeStorage(self.disks),
            network=FakeNetwork(self.wires),
        )
        names = {"hypervisor": "fake", "storage": "fake", "network": "fake"}
        hello = host.hello(drivers, names, "test", "host", fake=True)
        options = Options(
            region=REGION,
            installation="test",
            directory=self.directory,
            long_poll_s=self.long_poll_s,
            workers=self.workers,
            metadata_port=None,
        )
        loop = asyncio.get_running_loop()
        self.agent = Agent(loop, options, ControlWire(self.control), drivers, lambda: hello, self.codes.append)
        self.agent.start()
        return self.agent

    async def stop(self) -> None:
        assert self.agent is not None
        await self.agent.close()
        self.agent = None

    async def kill(self) -> None:
        """As kill -9 would: nothing is said, nothing more is written."""
        agent = self.agent
        assert agent is not None
        agent.wishes.close = lambda: None  # type: ignore[method-assign]
        await agent.close()
        self.agent = None

    def domain(self, vm_id: str) -> FakeDomain:
        found = self.domains.domains.get(vm_id)
        assert found is not None
        return found

    def boots(self, vm_id: str) -> int:
        domain = self.domains.domains.get(vm_id)
        return 0 if domain is None else domain.boots

    def running(self, vm_id: str) -> bool:
        domain = self.domains.domains.get(vm_id)
        return domain is not None and domain.running


async def until(true: Callable[[], Any], within_s: float = 5.0, why: str = "") -> Any:
    """Wait for it to become true."""
    due_s = time.monotonic() + within_s
    while not (found := true()):
        assert time.monotonic() < due_s, why or "it did not happen in time"
        await asyncio.sleep(0.005)
    return found


def on(control: Control, vm: protocol.Vm) -> Callable[[], bool]:
    def reported() -> bool:
        report = control.reports.get(vm.vm_id)
        return report is not None and report.power == "on" and report.starts == control.vms[vm.vm_id].starts

    return reported
