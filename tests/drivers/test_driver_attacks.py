"""A24 (and a part of A26): what tenants may say reaches XML, packet rules and DHCP as the value of one leaf, or not at all.

500 strings, each in each place. A value that is taken makes the same configuration as a harmless one, but for itself. The
twins take the guard away and show that the judge would have seen it.
"""

from __future__ import annotations

import ipaddress
import itertools
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from lxml import etree
from test_driver_libvirt_xml import DOMAIN, LEAVES, build
from test_driver_network import NETWORK, port

from nubila.drivers import DriverError
from nubila.drivers.network import bridge_groups, bridge_nft, nft
from nubila.drivers.network.base import Group, Network, Port, Rule
from nubila.drivers.network.bridge_dhcp import _config, _host_lines
from nubila.drivers.network.bridge_wish import check_group, check_network, check_port
from nubila.intent.vm_create import VmCreate

PIECES = [
    "\n", "\r\n", "\0", "\t", "'", '"', "`", "\\", "<", ">", "&", "]]>", "<!--", "/>", "'/><hostdev/>", "%", "%n", "$(id)", "${x}", ";",
    "; drop", "{", "}", "} chain x { accept }", "#", ",", "=", "dhcp-script=/bin/sh", "\ndhcp-script=/bin/sh", ",set:evil", "@map", "*",
    "10.0.0.0/0", "0.0.0.0", "::", "fe80::1%eth0", "255.255.255.255", "../../etc/shadow", "\u202e", "\u2028", "\ud7ff", "\uffff", "é", "a" * 300,
    "-", "--", "!!python/object", "{{x}}", "\x1b[2J", "\x7f",
]  # fmt: skip
_random = random.Random(24)
EVIL = list(
    dict.fromkeys(
        [
            *PIECES,
            *("".join(pair) for pair in itertools.product(("web", "10.91.0.7", "52:54:00:00:00:01"), PIECES)),
            *("".join(_random.choices(PIECES, k=3)) for _ in range(500)),
        ]
    )
)[:500]
Judge = Callable[[Callable[[Any], Any]], int]


def test_a24_there_are_500_of_them() -> None:
    assert len(EVIL) == 500


@pytest.mark.parametrize("leaf", LEAVES)
def test_a24_a_value_stays_in_its_leaf_of_the_xml(leaf: str) -> None:
    plain, taken = _texts(build(LEAVES[leaf](DOMAIN, "harmless"))), 0
    for value in EVIL:
        try:
            root = build(LEAVES[leaf](DOMAIN, value))
        except DriverError:
            continue
        again = _texts(etree.fromstring(etree.tostring(root)))  # as libvirt reads it
        assert len(again) == len(plain), value
        for mine, theirs in zip(again, plain, strict=True):
            assert mine == theirs or "harmless" in theirs, (value, mine)
        taken += 1
    assert taken > 100 or leaf in ("volume",), taken


def _texts(root: etree._Element) -> list[str]:
    """Every tag, attribute and text, in order."""
    found: list[str] = []
    for e in root.iter():
        found += [str(e.tag), *(f"{k}={v}" for k, v in sorted(e.attrib.items())), e.text or ""]
    return found


def _form(value: Any) -> Any:
    """The structure without its words."""
    if isinstance(value, dict):
        return {k: _form(v) for k, v in value.items()}
    return [_form(v) for v in value] if isinstance(value, list) else type(value).__name__


# field of a port -> a harmless value
FIELDS: dict[str, str] = {
    "mac": "52:54:00:00:00:01",
    "addresses": "10.91.0.7",
    "hostname": "web",
    "port_id": port(1).port_id,
}


def _ported(field: str, value: str) -> Port:
    return port(1, **{field: (value,) if field == "addresses" else value})


def rules_of_ports(check: Callable[[Port], Port]) -> int:
    """Rules differ from a harmless port's in the value alone, which is one of its kind. Returns how many were taken."""
    taken = 0
    known = set(_words(bridge_nft.port("nubila", port(1))))
    for field in FIELDS:
        for value in (*EVIL, "52:54:00:00:00:2a", "10.91.0.42", "fd91::42", "db"):
            try:
                wish = check(_ported(field, value))
            except DriverError:
                continue
            commands = bridge_nft.port("nubila", wish)
            for word in set(_words(commands)) - known:
                assert word.isprintable(), (field, value, word)
                assert not set(word) & set("\"'`;{}#\\$<>\n,="), (field, value, word)
            if field != "addresses":  # of one family or the other
                assert _form(commands) == _form(bridge_nft.port("nubila", port(1)))
            taken += 1
    return taken


def _words(commands: Any) -> list[str]:
    if isinstance(commands, str):
        return [commands]
    inside = commands.values() if isinstance(commands, dict) else commands if isinstance(commands, list) else ()
    return [w for c in inside for w in _words(c)]


