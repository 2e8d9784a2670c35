"""The packet rules of a bridge network, as nftables' JSON. Pure: commands from validated values; `nft.py` loads them.

Two tables, named after the installation; no other table is ever named. What a guest sends passes the bridge table
first: only its own MAC and addresses, nothing that a server of addresses or routes would say, nothing but IPv4, IPv6
and ARP. A tap whose rules are missing is shut: names with our prefix that are in no map entry are dropped. Then comes
the inet table: from a guest the host itself hears DHCP, names, metadata, ping and neighbour discovery; outside is reached
where the network says so, and only answers come back.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable
from typing import Any

from nubila.drivers.network.base import Network, Port

Json = dict[str, Any]
Rule = list[Json]

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
_ACCEPT: Json = {"accept": None}
_DROP: Json = {"drop": None}


def prefix(table: str) -> str:
    """Three characters that begin all interface names of one installation on this machine."""
    return "n" + hashlib.sha256(table.encode()).hexdigest()[:2]


def tap_name(table: str, port_id: str) -> str:
    return f"{prefix(table)}t{port_id[-11:]}"


def bridge_name(table: str, network_id: str) -> str:
    return f"{prefix(table)}b{network_id[-11:]}"


def base(table: str, networks: Iterable[Network], metadata_port: int) -> list[Json]:
    """Both tables with all that does not belong to one port, made anew in one transaction; ports stay as they are."""
    return [
        *_bridge_base(table),
        *_inet_base(table, metadata_port),
        *_network_elements(table, list(networks)),
    ]


def remove_tables(table: str) -> list[Json]:
    """Added before they are deleted, since deleting what is not there is an error."""
    both = [{"table": {"family": family, "name": table}} for family in ("bridge", "inet")]
    return [*({"add": t} for t in both), *({"delete": t} for t in both)]


def port(table: str, wish: Port) -> list[Json]:
    """The chain of one port, as a whole, and its entry in the map."""
    tap = tap_name(table, wish.port_id)
    v4 = [a for a in wish.addresses if ":" not in a]
    v6 = [link_local(wish.mac), *(a for a in wish.addresses if ":" in a)]
    rules: list[Rule] = [
        [_match(_field("ether", "saddr"), "!=", wish.mac), _DROP],
        _ethertype_rule(),
        [_match(_field("arp", "saddr ether"), "!=", wish.mac), _DROP],
        *([[_match(_field("arp", "saddr ip"), "==", _set(v4)), _ACCEPT]] if v4 else []),
        [_match(_field("arp", "saddr ip"), "==", _UNSET), _ACCEPT],
        [_match(_meta("protocol"), "==", "arp"), _DROP],
        [_match(_meta("protocol"), "==", "ip"), {"jump": {"target": "guest-ip4"}}],
        *([[_match(_field("ip", "saddr"), "==", _set(v4)), _ACCEPT]] if v4 else []),
        [_match(_meta("protocol"), "==", "ip6"), {"jump": {"target": "guest-ip6"}}],
        *_advertised(v6),
        [_match(_field("ip6", "saddr"), "==", _set(v6)), _ACCEPT],
        [_DROP],
    ]
    return [
        _add_chain("bridge", table, tap),
        {"flush": {"chain": {"family": "bridge", "table": table, "name": tap}}},
        *(_rule("bridge", table, tap, rule) for rule in rules),
        {"add": {"element": {**_ports_map(table), "elem": [[tap, {"jump": {"target": tap}}]]}}},
    ]


def remove_port(table: str, port_id: str) -> list[Json]:
    """The port's chain and map entry gone; works too when they were not there, since both are added first."""
    return remove_tap(table, tap_name(table, port_id))


def remove_tap(table: str, tap: str) -> list[Json]:
    """The same by the name of the tap."""
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


def link_local(mac: str) -> str:
    """The link-local address that a guest with this MAC forms."""
    b = bytes.fromhex(mac.replace(":", ""))
    return str(ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + bytes([b[0] ^ 2]) + b[1:3] + b"\xff\xfe" + b[3:]))


