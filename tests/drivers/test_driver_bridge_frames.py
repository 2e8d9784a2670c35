"""What the bridge driver lets through and what not, judged by frames on real taps. Every refusal has its twin."""

from __future__ import annotations

import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import driver_frames as f
import pytest
from driver_frames import IP4, IP6, LLDP, VLAN, Tap, ether
from driver_taps import bridged, plugged
from test_driver_network import NETWORK, port

from nubila.drivers.network.base import Network, Subnet
from nubila.drivers.network.bridge import BridgeNetwork

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("netns")]

A, B = port(1), port(2)
A4, A6 = A.addresses
B4, B6 = B.addresses
A_LL, B_LL = "fe80::5054:ff:fe00:1", "fe80::5054:ff:fe00:2"
GATEWAY4, GATEWAY6 = "10.91.0.1", "fd91::1"
OTHER_MAC, OTHER4, OTHER6 = "52:54:00:00:00:99", "10.91.0.99", "fd91::99"
ALL_NODES, ALL_NODES_MAC = "ff02::1", "33:33:00:00:00:01"
UNSET4, UNSET6 = ".".join("0000"), "::"
RED = Network(
    network_id="net-01k9xg2m4n5p6q7r8s9t0v1wrd",
    name="red",
    mtu=1500,
    nat=False,
    subnets=(Subnet(cidr="10.92.0.0/24", gateway="10.92.0.1"),),
)


@pytest.fixture(scope="module")
def driver(place: Path, netns: None) -> Iterator[BridgeNetwork]:
    with bridged(place / "frames", NETWORK) as driver:
        yield driver
    assert subprocess.run(["nft", "list", "tables"], capture_output=True, check=True).stdout == b""
    assert [n for _, n in socket.if_nameindex() if n.startswith("n") and len(n) == 15] == []


@pytest.fixture(scope="module")
def a(driver: BridgeNetwork) -> Iterator[Tap]:
    with plugged(driver, A) as tap:
        yield tap


@pytest.fixture(scope="module")
def b(driver: BridgeNetwork) -> Iterator[Tap]:
    with plugged(driver, B) as tap:
        yield tap


def _na(source: str, about: str) -> bytes:
    return f.icmp6(source, B6, 136, struct.pack(">I", 0x60000000) + f.ip(about) + bytes([2, 1]) + f.mac(A.mac))


def _ns(source: str, about: str) -> bytes:
    return f.icmp6(source, ALL_NODES, 135, bytes(4) + f.ip(about))


def _fragmented_ra() -> bytes:
    whole = f.icmp6(A_LL, ALL_NODES, 134, bytes(12))[40:]
    return f.ip6(A_LL, ALL_NODES, 44, struct.pack(">BBHI", 58, 0, 1, 7) + whole)


ra = f.icmp6(A_LL, ALL_NODES, 134, bytes(12))
GOOD: dict[str, bytes] = {
    "arp request": f.arp(A.mac, A4, B4),
    "arp reply": f.arp(A.mac, A4, B4, B.mac, reply=True),
    "arp probe before it has an address": f.arp(A.mac, UNSET4, A4),
    "ipv4": ether(A.mac, B.mac, IP4, f.udp4(A4, B4, 1000, 2000, b"good")),
    "ipv6 from its address": ether(A.mac, B.mac, IP6, f.udp6(A6, B6, 1000, 2000, b"good")),
    "ipv6 from its link-local address": ether(A.mac, B.mac, IP6, f.udp6(A_LL, B_LL, 1000, 2000, b"good")),
    "neighbour solicitation": ether(A.mac, ALL_NODES_MAC, IP6, _ns(A_LL, B6)),
    "duplicate address detection": ether(A.mac, ALL_NODES_MAC, IP6, _ns(UNSET6, A6)),
    "neighbour advertisement of itself": ether(A.mac, B.mac, IP6, _na(A6, A6)),
}
BAD: dict[str, bytes] = {
    "ipv4 from another mac": ether(OTHER_MAC, B.mac, IP4, f.udp4(A4, B4, 1, 2, b"bad")),
    "ipv4 from another address": ether(A.mac, B.mac, IP4, f.udp4(OTHER4, B4, 1, 2, b"bad")),
    "ipv4 from the neighbour's address": ether(A.mac, B.mac, IP4, f.udp4(B4, B4, 1, 2, b"bad")),
    "ipv4 without an address": ether(A.mac, B.mac, IP4, f.udp4(UNSET4, B4, 1, 2, b"bad")),
    "arp from another mac": f.arp(OTHER_MAC, A4, B4),
    "arp that names another mac": f.arp(A.mac, A4, B4, says=OTHER_MAC),
    "arp for another address": f.arp(A.mac, OTHER4, B4),
    "arp reply for the gateway": f.arp(A.mac, GATEWAY4, B4, B.mac, reply=True),
    "ipv6 from another address": ether(A.mac, B.mac, IP6, f.udp6(OTHER6, B6, 1, 2, b"bad")),
    "ipv6 from another link-local address": ether(A.mac, B.mac, IP6, f.udp6("fe80::1", B6, 1, 2, b"bad")),
    "ipv6 without an address": ether(A.mac, B.mac, IP6, f.udp6(UNSET6, B6, 1, 2, b"bad")),
    "router advertisement": ether(A.mac, ALL_NODES_MAC, IP6, ra),
    "router advertisement in a fragment": ether(A.mac, ALL_NODES_MAC, IP6, _fragmented_ra()),
    "redirect": ether(A.mac, B.mac, IP6, f.icmp6(A_LL, B6, 137, bytes(36))),
    "neighbour advertisement of the gateway": ether(A.mac, B.mac, IP6, _na(A6, GATEWAY6)),
    "dhcp server": ether(A.mac, B.mac, IP4, f.udp4(A4, B4, 67, 68, b"bad")),
    "dhcpv6 server": ether(A.mac, B.mac, IP6, f.udp6(A_LL, B_LL, 547, 546, b"bad")),
    "vlan tag": ether(A.mac, B.mac, VLAN, struct.pack(">HH", 5, IP4) + f.udp4(A4, B4, 1, 2, b"bad")),
    "two vlan tags": ether(A.mac, B.mac, 0x88A8, struct.pack(">HHHH", 5, VLAN, 6, IP4) + f.udp4(A4, B4, 1, 2, b"bad")),
    "lldp": ether(A.mac, "01:80:c2:00:00:0e", LLDP, b"bad"),
    "spanning tree": f.mac("01:80:c2:00:00:00") + f.mac(A.mac) + b"\0\x26\x42\x42\x03",
    "another protocol": ether(A.mac, B.mac, 0x1234, b"bad"),
}
SENTINEL = ether(A.mac, B.mac, IP4, f.udp4(A4, B4, 7, 7, b"the last one"))


