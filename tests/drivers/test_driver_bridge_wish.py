"""Hostile values never reach rules, configuration files or names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_driver_network import NETWORK, port

from nubila.drivers import DriverError
from nubila.drivers.network import bridge_nft
from nubila.drivers.network.base import Network, Port, Subnet
from nubila.drivers.network.bridge_dhcp import _config, _host_lines
from nubila.drivers.network.bridge_wish import check_id, check_network, check_port, check_table, overlap

HOSTILE = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        ["a\nb", "a,b", "x\ndhcp-script=/bin/sh", "10.0.0.1,evil", "fe80::1%eth0", "10.91.0.0/24 ", "$(id)", "..", "#",
         "52:54:00:00:00:01\n", "drop; add", "0.0.0.0", "::", "224.0.0.1", "ff02::1"]
    ),
)  # fmt: skip
PORT_FIELDS = ("port_id", "network_id", "mac", "hostname")


def _for_good(error: DriverError) -> None:
    assert not error.again


@pytest.mark.parametrize("field", [*PORT_FIELDS, "addresses"])
@settings(max_examples=150, deadline=None)
@given(value=HOSTILE)
def test_a_port_is_refused_or_harmless(field: str, value: str) -> None:
    change: dict[str, Any] = {field: (value,) if field == "addresses" else value}
    try:
        wish = check_port(port(1, **change))
    except DriverError as e:
        _for_good(e)
        return
    for line in _host_lines(wish, NETWORK.subnets):
        assert line.count("\n") == 1
        assert 1 <= line.count(",") <= 2
    assert len(bridge_nft.tap_name("nubila", wish.port_id)) <= 15
    assert set(bridge_nft.tap_name("nubila", wish.port_id)) <= set("abcdefghijklmnopqrstuvwxyz0123456789")


@pytest.mark.parametrize("field", ["network_id", "cidr", "gateway", "dns"])
@settings(max_examples=150, deadline=None)
@given(value=HOSTILE)
def test_a_network_is_refused_or_harmless(field: str, value: str) -> None:
    subnet = NETWORK.subnets[0]
    if field == "network_id":
        wish = msgspec.structs.replace(NETWORK, network_id=value)
    else:
        change: dict[str, Any] = {field: (value,) if field == "dns" else value}
        wish = msgspec.structs.replace(NETWORK, subnets=(msgspec.structs.replace(subnet, **change),))
    try:
        checked = check_network(wish)
    except DriverError as e:
        _for_good(e)
        return
    expected = _config(NETWORK, "nb", 120, Path("/x"), names=False).count("\n")
    assert _config(checked, "nb", 120, Path("/x"), names=False).count("\n") <= expected


@pytest.mark.parametrize(
    "change",
    [
        {"mac": "53:54:00:00:00:01"},
        {"mac": "00:00:00:00:00:00"},
        {"uid": 0},
        {"uid": -1},
        {"uid": 1 << 31},
        {"epoch": -1},
        {"hostname": "-a"},
        {"hostname": "a" * 64},
    ],
)
def test_ports_that_cannot_be(change: dict[str, Any]) -> None:
    with pytest.raises(DriverError):
        check_port(port(1, **change))


@pytest.mark.parametrize("mtu", [575, 1279, 9217])
def test_an_mtu_must_fit(mtu: int) -> None:
    with pytest.raises(DriverError):
        check_network(msgspec.structs.replace(NETWORK, mtu=mtu))


def test_canonical_form() -> None:
    wish: Port = check_port(port(1, mac="52:54:00:00:00:AB", addresses=("FD91:0::1",)))
    assert (wish.mac, wish.addresses) == ("52:54:00:00:00:ab", ("fd91::1",))
    assert check_port(port(1, hostname="")).hostname == ""


@pytest.mark.parametrize("table", ["", "a b", "A", "1a", "x" * 40, "a;b", "a\n"])
def test_bad_tables(table: str) -> None:
    with pytest.raises(DriverError):
        check_table(table)
    with pytest.raises(DriverError):
        check_id("id", table)


def test_overlap_is_of_other_networks_only() -> None:
    other = Network(
        network_id="net-01k9xg2m4n5p6q7r8s9t0v1wzz", name="o", mtu=1500, nat=True,
        subnets=(Subnet(cidr="10.91.0.128/25", gateway="10.91.0.129"),),
    )  # fmt: skip
    assert overlap(NETWORK, [NETWORK]) is None
    assert "10.91.0.128/25" in (overlap(NETWORK, [NETWORK, other]) or "")


def test_two_installations_have_different_names() -> None:
    assert bridge_nft.prefix("nubila") != bridge_nft.prefix("nubila2")
