"""The contract of a network driver: segments, taps, DHCP, NAT, and the rules that bind a tap to its addresses."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Protocol

import msgspec

from nubila.drivers import Leftover, Scan


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    ipv4: bool = True
    ipv6: bool = True
    nat: bool = True
    anti_spoof: bool = True
    spans_nodes: bool = False
    max_mtu: int = 9000


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """`table` names the nft tables and prefixes what is made, so that two installations on one machine stay apart."""

    table: str = "nubila"
    directory: str = "/var/lib/nubila/node/network"
    lease_s: int = 120  # dnsmasq's shortest is 2 minutes
    metadata_port: int = 80


class Subnet(msgspec.Struct, frozen=True, kw_only=True):
    cidr: str
    gateway: str
    dns: tuple[str, ...] = ()


class Network(msgspec.Struct, frozen=True, kw_only=True):
    network_id: str
    name: str
    mtu: int
    nat: bool
    subnets: tuple[Subnet, ...]


class Port(msgspec.Struct, frozen=True, kw_only=True):
    port_id: str
    epoch: int
    network_id: str
    mac: str
    hostname: str
    addresses: tuple[str, ...]  # IPv4 and IPv6, without prefix length
    uid: int  # who may open the tap


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    network_id: str
    mac: str
    address: str
    expires_at: float  # seconds since the epoch, by this host's clock


class FoundPort(msgspec.Struct, frozen=True, kw_only=True):
    port_id: str
    epoch: int
    tap: str
    network_id: str | None
    up: bool


class FoundNetwork(msgspec.Struct, frozen=True, kw_only=True):
    network_id: str
    bridge: str
    serving: bool  # its DHCP process runs


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    networks: tuple[FoundNetwork, ...] = ()
    ports: tuple[FoundPort, ...] = ()
    leases: tuple[Lease, ...] = ()
    foreign: tuple[str, ...] = ()


class NetworkDriver(Protocol):
    def capabilities(self) -> Capabilities: ...

    def scan(self) -> Scan:
        """What may be left of objects that are no more, and what is foreign beside them. Slower than `observe`."""

    def remove_leftover(self, leftover: Leftover) -> None:
        """Not there is a success."""

    def observe(self) -> Observed: ...

    def ranges(self) -> tuple[str, ...]:
        """Where this machine has addresses or routes that are not this driver's, without the default route."""

    def ensure_network(self, network: Network) -> str:
        """Have the segment, its gateway addresses, DHCP and NAT; returns the bridge's interface name.

        Raises DriverError for a subnet that overlaps one of `ranges()`: it would take the machine's own traffic over.
        """

    def ensure_port(self, port: Port) -> str:
        """Have the tap, its rules loaded before it is up and on the bridge, its DHCP entry; returns the tap's name."""

    def remove_port(self, port_id: str) -> None: ...

    def remove_network(self, network_id: str) -> None: ...

    def close(self) -> None:
        """Let go of sockets; DHCP, taps and rules stay."""


def taken_range(network: Network, ranges: Iterable[str]) -> str | None:
    """Why this network cannot be on this node: the machine's own traffic would go to it."""
    theirs = [ipaddress.ip_network(r) for r in ranges]
    for subnet in network.subnets:
        mine = ipaddress.ip_network(subnet.cidr)
        if any(mine.version == r.version and mine.overlaps(r) for r in theirs):
            return f"{subnet.cidr} overlaps a range that this host uses itself"
    return None