def _arrived(a: Tap, b: Tap, frame: bytes) -> bool:
    """Whether a frame from A reached B: a good one is sent after it, so that nothing is only waited for."""
    b.drain()
    a.send(frame)
    a.send(SENTINEL)
    got = b.receive(lambda x: b"the last one" in x)
    assert got, "the good frame after it did not arrive"
    assert b"the last one" in got[-1]
    return any(x.startswith(frame) or frame.startswith(x) for x in got[:-1])


@pytest.mark.parametrize("what", GOOD)
def test_passes(a: Tap, b: Tap, what: str) -> None:
    assert _arrived(a, b, GOOD[what])


@pytest.mark.parametrize("what", BAD)
def test_is_dropped(a: Tap, b: Tap, what: str) -> None:
    assert not _arrived(a, b, BAD[what])


def test_changed_addresses_hold_at_once(driver: BridgeNetwork, a: Tap, b: Tap) -> None:
    moved = ether(A.mac, B.mac, IP4, f.udp4("10.91.0.77", B4, 1, 2, b"moved"))
    assert not _arrived(a, b, moved)
    driver.ensure_port(port(1, addresses=("10.91.0.77", A6)))
    a.send(moved)
    assert b"moved" in b.receive(lambda x: b"moved" in x)[-1]
    a.send(GOOD["ipv4"])
    a.send(moved)
    assert not any(b"good" in x for x in b.receive(lambda x: b"moved" in x))
    driver.ensure_port(A)
    assert _arrived(a, b, GOOD["ipv4"])


def test_a_tap_without_rules_is_shut_and_made_good(driver: BridgeNetwork, a: Tap, b: Tap) -> None:
    assert _arrived(a, b, GOOD["ipv4"])
    subprocess.run(["nft", "flush", "map", "bridge", "drivertest", "ports"], check=True)
    b.drain()
    a.send(GOOD["ipv4"])
    assert not any(b"good" in x for x in b.receive(lambda x: b"good" in x, 0.3))
    assert {p.up for p in driver.observe().ports} == {False}
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    assert {p.up for p in driver.observe().ports} == {False}
    for wish in (A, B):
        driver.ensure_port(wish)
    assert {p.up for p in driver.observe().ports} == {True}
    assert _arrived(a, b, GOOD["ipv4"])
    assert not _arrived(a, b, BAD["ipv4 from another address"])


def test_the_host_hears_ping_and_metadata_and_nothing_else(driver: BridgeNetwork, a: Tap) -> None:
    gateway = f.gateway_mac(a, A.mac, A4, GATEWAY4)
    a.send(ether(A.mac, gateway, IP4, f.ping4(A4, GATEWAY4, b"hello")))
    assert b"hello" in a.receive(lambda x: b"hello" in x)[-1]
    with socket.socket() as metadata, socket.socket() as other:
        bridge = driver.observe().networks[0].bridge
        metadata.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, bridge.encode())
        metadata.bind(("169.254.169.254", 80))
        other.bind(("", 8440))
        for listener in (metadata, other):
            listener.listen()
        for target, wanted_port, heard in (("169.254.169.254", 80, True), ("169.254.169.254", 8440, False),
                                    (GATEWAY4, 8440, False), (GATEWAY4, 80, False)):  # fmt: skip
            a.drain()
            a.send(ether(A.mac, gateway, IP4, f.syn(A4, target, 5000, wanted_port)))
            a.send(ether(A.mac, gateway, IP4, f.ping4(A4, GATEWAY4, b"after it")))
            got = a.receive(lambda x: b"after it" in x)
            answered = any(x[23] == 6 and x[26:30] == f.ip(target) for x in got if x[12:14] == b"\x08\x00")
            if heard and not answered:  # accepting may come after the ping's answer
                answered = bool(a.receive(lambda x: x[23:24] == b"\x06", 1.0))
            assert answered is heard, (target, wanted_port)


def test_the_host_does_not_tell_its_other_addresses(a: Tap) -> None:
    subprocess.run(["ip", "addr", "add", "192.0.2.77/32", "dev", "lo"], check=True)
    a.drain()
    a.send(f.arp(A.mac, A4, "192.0.2.77"))
    a.send(f.arp(A.mac, A4, GATEWAY4))
    got = a.receive(lambda x: x[12:14] == b"\x08\x06" and x[28:32] == f.ip(GATEWAY4))
    assert got[-1][28:32] == f.ip(GATEWAY4)
    assert not any(x[28:32] == f.ip("192.0.2.77") for x in got if x[12:14] == b"\x08\x06")