def _bridge_base(table: str) -> list[Json]:
    dhcp_to_server = [_match(_field("udp", "sport"), "==", 68), _match(_field("udp", "dport"), "==", 67)]
    unset4, unset6 = _match(_field("ip", "saddr"), "==", _UNSET), _match(_field("ip6", "saddr"), "==", "::")
    rules: list[tuple[str, Rule]] = [
        ("guest-ip4", [unset4, *dhcp_to_server, _ACCEPT]),
        ("guest-ip4", [_match(_field("udp", "sport"), "==", 67), _DROP]),
        ("guest-ip6", [_match(_field("icmpv6", "type"), "==", _set(_ROUTER_TALK)), _DROP]),
        ("guest-ip6", [_match(_field("udp", "sport"), "==", 547), _DROP]),
        # A router's word split in two would hide its type; routers speak from link-local addresses only.
        ("guest-ip6", [_match({"exthdr": {"name": "frag"}}, "==", True), _match(_field("ip6", "saddr"), "==", _fe80()),
                       _DROP]),
        ("guest-ip6", [unset6, _match(_field("icmpv6", "type"), "==", _set(_FINDING_ONESELF)), _ACCEPT]),
        ("from-guests", [{"vmap": {"key": _meta("iifname"), "data": "@ports"}}]),
        ("from-guests", [_match(_meta("iifname"), "==", f"{prefix(table)}t*"), _DROP]),
    ]  # fmt: skip
    chains = [
        _add_chain("bridge", table, "guest-ip4"),
        _add_chain("bridge", table, "guest-ip6"),
        _add_chain("bridge", table, "from-guests", type="filter", hook="prerouting", prio=-300, policy="accept"),
    ]
    ports = {**_ports_map(table), "type": "ifname", "map": "verdict"}
    return [
        {"add": {"table": {"family": "bridge", "name": table}}},
        {"add": {"map": ports}},
        *chains,
        *_refill("bridge", table, rules),
    ]


def _inet_base(table: str, metadata_port: int) -> list[Json]:
    chains = [
        *(_add_chain("inet", table, name) for name in ("guest-to-host", "guest-to-outside", "outside-to-guest")),
        _add_chain("inet", table, "input", type="filter", hook="input", prio=0, policy="accept"),
        _add_chain("inet", table, "forward", type="filter", hook="forward", prio=0, policy="accept"),
        _add_chain("inet", table, "nat", type="nat", hook="postrouting", prio=100, policy="accept"),
    ]
    return [
        {"add": {"table": {"family": "inet", "name": table}}},
        *({"add": {"set": {"family": "inet", "table": table, **wish}}} for wish in _SETS),
        *chains,
        *_refill("inet", table, _inet_rules(table, metadata_port)),
    ]


