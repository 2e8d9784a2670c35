"""Security groups of a bridge network, as nftables' JSON. Pure, like `bridge_nft`, whose tables these chains are in.

What a guest sends passed the bridge table before, so its source is its own: here a port is known by its bridge and its
address. Two base chains before and after the routing rules ask the sender's groups and the receiver's; nothing here can
admit what was dropped as spoofed. Each packet of the side that opened a connection is asked anew, so a rule that is
taken away ends what it had let in; answers pass. Bridged frames come by because the bridges are told to show them to
the IP hooks.

What a guest is sent must be for an address of its own: nobody reaches it under the address of another, whose groups
may let in more.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from nubila.drivers.network.base import Group, Port, Rule
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
    prefix,
    refill,
    rule,
    tap_name,
)

_NEIGHBOURS = [
    "nd-neighbor-solicit",
    "nd-neighbor-advert",
    "mld-listener-query",
    "mld-listener-report",
    "mld2-listener-report",
]
_L4 = {
    ("icmp", 4): "icmp",
    ("icmp", 6): "ipv6-icmp",
    ("tcp", 4): "tcp",
    ("tcp", 6): "tcp",
    ("udp", 4): "udp",
    ("udp", 6): "udp",
}
_FAMILIES = {4: ("ip", "ipv4", "ipv4_addr"), 6: ("ip6", "ipv6", "ipv6_addr")}

INET_MAPS: list[Json] = [
    {"name": f"{side}{version}", "type": ["ifname", _FAMILIES[version][2]], "map": "verdict"}
    for side in ("sends", "receives")
    for version in (4, 6)
]
_EARLY = -200  # a frame that was shown to the IP hooks comes back after 0, past any chain from there on
BRIDGE_SETS: list[Json] = [
    {"name": "guests4", "type": ["ifname", "ipv4_addr"]},
    {"name": "guests6", "type": ["ifname", "ipv6_addr"]},
]


def bridge_base(table: str) -> list[Json]:
    """To a tap: ARP, what the host says about addresses, and what is for an address of the guest's own."""
    ours = match(meta("oifname"), "==", f"{prefix(table)}t*")
    from_host = [[match(field("icmpv6", "type"), "==", "nd-router-advert"), ACCEPT]]
    to_guest: list[Statements] = [
        [match(meta("protocol"), "==", "arp"), ACCEPT],
        [match(field("udp", "sport"), "==", 67), match(field("udp", "dport"), "==", 68), ACCEPT],
        [match(field("icmpv6", "type"), "==", {"set": _NEIGHBOURS}), ACCEPT],
        [{"vmap": {"key": meta("oifname"), "data": "@slowed"}}],
        [match({"concat": [meta("oifname"), field("ip", "daddr")]}, "==", "@guests4"), ACCEPT],
        [match({"concat": [meta("oifname"), field("ip6", "daddr")]}, "==", "@guests6"), ACCEPT],
        [DROP],
    ]
    chains = [
        add_chain("bridge", table, "to-guest"),
        add_chain("bridge", table, "to-guests", type="filter", hook="forward", prio=_EARLY, policy="accept"),
        add_chain("bridge", table, "host-to-guests", type="filter", hook="output", prio=_EARLY, policy="accept"),
    ]
    rules = [
        *(("to-guest", r) for r in to_guest),
        ("to-guests", [ours, {"goto": {"target": "to-guest"}}]),
        *(("host-to-guests", [ours, *r]) for r in from_host),
        ("host-to-guests", [ours, {"goto": {"target": "to-guest"}}]),
    ]
    return [
        *({"add": {"set": {"family": "bridge", "table": table, **wish}}} for wish in BRIDGE_SETS),
        {"add": {"map": {"family": "bridge", "table": table, "name": "slowed", "type": "ifname", "map": "verdict"}}},
        *chains,
        *refill("bridge", table, rules),
    ]


