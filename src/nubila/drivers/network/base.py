"""The contract of a network driver: segments, taps, DHCP, NAT, and the rules that bind a tap to its addresses."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Literal, Protocol

import msgspec

from nubila.drivers import Leftover, Scan


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    ipv4: bool = True
    ipv6: bool = True
    nat: bool = True
    anti_spoof: bool = True
    spans_nodes: bool = False
    max_mtu: int = 9000
    overlapping_ranges: bool = False  # networks with the same range can be here side by side
    groups: bool = True  # security groups: stateful rules per port
    bandwidth: bool = True  # a limit per port and direction


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


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """What a group lets through, to or from anywhere unless `cidr` or `members` says whom."""

    direction: Literal["in", "out"]
    protocol: Literal["any", "tcp", "udp", "icmp"] = "any"
    ports: tuple[int, int] | None = None  # first and last, of the side that is addressed; tcp and udp only
    cidr: str | None = None
    members: str | None = None  # id of the group whose addresses are meant
    family: Literal[4, 6] | None = None  # None: both


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """A security group: its rules, and the addresses of the groups that they name."""

    group_id: str
    rules: tuple[Rule, ...] = ()
    members: dict[str, tuple[str, ...]] = {}


class Bandwidth(msgspec.Struct, frozen=True, kw_only=True):
    """Seen from the guest. 0: no limit."""

    in_kbit: int = 0
    out_kbit: int = 0
    burst_kib: int = 0


class Port(msgspec.Struct, frozen=True, kw_only=True):
    port_id: str
    epoch: int
    network_id: str
    mac: str
    hostname: str
    addresses: tuple[str, ...]  # IPv4 and IPv6, without prefix length; of each IPv4 subnet DHCP gives the first
    uid: int  # who may open the tap
    link: Literal["tap", "veth"] = "tap"  # a veth is made by the domain at its start, under the name that is told here
    groups: tuple[str, ...] | None = None  # None: nothing is filtered beyond spoofing; (): nothing comes in or goes out
    bandwidth: Bandwidth = Bandwidth()


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
    up: bool  # its frames pass, and the rules that bind them are whole


class FoundNetwork(msgspec.Struct, frozen=True, kw_only=True):
    network_id: str
    bridge: str
    serving: bool  # its DHCP process runs


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    networks: tuple[FoundNetwork, ...] = ()
    ports: tuple[FoundPort, ...] = ()
    leases: tuple[Lease, ...] = ()
    groups: tuple[str, ...] = ()  # whose rules are loaded, whole
    foreign: tuple[str, ...] = ()


class Interface(msgspec.Struct, frozen=True, kw_only=True):
    """One of the machine itself."""

    name: str
    mac: str
    mtu: int
    addresses: tuple[str, ...] = ()  # with prefix length; none that ends by itself


class NetworkDriver(Protocol):
    def capabilities(self) -> Capabilities: ...

    def scan(self) -> Scan:
        """What may be left of objects that are no more, and what is foreign beside them. Slower than `observe`."""

    def remove_leftover(self, leftover: Leftover) -> None:
        """Not there is a success."""

    def observe(self) -> Observed: ...

    def ranges(self) -> tuple[str, ...]:
        """Where this machine has addresses or routes that are not this driver's, without the default route."""

    def interfaces(self) -> tuple[Interface, ...]:
        """Those of this machine that are not this driver's: what has an address, or a wire."""

    def ensure_network(self, network: Network) -> str:
        """Have the segment, its gateway addresses, DHCP and NAT; returns the bridge's interface name.

        Raises DriverError for a subnet that overlaps one of `ranges()`: it would take the machine's own traffic over.
        """

    def ensure_port(self, port: Port) -> str:
        """Have the tap, its rules loaded before it is up and on the bridge, its DHCP entry; returns the tap's name.

        Of a veth: its rules are there before it is, and it is seen as ours once its domain made it.

        A group that was not ensured lets nothing through; it may be ensured before or after.
        """

    def ensure_group(self, group: Group) -> None:
        """Have these rules for all ports of the group, running or to come, as one change."""

    def remove_group(self, group_id: str) -> None:
        """Refused, to be tried again, while a port is in it."""

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