def _inet_rules(table: str, metadata_port: int) -> list[tuple[str, Rule]]:
    guests_in = _match(_meta("iifname"), "==", f"{prefix(table)}b*")
    guests_out = _match(_meta("oifname"), "==", f"{prefix(table)}b*")
    answers = _match({"ct": {"key": "state"}}, "in", ["established", "related"])
    to_gateway4 = _match({"concat": [_meta("iifname"), _field("ip", "daddr")]}, "==", "@gateways4")
    to_gateway6 = _match({"concat": [_meta("iifname"), _field("ip6", "daddr")]}, "==", "@gateways6")
    same_wire = _match({"concat": [_meta("iifname"), _meta("oifname")]}, "==", "@wires")
    metadata = [
        _match(_field("ip", "daddr"), "==", METADATA),
        _match(_field("tcp", "dport"), "==", metadata_port),
    ]
    dhcp = [_match(_meta("nfproto"), "==", "ipv4"), _match(_field("udp", "sport"), "==", 68),
            _match(_field("udp", "dport"), "==", 67)]  # fmt: skip
    to_gateways = (to_gateway4, to_gateway6)
    dns = [[to, _match(_field(p, "dport"), "==", 53), _ACCEPT] for to in to_gateways for p in ("udp", "tcp")]
    return [
        ("input", [guests_in, {"goto": {"target": "guest-to-host"}}]),
        ("guest-to-host", [answers, _ACCEPT]),
        ("guest-to-host", [*dhcp, _ACCEPT]),
        ("guest-to-host", [*metadata, _ACCEPT]),
        *(("guest-to-host", rule) for rule in dns),
        ("guest-to-host", [to_gateway4, _match(_field("icmp", "type"), "==", "echo-request"), _ACCEPT]),
        ("guest-to-host", [to_gateway6, _match(_field("icmpv6", "type"), "==", "echo-request"), _ACCEPT]),
        ("guest-to-host", [_match(_field("icmpv6", "type"), "==", _set(_TO_HOST_ND)), _ACCEPT]),
        ("guest-to-host", [_DROP]),
        ("forward", [guests_in, {"goto": {"target": "guest-to-outside"}}]),
        ("forward", [guests_out, {"goto": {"target": "outside-to-guest"}}]),
        # Bridged frames come by here too where the host has br_netfilter switched on.
        ("guest-to-outside", [same_wire, _ACCEPT]),
        ("guest-to-outside", [guests_out, _DROP]),
        # The metadata service of a cloud that this node itself may be a guest of.
        ("guest-to-outside", [_match(_field("ip", "daddr"), "==", _LINK_LOCAL), _DROP]),
        ("guest-to-outside", [_match(_meta("iifname"), "==", "@outside"), _ACCEPT]),
        ("guest-to-outside", [_DROP]),
        ("outside-to-guest", [answers, _ACCEPT]),
        ("outside-to-guest", [_DROP]),
        ("nat", [_match(_field("ip", "saddr"), "==", "@nat4"), _not_to_guests(table), {"masquerade": None}]),
        ("nat", [_match(_field("ip6", "saddr"), "==", "@nat6"), _not_to_guests(table), {"masquerade": None}]),
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


def _ethertype_rule() -> Rule:
    """By the bytes on the wire: where `meta protocol` is asked, a VLAN tag is off already and the inner one stands."""
    on_the_wire = {"payload": {"base": "ll", "offset": 96, "len": 16}}
    return [*(_match(on_the_wire, "!=", kind) for kind in _ETHERTYPES), _DROP]


def _advertised(addresses: list[str]) -> list[Rule]:
    """A neighbour advertisement speaks for one address (bytes 8 to 24 of it), which must be one of the guest's own."""
    advertisement = _match(_field("icmpv6", "type"), "==", "nd-neighbor-advert")
    target = {"payload": {"base": "th", "offset": 64, "len": 128}}
    numbers = [hex(int(ipaddress.IPv6Address(a))) for a in addresses]
    return [[advertisement, *(_match(target, "!=", n) for n in numbers), _DROP]]


def _refill(family: str, table: str, rules: list[tuple[str, Rule]]) -> list[Json]:
    names = dict.fromkeys(name for name, _ in rules)
    flushes = [{"flush": {"chain": {"family": family, "table": table, "name": name}}} for name in names]
    return [*flushes, *(_rule(family, table, name, rule) for name, rule in rules)]


def _ports_map(table: str) -> Json:
    return {"family": "bridge", "table": table, "name": "ports"}


def _add_chain(family: str, table: str, name: str, **hook: Any) -> Json:
    return {"add": {"chain": {"family": family, "table": table, "name": name, **hook}}}


def _rule(family: str, table: str, chain: str, expr: Rule) -> Json:
    return {"add": {"rule": {"family": family, "table": table, "chain": chain, "expr": expr}}}


def _match(left: Json, op: str, right: Any) -> Json:
    return {"match": {"op": op, "left": left, "right": right}}


def _field(protocol: str, field: str) -> Json:
    return {"payload": {"protocol": protocol, "field": field}}


def _meta(key: str) -> Json:
    return {"meta": {"key": key}}


def _set(values: list[str]) -> Any:
    return values[0] if len(values) == 1 else {"set": values}


def _fe80() -> Json:
    return {"prefix": {"addr": "fe80::", "len": 10}}


def _not_to_guests(table: str) -> Json:
    return _match(_meta("oifname"), "!=", f"{prefix(table)}b*")
