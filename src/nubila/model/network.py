"""A network (an L2 segment), its subnets, ports and addresses."""

from __future__ import annotations

import ipaddress
from enum import StrEnum
from typing import Annotated

import msgspec

SCHEMA = 1

Cidr = Annotated[str, msgspec.Meta(max_length=49, description="for example '10.77.0.0/24' or 'fd77::/64'")]


Kbit = Annotated[int, msgspec.Meta(ge=0, le=400_000_000, description="kilobits per second; 0 is no limit")]
BurstKib = Annotated[
    int, msgspec.Meta(ge=0, le=1 << 20, description="KiB that may go at once; at least 128 with a limit")
]


class NetworkSpec(msgspec.Struct, frozen=True, kw_only=True):
    driver: str = "bridge"
    nat: bool = True  # guests reach the outside under the node's address
    mtu: Annotated[int, msgspec.Meta(ge=576, le=9216)] = 1500


class SubnetSpec(msgspec.Struct, frozen=True, kw_only=True):
    cidr: Cidr
    gateway: str
    dns: tuple[str, ...] = ()
    # IPv6 addresses are taken by the guest from its MAC (SLAAC, EUI-64), IPv4 by DHCP.


class PortSpec(msgspec.Struct, frozen=True, kw_only=True):
    mac: str
    index: int = 0  # position among the vm's interfaces
    in_kbit: Kbit = 0  # to the guest; 0: no limit
    out_kbit: Kbit = 0
    burst_kib: BurstKib = 0  # beyond what the rate lets through in a second
    extra: tuple[str, ...] = ()  # addresses that were assigned later, in that order: DHCP gives the ones before them
    leaving: tuple[str, ...] = ()  # unassigned: another port may have them once the node lets none of them through
    gone: bool = False  # wished removed


class PortStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Reported by its node."""

    active: bool = False  # its vm runs and has it, and the rules that bind it are as wished
    held: bool = False  # likewise, or its vm is off and would have it when started
    reason: str | None = None  # what keeps it from being plugged in or out


PORTS_MAX = 8  # of one vm
ADDRESSES_MAX = 16  # of one port


# Projects take their ranges from these: addresses that nobody else in the world answers to.
TENANT_RANGES = tuple(
    ipaddress.ip_network(r) for r in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
)


def is_private(net: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    return any(net.version == r.version and net.subnet_of(r) for r in TENANT_RANGES)  # type: ignore[arg-type]


def parse_cidr(value: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Raises ValueError, in words for the user, unless the value is a usable subnet."""
    net = ipaddress.ip_network(value, strict=True)
    if net.version == 4 and not 8 <= net.prefixlen <= 29:
        raise ValueError("an IPv4 subnet needs a prefix from /8 to /29")
    if net.version == 6 and net.prefixlen != 64:
        raise ValueError("an IPv6 subnet needs a /64, since guests form their address from their MAC")
    if net.is_loopback or net.is_link_local or net.is_multicast or net.is_unspecified:
        raise ValueError("loopback, link-local, multicast and unspecified ranges cannot be subnets")
    if not is_private(net):
        raise ValueError(f"a subnet must lie within {', '.join(map(str, TENANT_RANGES))}")
    return net


def default_gateway(cidr: str) -> str:
    return str(parse_cidr(cidr).network_address + 1)


def mac(entropy: int) -> str:
    """A locally administered unicast MAC from 40 random bits."""
    b = (0x52 << 40 | entropy & 0xFFFFFFFFFF).to_bytes(6, "big")
    return ":".join(f"{x:02x}" for x in b)


def eui64(cidr: str, mac_address: str) -> str:
    """The address that a guest with this MAC forms in an IPv6 /64."""
    b = bytes.fromhex(mac_address.replace(":", ""))
    host = bytes([b[0] ^ 2]) + b[1:3] + b"\xff\xfe" + b[3:]
    return str(parse_cidr(cidr).network_address + int.from_bytes(host, "big"))


class PortState(StrEnum):
    PENDING = "pending"
    ACTIVE = "active"
    REMOVED = "removed"


class AddressOrigin(StrEnum):
    ALLOCATED = "allocated"
    GATEWAY = "gateway"