def inet_base(table: str) -> list[Json]:
    """The base chains around the routing rules, and what every port shares."""
    guests_in, guests_out = (match(meta(m), "==", f"{prefix(table)}b*") for m in ("iifname", "oifname"))
    common: list[Statements] = [
        [
            match({"ct": {"key": "state"}}, "in", ["established"]),
            match({"ct": {"key": "direction"}}, "==", "reply"),
            ACCEPT,
        ],
        [match({"ct": {"key": "state"}}, "in", ["related"]), ACCEPT],
        [match(field("icmpv6", "type"), "==", {"set": _NEIGHBOURS}), ACCEPT],
    ]
    dhcp = [match(field("udp", "sport"), "==", 67), match(field("udp", "dport"), "==", 68)]
    rules: list[tuple[str, Statements]] = [
        *(("guest-sends", r) for r in common),
        *(("guest-sends", r) for r in _asked("iifname", "saddr", "sends")),
        ("guest-sends", [DROP]),
        *(("guest-receives", r) for r in common),
        *(("guest-receives", r) for r in _asked("oifname", "daddr", "receives")),
        ("guest-receives", [DROP]),
        ("host-sends", [match(meta("nfproto"), "==", "ipv4"), *dhcp, ACCEPT]),
        ("host-sends", [match(field("icmpv6", "type"), "==", "nd-router-advert"), ACCEPT]),
        ("host-sends", [{"goto": {"target": "guest-receives"}}]),
        ("groups-out", [guests_in, {"goto": {"target": "guest-sends"}}]),
        ("groups-in", [guests_out, {"goto": {"target": "guest-receives"}}]),
        ("groups-from-host", [guests_out, {"goto": {"target": "host-sends"}}]),
    ]
    chains = [
        *(add_chain("inet", table, name) for name in ("guest-sends", "guest-receives", "host-sends")),
        add_chain("inet", table, "groups-out", type="filter", hook="forward", prio=-10, policy="accept"),
        add_chain("inet", table, "groups-in", type="filter", hook="forward", prio=10, policy="accept"),
        add_chain("inet", table, "groups-from-host", type="filter", hook="output", prio=0, policy="accept"),
    ]
    maps = [{"add": {"map": {"family": "inet", "table": table, **wish}}} for wish in INET_MAPS]
    return [*maps, *chains, *refill("inet", table, rules)]


def _asked(interface: str, address: str, side: str) -> list[Statements]:
    return [
        [{"vmap": {"key": {"concat": [meta(interface), field(_FAMILIES[v][0], address)]}, "data": f"@{side}{v}"}}]
        for v in (4, 6)
    ]


def group(table: str, wish: Group) -> list[Json]:
    """The chains of a group and the sets of addresses that they name, each as a whole."""
    commands: list[Json] = []
    for member in {r.members: None for r in wish.rules if r.members is not None}:
        for version, (_, _, kind) in _FAMILIES.items():
            where = {"family": "inet", "table": table, "name": set_name(wish.group_id, member, version)}
            found = [a for a in wish.members.get(member, ()) if (":" in a) == (version == 6)]
            commands += [{"add": {"set": {**where, "type": kind}}}, {"flush": {"set": where}}]
            if found:
                commands.append({"add": {"element": {**where, "elem": sorted(set(found))}}})
    for direction in ("in", "out"):
        name = chain_name(direction, wish.group_id)
        commands += [
            add_chain("inet", table, name),
            {"flush": {"chain": {"family": "inet", "table": table, "name": name}}},
            *(rule("inet", table, name, r) for r in _statements(wish, direction)),
        ]
    return commands


def remove_group(table: str, was: Group) -> list[Json]:
    """Added before they are deleted, since deleting what is not there is an error."""
    empty = [*group(table, Group(group_id=was.group_id))]
    chains = [
        {"delete": {"chain": {"family": "inet", "table": table, "name": chain_name(d, was.group_id)}}}
        for d in ("in", "out")
    ]
    return [{"add": {"table": {"family": "inet", "name": table}}}, *empty, *chains, *drop_sets(table, was)]


def drop_sets(table: str, was: Group, now: Group | None = None) -> list[Json]:
    """The sets of addresses that the group named and does not name any more; its chains must be new by then."""
    still = {r.members for r in now.rules} if now is not None else set()
    commands: list[Json] = []
    for member in {r.members: None for r in was.rules if r.members is not None and r.members not in still}:
        for version, (_, _, kind) in _FAMILIES.items():
            where = {"family": "inet", "table": table, "name": set_name(was.group_id, member, version)}
            commands += [{"add": {"set": {**where, "type": kind}}}, {"delete": {"set": where}}]
    return commands


def chain_name(direction: str, group_id: str) -> str:
    return f"{direction}-{group_id}"


def set_name(group_id: str, member: str, version: int) -> str:
    return f"m{version}-{group_id}-{member}"


def port(table: str, wish: Port) -> list[Json]:
    """The port's two chains as a whole, and its addresses in the maps that lead there."""
    tap = tap_name(table, wish.port_id)
    commands: list[Json] = []
    for direction in ("in", "out"):
        name = f"{tap}-{direction}"
        groups = wish.groups if wish.groups is not None else ()
        jumps: list[Statements] = [[{"jump": {"target": chain_name(direction, g)}}] for g in groups]
        last = DROP if wish.groups is not None else ACCEPT
        commands += [
            *(add_chain("inet", table, chain_name(direction, g)) for g in groups),
            add_chain("inet", table, name),
            {"flush": {"chain": {"family": "inet", "table": table, "name": name}}},
            *(rule("inet", table, name, r) for r in [*jumps, [last]]),
        ]
    commands += [{"add": {"element": e}} for e in elements(table, wish)]
    return commands + _slowed(table, wish)


