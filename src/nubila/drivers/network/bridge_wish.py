"""What may be asked of the bridge driver. Pure: wishes come in as they are and go out in canonical form, or not at all.

All that later stands in rules, configuration files and interface names has passed here.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

import msgspec

from nubila.drivers import DriverError
from nubila.drivers.network.base import Group, Network, Port, Rule, Subnet

_TABLE = re.compile(r"[a-z][a-z0-9_]{0,30}")
_ID = re.compile(r"[a-z]{2,5}-[0-9a-z]{11,40}")
_MAC = re.compile(r"[0-9a-f][02468ace](:[0-9a-f]{2}){5}")  # unicast
_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_UID_MAX = (1 << 31) - 1
_KBIT_MAX = 400_000_000
_BURST_MAX_KIB = 1 << 20


def check_table(table: str) -> str:
    if not _TABLE.fullmatch(table):
        raise _refusal("table", table)
    return table


def check_id(what: str, value: str) -> str:
    if not _ID.fullmatch(value):
        raise _refusal(what, value)
    return value


def check_network(network: Network) -> Network:
    check_id("network_id", network.network_id)
    subnets = tuple([_subnet(s) for s in network.subnets])
    least = 1280 if any(":" in s.cidr for s in subnets) else 576
    if not least <= network.mtu <= 9216:
        raise _refusal("mtu", network.mtu)
    return msgspec.structs.replace(network, subnets=subnets)


def check_port(port: Port) -> Port:
    check_id("port_id", port.port_id)
    check_id("network_id", port.network_id)
    mac = port.mac.lower()
    if not _MAC.fullmatch(mac) or mac == "00:00:00:00:00:00":
        raise _refusal("mac", port.mac)
    if port.hostname and not _HOSTNAME.fullmatch(port.hostname):
        raise _refusal("hostname", port.hostname)
    if not 0 < port.uid <= _UID_MAX or port.epoch < 0:
        raise _refusal("uid or epoch", (port.uid, port.epoch))
    for group in port.groups or ():
        check_id("group_id", group)
    band = port.bandwidth
    if not (
        0 <= band.in_kbit <= _KBIT_MAX and 0 <= band.out_kbit <= _KBIT_MAX and 0 <= band.burst_kib <= _BURST_MAX_KIB
    ):
        raise _refusal("bandwidth", band)
    addresses = tuple([_address("address", a) for a in port.addresses])
    groups = None if port.groups is None else tuple(dict.fromkeys(port.groups))
    return msgspec.structs.replace(port, mac=mac, addresses=addresses, groups=groups)


def check_group(group: Group) -> Group:
    check_id("group_id", group.group_id)
    rules = tuple([_rule(r) for r in group.rules])
    members = {
        check_id("group_id", who): tuple([_address("address", a) for a in addresses])
        for who, addresses in group.members.items()
    }
    return msgspec.structs.replace(group, rules=rules, members=members)


def _rule(rule: Rule) -> Rule:
    if rule.direction not in ("in", "out") or rule.protocol not in ("any", "tcp", "udp", "icmp"):
        raise _refusal("rule", rule)
    if rule.ports is not None:
        first, last = rule.ports
        if rule.protocol not in ("tcp", "udp") or not 0 <= first <= last <= 65535:
            raise _refusal("range of ports", rule)
    if rule.members is not None:
        check_id("group_id", rule.members)
    if rule.cidr is None:
        return rule
    try:
        net = ipaddress.ip_network(rule.cidr)
    except ValueError as e:
        raise _refusal("cidr", rule.cidr) from e
    if rule.members is not None or rule.family not in (None, net.version):
        raise _refusal("rule", rule)
    return msgspec.structs.replace(rule, cidr=str(net), family=None)


def overlap(network: Network, others: Iterable[Network]) -> str | None:
    """Why this network cannot be on this node beside the others: all bridges of a node share one routing table."""
    for other in others:
        for subnet in network.subnets:
            for theirs in other.subnets:
                mine, its = ipaddress.ip_network(subnet.cidr), ipaddress.ip_network(theirs.cidr)
                if other.network_id != network.network_id and mine.version == its.version and mine.overlaps(its):
                    return f"{subnet.cidr} overlaps {theirs.cidr} of another network on this node"
    return None


def _subnet(subnet: Subnet) -> Subnet:
    try:
        cidr = ipaddress.ip_network(subnet.cidr, strict=True)
    except ValueError as e:
        raise _refusal("cidr", subnet.cidr) from e
    gateway = _address("gateway", subnet.gateway)
    if cidr.is_multicast or cidr.is_loopback or cidr.is_link_local or cidr.prefixlen == 0:
        raise _refusal("cidr", subnet.cidr)
    if ipaddress.ip_address(gateway) not in cidr:
        raise _refusal("gateway", subnet.gateway)
    return Subnet(cidr=str(cidr), gateway=gateway, dns=tuple([_address("dns", a) for a in subnet.dns]))


def _address(what: str, value: str) -> str:
    try:
        address = ipaddress.ip_address(value)
    except ValueError as e:
        raise _refusal(what, value) from e
    if address.is_multicast or address.is_unspecified or "%" in value:
        raise _refusal(what, value)
    return str(address)


def _refusal(what: str, value: object) -> DriverError:
    return DriverError(f"this {what} is not acceptable: {str(value)[:80]!r}", again=False)
