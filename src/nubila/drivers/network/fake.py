"""A network in memory: networks, ports and leases are rows, no frame moves. Scriptable, cheap, adoptable.

Names are made as on a real node, and a port of a network that is not there is refused as there.
"""

from __future__ import annotations

import time
from pathlib import Path

from nubila.drivers import DriverError
from nubila.drivers.network.base import (
    Capabilities,
    FoundNetwork,
    FoundPort,
    Group,
    Interface,
    Lease,
    Network,
    Observed,
    Port,
    taken_range,
)
from nubila.drivers.script import Leftovers, Scanned, Script, Table


class NetworkWorld:
    """The wires that the fake stands for. `answers_dhcp`: each port has its lease as soon as it exists."""

    def __init__(self, path: Path | None = None):
        beside = path.with_name(path.name + ".ports") if path is not None else None
        self.networks = Table(Network, path)
        self.ports = Table(Port, beside)
        self.groups = Table(Group, path.with_name(path.name + ".groups") if path is not None else None)
        self.script = Script()
        self.capabilities = Capabilities(overlapping_ranges=True)
        self.foreign: tuple[str, ...] = ()
        self.leftovers = Leftovers()
        self.ranges: tuple[str, ...] = ()  # of the machine itself
        self.interfaces: tuple[Interface, ...] = ()
        self.answers_dhcp = True
        self.not_serving: set[str] = set()  # networks whose DHCP process died
        self.down: set[str] = set()  # ports whose tap is down

    def leases(self) -> tuple[Lease, ...]:
        if not self.answers_dhcp:
            return ()
        expires_at = time.time() + 120
        return tuple(
            [
                Lease(network_id=p.network_id, mac=p.mac, address=a, expires_at=expires_at)
                for p in self.ports.all()
                for a in p.addresses
                if ":" not in a
            ]
        )


class FakeNetwork(Scanned):
    """The driver over a NetworkWorld."""

    def __init__(self, world: NetworkWorld | None = None):
        self.world = world or NetworkWorld()
        self.script = self.world.script
        self.leftovers = self.world.leftovers

    def capabilities(self) -> Capabilities:
        return self.world.capabilities

    def ranges(self) -> tuple[str, ...]:
        return self.world.ranges

    def interfaces(self) -> tuple[Interface, ...]:
        return self.world.interfaces

    def observe(self) -> Observed:
        self.script.enter("observe")
        world = self.world
        networks = tuple(
            [
                FoundNetwork(network_id=n, bridge=bridge_name(n), serving=n not in world.not_serving)
                for n in world.networks
            ]
        )
        ports = tuple(
            [
                FoundPort(
                    port_id=p.port_id,
                    epoch=p.epoch,
                    tap=tap_name(p.port_id),
                    network_id=p.network_id,
                    up=p.port_id not in world.down,
                )
                for p in world.ports.all()
            ]
        )
        self.script.leave("observe")
        return Observed(
            networks=networks,
            ports=ports,
            leases=world.leases(),
            groups=tuple(world.groups),
            foreign=world.foreign,
        )

    def ensure_network(self, network: Network) -> str:
        self.script.enter("ensure_network")
        refusal = taken_range(network, self.world.ranges)
        if refusal is not None:
            raise DriverError(refusal, again=False)
        if self.world.networks.get(network.network_id) != network:
            self.world.networks.put(network.network_id, network)
        self.world.not_serving.discard(network.network_id)
        self.script.leave("ensure_network")
        return bridge_name(network.network_id)

    def ensure_port(self, port: Port) -> str:
        self.script.enter("ensure_port")
        if port.network_id not in self.world.networks:
            raise DriverError("the port's network is not on this node")
        if self.world.ports.get(port.port_id) != port:
            self.world.ports.put(port.port_id, port)
        self.world.down.discard(port.port_id)
        self.script.leave("ensure_port")
        return tap_name(port.port_id)

    def ensure_group(self, group: Group) -> None:
        self.script.enter("ensure_group")
        if self.world.groups.get(group.group_id) != group:
            self.world.groups.put(group.group_id, group)
        self.script.leave("ensure_group")

    def remove_group(self, group_id: str) -> None:
        self.script.enter("remove_group")
        if any(group_id in (p.groups or ()) for p in self.world.ports.all()):
            raise DriverError("ports are still in this group")
        self.world.groups.drop(group_id)
        self.script.leave("remove_group")

    def remove_port(self, port_id: str) -> None:
        self.script.enter("remove_port")
        self.world.ports.drop(port_id)
        self.script.leave("remove_port")

    def remove_network(self, network_id: str) -> None:
        self.script.enter("remove_network")
        if any(p.network_id == network_id for p in self.world.ports.all()):
            raise DriverError("ports are still on this network")
        self.world.networks.drop(network_id)
        self.script.leave("remove_network")

    def close(self) -> None:
        """The world is not the driver's to close."""


def tap_name(port_id: str) -> str:
    return f"fk-t{port_id[-11:]}"


def bridge_name(network_id: str) -> str:
    return f"fk-b{network_id[-11:]}"