def remove_port(table: str, wish: Port) -> list[Json]:
    """What `port` made; its addresses are in the maps for sure, since they were loaded."""
    tap = tap_name(table, wish.port_id)
    commands: list[Json] = [{"delete": {"element": e}} for e in elements(table, wish)]
    for direction in ("in", "out"):
        chain = {"chain": {"family": "inet", "table": table, "name": f"{tap}-{direction}"}}
        commands += [{"flush": chain}, {"delete": chain}]
    slow = {"chain": {"family": "bridge", "table": table, "name": f"{tap}-slow"}}
    if wish.bandwidth.in_kbit:
        commands += [{"delete": {"element": _slow_element(table, tap)}}, {"flush": slow}, {"delete": slow}]
    return commands


def forget(table: str, was: Port, now: Port) -> list[Json]:
    """What the port had and has no more, of what was loaded for it."""
    keep = elements(table, now)
    commands: list[Json] = [{"delete": {"element": e}} for e in elements(table, was) if e not in keep]
    if was.bandwidth.in_kbit and not now.bandwidth.in_kbit:
        commands.append({"delete": {"element": _slow_element(table, tap_name(table, was.port_id))}})
    return commands


def elements(table: str, wish: Port) -> list[Json]:
    tap, bridge = tap_name(table, wish.port_id), bridge_name(table, wish.network_id)
    found: list[Json] = []
    for address in dict.fromkeys([*wish.addresses, link_local(wish.mac)]):
        v = 6 if ":" in address else 4
        own = {"family": "bridge", "table": table, "name": f"guests{v}", "elem": [{"concat": [tap, address]}]}
        found.append(own)
        for side, direction in (("sends", "out"), ("receives", "in")):
            verdict = {"goto": {"target": f"{tap}-{direction}"}}
            pair = [[{"concat": [bridge, address]}, verdict]]
            found.append({"family": "inet", "table": table, "name": f"{side}{v}", "elem": pair})
    return found


def limit(kbit: int, burst_kib: int) -> Statements:
    """Drops what is over the rate. The bucket holds at least one whole burst of offloaded segments."""
    burst = max(burst_kib, BURST_MIN_KIB, kbit // 8 // 16)
    words = {"rate": kbit * 125, "rate_unit": "bytes", "per": "second", "burst": burst * 1024, "burst_unit": "bytes"}
    return [{"limit": {**words, "inv": True}}, DROP]


BURST_MIN_KIB = 128  # a segment before it is cut up is as large as 64 KiB


def _slowed(table: str, wish: Port) -> list[Json]:
    if not wish.bandwidth.in_kbit:
        return []
    tap = tap_name(table, wish.port_id)
    name = f"{tap}-slow"
    return [
        add_chain("bridge", table, name),
        {"flush": {"chain": {"family": "bridge", "table": table, "name": name}}},
        rule("bridge", table, name, limit(wish.bandwidth.in_kbit, wish.bandwidth.burst_kib)),
        {"add": {"element": _slow_element(table, tap)}},
    ]


def _slow_element(table: str, tap: str) -> Json:
    return {"family": "bridge", "table": table, "name": "slowed", "elem": [[tap, {"jump": {"target": f"{tap}-slow"}}]]}


# --- from rules to statements


def _statements(wish: Group, direction: str) -> list[Statements]:
    """Rules that differ in their range of addresses only become one rule with a set."""
    ranges: dict[tuple[Rule, int], list[str]] = {}
    plain: list[Statements] = []
    for r in wish.rules:
        if r.direction != direction:
            continue
        for version in (4, 6) if r.family is None else (r.family,):
            if r.cidr is not None:
                if ipaddress.ip_network(r.cidr).version == version:
                    bare = Rule(direction=r.direction, protocol=r.protocol, ports=r.ports)
                    ranges.setdefault((bare, version), []).append(r.cidr)
                continue
            there: Statements = []
            if r.members is not None:
                there = [match(_remote(direction, version), "==", f"@{set_name(wish.group_id, r.members, version)}")]
            plain.append([*there, *_what(r, version), ACCEPT])
    whole = [
        [*_ranges(direction, version, cidrs), *_what(bare, version), ACCEPT]
        for (bare, version), cidrs in ranges.items()
    ]
    return [*plain, *whole]


def _ranges(direction: str, version: int, cidrs: list[str]) -> Statements:
    nets: list[Any] = list(ipaddress.collapse_addresses(ipaddress.ip_network(c) for c in cidrs))  # type: ignore[type-var]
    if nets[0].prefixlen == 0:
        return []
    prefixes = [{"prefix": {"addr": str(n.network_address), "len": n.prefixlen}} for n in nets]
    return [match(_remote(direction, version), "==", prefixes[0] if len(prefixes) == 1 else {"set": prefixes})]


def _remote(direction: str, version: int) -> Json:
    return field(_FAMILIES[version][0], "saddr" if direction == "in" else "daddr")


def _what(r: Rule, version: int) -> Statements:
    said: Statements = [match(meta("nfproto"), "==", _FAMILIES[version][1])]
    if r.protocol != "any":
        said.append(match(meta("l4proto"), "==", _L4[(r.protocol, version)]))
    if r.ports is not None:
        first, last = r.ports
        said.append(match(field(r.protocol, "dport"), "==", first if first == last else {"range": [first, last]}))
    return said