def rules_of_groups(check: Callable[[Group], Group]) -> int:
    """A range of addresses in a rule is a range of addresses."""
    taken = 0
    for value in (*EVIL, "10.1.0.0/16", "fd00::/8"):
        try:
            made = check(Group(group_id="sg-01k9xg2m4n5p6q7r8s9t0v1w2x", rules=(Rule(direction="in", cidr=value),)))
            commands = bridge_groups.group("nubila", made)
        except DriverError:
            continue
        prefixes = [c["add"]["rule"]["expr"] for c in commands if "rule" in c.get("add", {})]
        for word in _words(prefixes):
            assert word.isprintable(), value
        assert len(prefixes) == 1, value
        ipaddress.ip_network(value)
        taken += 1
    return taken


def lines_of_hosts(check: Callable[[Port], Port]) -> int:
    """Each port is one line per address, of three fields: MAC, address and name."""
    taken = 0
    for field in ("mac", "addresses", "hostname"):
        for value in (*EVIL, "52:54:00:00:00:2a", "10.91.0.42", "db"):
            try:
                wish = check(_ported(field, value))
                lines = "".join(_host_lines(wish, NETWORK.subnets))
            except DriverError:
                continue
            assert len(lines.splitlines()) == len(_host_lines(wish, NETWORK.subnets)), value
            for line in lines.splitlines():
                mac, address, *name = line.split(",")
                assert len(name) == bool(wish.hostname), (field, value, line)
                assert len(bytes.fromhex(mac.replace(":", ""))) == 6
                assert ipaddress.ip_address(address) in ipaddress.ip_network(NETWORK.subnets[0].cidr)
                assert all(n.replace("-", "").isalnum() and n.isascii() for n in name)
            taken += 1
    return taken


def lines_of_configuration(check: Callable[[Network], Network]) -> int:
    """A network's file has the lines of a harmless one; only where the value belongs does one differ."""
    plain = _config(NETWORK, "nb", 120, Path("/x"), names=False).splitlines()
    taken = 0
    for value in (*EVIL, "10.91.0.53"):
        first, *rest = NETWORK.subnets
        try:
            made = check(
                msgspec.structs.replace(
                    NETWORK, name=value, subnets=(msgspec.structs.replace(first, dns=(value,)), *rest)
                )
            )
        except DriverError:
            continue
        lines = _config(made, "nb", 120, Path("/x"), names=False).splitlines()
        different = [a for a, b in zip(lines, plain, strict=True) if a != b]
        assert [d.rpartition(",")[0] for d in different] in ([], ["dhcp-option=tag:s0,6"]), (value, different)
        assert {str(ipaddress.ip_address(d.rpartition(",")[2])) for d in different} <= {value}
        taken += 1
    return taken


JUDGES: dict[str, tuple[Judge, Callable[[Any], Any]]] = {
    "rules of ports": (rules_of_ports, check_port),
    "rules of groups": (rules_of_groups, check_group),
    "hosts of DHCP": (lines_of_hosts, check_port),
    "configuration of DHCP": (lines_of_configuration, check_network),
}


@pytest.mark.parametrize("name", JUDGES)
def test_a24_a_value_is_one_of_its_kind_or_is_refused(name: str) -> None:
    judge, guard = JUDGES[name]
    assert judge(guard) > 0


@pytest.mark.parametrize("name", JUDGES)
def test_a24_without_the_guard_it_would_be_seen(name: str) -> None:
    judge, guard = JUDGES[name]
    with pytest.raises((AssertionError, ValueError)):
        judge(lambda wish: wish if getattr(wish, "mac", FIELDS["mac"]) == FIELDS["mac"] else guard(wish))


def test_a24_names_that_reach_a_host_are_refused_at_the_door() -> None:
    """Host names become lines of DHCP: only what may be one gets in at all."""
    good = {"name": "a", "flavor": "tiny", "image": "mini"}
    for field in ("name", "hostname"):
        for value in EVIL:
            try:
                taken = getattr(msgspec.convert({**good, field: value}, VmCreate), field)
            except msgspec.ValidationError:
                continue
            assert re.fullmatch("[a-z0-9]([a-z0-9.-]*[a-z0-9])?", taken), value
        assert getattr(msgspec.convert({**good, field: "web-1"}, VmCreate), field) == "web-1"


def test_a26_what_is_bad_is_found_among_many_with_few_tries() -> None:
    tries: list[int] = []

    def taken(some: list[int]) -> bool:
        tries.append(len(some))
        return not {17, 600} & set(some)

    assert nft.sound(list(range(1000)), taken) == [n for n in range(1000) if n not in (17, 600)]
    assert len(tries) < 50
    assert nft.sound([17], taken) == []
    assert nft.sound([], taken) == []
