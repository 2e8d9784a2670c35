"""The packet rules of a bridge network, as nftables' JSON. Pure: commands from validated values; `nft.py` loads them.

Two tables, named after the installation; no other table is ever named. What a guest sends passes the bridge table
first: only its own MAC and addresses, nothing that a server of addresses or routes would say, nothing but IPv4, IPv6
and ARP. A tap whose rules are missing is shut: names with our prefix that are in no map entry are dropped. Then comes
the inet table: from a guest the host itself hears DHCP, names, metadata, ping and neighbour discovery; outside is reached
where the network says so, and only answers come back. Security groups (`bridge_groups`) are asked after all
that.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any

from nubila.drivers.network import bridge_groups
from nubila.drivers.network.base import Group, Network, Port
from nubila.drivers.network.bridge_rule import (
    ACCEPT,
    DROP,
    Json,
    Statements,
    add_chain,
    bridge_name,
    field,
    link_local,
    match,
    meta,
    one_or_set,
    prefix,
    refill,
    rule,
    tap_name,
)

METADATA = "169.254.169.254"
_LINK_LOCAL = {"prefix": {"addr": "169.254.0.0", "len": 16}}
_ROUTER_TALK = ["nd-router-advert", "nd-redirect"]
_FINDING_ONESELF = ["nd-neighbor-solicit", "nd-router-solicit", "mld-listener-report", "mld2-listener-report"]
_TO_HOST_ND = [
    "nd-neighbor-solicit",
    "nd-neighbor-advert",
    "nd-router-solicit",
    "mld-listener-report",
    "mld2-listener-report",
]
_UNSET = "0.0.0.0"  # noqa: S104  a guest that has no address yet
_ETHERTYPES = (0x0800, 0x0806, 0x86DD)  # IPv4, ARP, IPv6


def base(table: str, networks: Iterable[Network], metadata_port: int) -> list[Json]:
    """Both tables with all that belongs to no one port or group, made anew in one transaction; those stay as they are."""
    return [
        *_bridge_base(table),
        *bridge_groups.bridge_base(table),
        *_inet_base(table, metadata_port),
        *bridge_groups.inet_base(table),
        *_network_elements(table, list(networks)),
    ]


def whole(
    table: str, networks: list[Network], groups: list[Group], ports: list[Port], metadata_port: int
) -> list[Json]:
    """Both tables from nothing, in one transaction: whatever somebody changed in them is gone, and no packet saw less."""
    return [
        *remove_tables(table),
        *base(table, networks, metadata_port),
        *(c for g in groups for c in bridge_groups.group(table, g)),
        *(c for p in ports for c in port(table, p)),
    ]


def remove_tables(table: str) -> list[Json]:
    """Added before they are deleted, since deleting what is not there is an error."""
    both = [{"table": {"family": family, "name": table}} for family in ("bridge", "inet")]
    return [*({"add": t} for t in both), *({"delete": t} for t in both)]


def port(table: str, wish: Port) -> list[Json]:
    """The chains of one port, each as a whole, and its entries in the maps."""
    tap = tap_name(table, wish.port_id)
    v4 = [a for a in wish.addresses if ":" not in a]
    v6 = [link_local(wish.mac), *(a for a in wish.addresses if ":" in a)]
    slow = bridge_groups.limit(wish.bandwidth.out_kbit, wish.bandwidth.burst_kib) if wish.bandwidth.out_kbit else None
    rules: list[Statements] = [
        *([slow] if slow is not None else []),
        [match(field("ether", "saddr"), "!=", wish.mac), DROP],
        _ethertype_rule(),
        [match(field("arp", "saddr ether"), "!=", wish.mac), DROP],
        *([[match(field("arp", "saddr ip"), "==", one_or_set(v4)), ACCEPT]] if v4 else []),
        [match(field("arp", "saddr ip"), "==", _UNSET), ACCEPT],
        [match(meta("protocol"), "==", "arp"), DROP],
        [match(meta("protocol"), "==", "ip"), {"jump": {"target": "guest-ip4"}}],
        *([[match(field("ip", "saddr"), "==", one_or_set(v4)), ACCEPT]] if v4 else []),
        [match(meta("protocol"), "==", "ip6"), {"jump": {"target": "guest-ip6"}}],
        *_advertised(v6),
        [match(field("ip6", "saddr"), "==", one_or_set(v6)), ACCEPT],
        [DROP],
    ]
    return [
        add_chain("bridge", table, tap),
        {"flush": {"chain": {"family": "bridge", "table": table, "name": tap}}},
        *(rule("bridge", table, tap, statements) for statements in rules),
        {"add": {"element": {**_ports_map(table), "elem": [[tap, {"jump": {"target": tap}}]]}}},
        *bridge_groups.port(table, wish),
    ]


def remove_port(table: str, port_id: str, loaded: Port | None) -> list[Json]:
    """The port's chains and map entries gone; works too when they were not there, since both are added first.

    `loaded` is the wish that is known to be loaded for it.
    """
    groups = bridge_groups.remove_port(table, loaded) if loaded is not None else []
    return [*remove_tap(table, tap_name(table, port_id)), *groups]


def remove_tap(table: str, tap: str) -> list[Json]:
    """What binds a tap to its addresses gone, by the name of the tap."""
    element = {**_ports_map(table), "elem": [[tap, {"jump": {"target": tap}}]]}
    chain = {"chain": {"family": "bridge", "table": table, "name": tap}}
    return [
        {"add": {"table": {"family": "bridge", "name": table}}},
        {"add": {"map": {**_ports_map(table), "type": "ifname", "map": "verdict"}}},
        {"add": chain},
        {"add": {"element": element}},
        {"delete": {"element": element}},
        {"flush": chain},
        {"delete": chain},
    ]


def _bridge_base(table: str) -> list[Json]:
    dhcp_to_server = [match(field("udp", "sport"), "==", 68), match(field("udp", "dport"), "==", 67)]
    unset4, unset6 = match(field("ip", "saddr"), "==", _UNSET), match(field("ip6", "saddr"), "==", "::")
    rules: list[tuple[str, Statements]] = [
        ("guest-ip4", [unset4, *dhcp_to_server, ACCEPT]),
        ("guest-ip4", [match(field("udp", "sport"), "==", 67), DROP]),
        ("guest-ip6", [match(field("icmpv6", "type"), "==", one_or_set(_ROUTER_TALK)), DROP]),
        ("guest-ip6", [match(field("udp", "sport"), "==", 547), DROP]),
        # A router's word split in two would hide its type; routers speak from link-local addresses only.
        ("guest-ip6", [match({"exthdr": {"name": "frag"}}, "==", True), match(field("ip6", "saddr"), "==", _fe80()),
                       DROP]),
        ("guest-ip6", [unset6, match(field("icmpv6", "type"), "==", one_or_set(_FINDING_ONESELF)), ACCEPT]),
        ("from-guests", [{"vmap": {"key": meta("iifname"), "data": "@ports"}}]),
        ("from-guests", [match(meta("iifname"), "==", f"{prefix(table)}t*"), DROP]),
    ]  # fmt: skip
    chains = [
        add_chain("bridge", table, "guest-ip4"),
        add_chain("bridge", table, "guest-ip6"),
        add_chain("bridge", table, "from-guests", type="filter", hook="prerouting", prio=-300, policy="accept"),
    ]
    ports = {**_ports_map(table), "type": "ifname", "map": "verdict"}
    return [
        {"add": {"table": {"family": "bridge", "name": table}}},
        {"add": {"map": ports}},
        *chains,
        *refill("bridge", table, rules),
    ]


def _inet_base(table: str, metadata_port: int) -> list[Json]:
    chains = [
        *(add_chain("inet", table, name) for name in ("guest-to-host", "guest-to-outside", "outside-to-guest")),
        add_chain("inet", table, "input", type="filter", hook="input", prio=0, policy="accept"),
        add_chain("inet", table, "forward", type="filter", hook="forward", prio=0, policy="accept"),
        add_chain("inet", table, "nat", type="nat", hook="postrouting", prio=100, policy="accept"),
    ]
    return [
        {"add": {"table": {"family": "inet", "name": table}}},
        *({"add": {"set": {"family": "inet", "table": table, **wish}}} for wish in _SETS),
        *chains,
        *refill("inet", table, _inet_rules(table, metadata_port)),
    ]


def _inet_rules(table: str, metadata_port: int) -> list[tuple[str, Statements]]:
    guests_in = match(meta("iifname"), "==", f"{prefix(table)}b*")
    guests_out = match(meta("oifname"), "==", f"{prefix(table)}b*")
    answers = match({"ct": {"key": "state"}}, "in", ["established", "related"])
    to_gateway4 = match({"concat": [meta("iifname"), field("ip", "daddr")]}, "==", "@gateways4")
    to_gateway6 = match({"concat": [meta("iifname"), field("ip6", "daddr")]}, "==", "@gateways6")
    same_wire = match({"concat": [meta("iifname"), meta("oifname")]}, "==", "@wires")
    metadata = [
        match(field("ip", "daddr"), "==", METADATA),
        match(field("tcp", "dport"), "==", metadata_port),
    ]
    dhcp = [match(meta("nfproto"), "==", "ipv4"), match(field("udp", "sport"), "==", 68),
            match(field("udp", "dport"), "==", 67)]  # fmt: skip
    to_gateways = (to_gateway4, to_gateway6)
    dns = [[to, match(field(p, "dport"), "==", 53), ACCEPT] for to in to_gateways for p in ("udp", "tcp")]
    return [
        ("input", [guests_in, {"goto": {"target": "guest-to-host"}}]),
        ("guest-to-host", [answers, ACCEPT]),
        ("guest-to-host", [*dhcp, ACCEPT]),
        ("guest-to-host", [*metadata, ACCEPT]),
        *(("guest-to-host", said) for said in dns),
        ("guest-to-host", [to_gateway4, match(field("icmp", "type"), "==", "echo-request"), ACCEPT]),
        ("guest-to-host", [to_gateway6, match(field("icmpv6", "type"), "==", "echo-request"), ACCEPT]),
        ("guest-to-host", [match(field("icmpv6", "type"), "==", one_or_set(_TO_HOST_ND)), ACCEPT]),
        ("guest-to-host", [DROP]),
        ("forward", [guests_in, {"goto": {"target": "guest-to-outside"}}]),
        ("forward", [guests_out, {"goto": {"target": "outside-to-guest"}}]),
        # Bridged frames come by here too where the host has br_netfilter switched on.
        ("guest-to-outside", [same_wire, ACCEPT]),
        ("guest-to-outside", [guests_out, DROP]),
        # The metadata service of a cloud that this node itself may be a guest of.
        ("guest-to-outside", [match(field("ip", "daddr"), "==", _LINK_LOCAL), DROP]),
        ("guest-to-outside", [match(meta("iifname"), "==", "@outside"), ACCEPT]),
        ("guest-to-outside", [DROP]),
        ("outside-to-guest", [answers, ACCEPT]),
        ("outside-to-guest", [DROP]),
        ("nat", [match(field("ip", "saddr"), "==", "@nat4"), _not_to_guests(table), {"masquerade": None}]),
        ("nat", [match(field("ip6", "saddr"), "==", "@nat6"), _not_to_guests(table), {"masquerade": None}]),
    ]


_SETS: list[Json] = [
    {"name": "outside", "type": "ifname"},  # bridges whose guests may leave
    {"name": "wires", "type": ["ifname", "ifname"]},
    {"name": "gateways4", "type": ["ifname", "ipv4_addr"]},
    {"name": "gateways6", "type": ["ifname", "ipv6_addr"]},
    {"name": "nat4", "type": "ipv4_addr", "flags": ["interval"]},
    {"name": "nat6", "type": "ipv6_addr", "flags": ["interval"]},
]


def _network_elements(table: str, networks: list[Network]) -> list[Json]:
    """What the sets hold: emptied and filled in the same transaction."""
    elements: dict[str, list[Any]] = {str(s["name"]): [] for s in _SETS}
    for network in networks:
        bridge = bridge_name(table, network.network_id)
        elements["wires"].append({"concat": [bridge, bridge]})
        if network.nat:
            elements["outside"].append(bridge)
        for subnet in network.subnets:
            cidr = ipaddress.ip_network(subnet.cidr)
            elements[f"gateways{cidr.version}"].append({"concat": [bridge, subnet.gateway]})
            if network.nat:
                whole = {"prefix": {"addr": str(cidr.network_address), "len": cidr.prefixlen}}
                elements[f"nat{cidr.version}"].append(whole)
    commands: list[Json] = []
    for name, elem in elements.items():
        where = {"family": "inet", "table": table, "name": name}
        commands.append({"flush": {"set": where}})
        if elem:
            commands.append({"add": {"element": {**where, "elem": elem}}})
    return commands


def _ethertype_rule() -> Statements:
    """By the bytes on the wire: where `meta protocol` is asked, a VLAN tag is off already and the inner one stands."""
    on_the_wire = {"payload": {"base": "ll", "offset": 96, "len": 16}}
    return [*(match(on_the_wire, "!=", kind) for kind in _ETHERTYPES), DROP]


def _advertised(addresses: list[str]) -> list[Statements]:
    """A neighbour advertisement speaks for one address (bytes 8 to 24 of it), which must be one of the guest's own."""
    advertisement = match(field("icmpv6", "type"), "==", "nd-neighbor-advert")
    target = {"payload": {"base": "th", "offset": 64, "len": 128}}
    numbers = [hex(int(ipaddress.IPv6Address(a))) for a in addresses]
    return [[advertisement, *(match(target, "!=", n) for n in numbers), DROP]]


def _ports_map(table: str) -> Json:
    return {"family": "bridge", "table": table, "name": "ports"}


def _fe80() -> Json:
    return {"prefix": {"addr": "fe80::", "len": 10}}


def _not_to_guests(table: str) -> Json:
    return match(meta("oifname"), "!=", f"{prefix(table)}b*")
