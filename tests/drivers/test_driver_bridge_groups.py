"""Security groups on the wire: what they let in and out of taps, at once, and never what was spoofed. Each no has its yes."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import driver_frames as f
import pytest
from driver_frames import ACK, IP4, IP6, SYN, Tap, ether
from driver_taps import bridged, plugged
from test_driver_bridge_frames import BAD, GATEWAY4
from test_driver_network import NETWORK, port

from nubila.drivers import DriverError
from nubila.drivers.network.base import Bandwidth, Group, Options, Port, Rule
from nubila.drivers.network.bridge import BridgeNetwork

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("netns")]

ANY = Group(group_id="sg-01k9xg2m4n5p6q7r8s9t0v1any", rules=(Rule(direction="in"), Rule(direction="out")))
OUT = Group(group_id="sg-01k9xg2m4n5p6q7r8s9t0v1cut", rules=(Rule(direction="out"),))
ID = "sg-01k9xg2m4n5p6q7r8s9t0v1wwx"
A = port(1, groups=(OUT.group_id,))
B = port(2, groups=(ID,))
A4, A6 = A.addresses
B4, B6 = B.addresses
SSH = Rule(direction="in", protocol="tcp", ports=(22, 22))


@pytest.fixture(scope="module")
def driver(place: Path, netns: None) -> Iterator[BridgeNetwork]:
    with bridged(place / "groups", NETWORK) as driver:
        for group in (ANY, OUT):
            driver.ensure_group(group)
        yield driver
    assert subprocess.run(["nft", "list", "tables"], capture_output=True, check=True).stdout == b""


@pytest.fixture(scope="module")
def taps(driver: BridgeNetwork) -> Iterator[tuple[Tap, Tap]]:
    with plugged(driver, A) as a, plugged(driver, B) as b:
        yield a, b


@pytest.fixture
def a(driver: BridgeNetwork, taps: tuple[Tap, Tap]) -> Iterator[Tap]:
    yield taps[0]
    driver.ensure_port(A)
    driver.ensure_port(B)
    driver.ensure_group(Group(group_id=ID))


@pytest.fixture
def b(taps: tuple[Tap, Tap]) -> Tap:
    return taps[1]


def of(*rules: Rule, **members: tuple[str, ...]) -> Group:
    return Group(group_id=ID, rules=rules, members=members)


def passes(sender: Tap, receiver: Tap, frame: bytes) -> bool:
    """Whether it arrives. An ARP request is sent after it: nothing is only waited for."""
    source, target = (A, B) if frame[6:12] == f.mac(A.mac) else (B, A)
    last = f.arp(source.mac, source.addresses[0], target.addresses[0])
    receiver.drain()
    sender.send(frame)
    sender.send(last)
    got = receiver.receive(lambda x: x.startswith(last))
    assert got and got[-1].startswith(last), "the request after it did not arrive"
    return any(x.startswith(frame[:12]) and frame[14:] in x for x in got[:-1])


def to_b(payload: bytes) -> bytes:
    return ether(A.mac, B.mac, IP6 if payload[0] >> 4 == 6 else IP4, payload)


def to_a(payload: bytes) -> bytes:
    return ether(B.mac, A.mac, IP6 if payload[0] >> 4 == 6 else IP4, payload)


def udp(number: int, data: bytes = b"hello") -> bytes:
    return to_b(f.udp4(A4, B4, 1000, number, data))


def test_nothing_comes_in_that_no_rule_lets_in(driver: BridgeNetwork, a: Tap, b: Tap) -> None:
    for frame in (udp(53), to_b(f.syn(A4, B4, 1, 22)), to_b(f.ping4(A4, B4, b"x")), to_b(f.udp6(A6, B6, 1, 2, b"x"))):
        assert not passes(a, b, frame)
    driver.ensure_group(of(Rule(direction="in")))
    for frame in (udp(54), to_b(f.syn(A4, B4, 2, 22)), to_b(f.ping4(A4, B4, b"y")), to_b(f.udp6(A6, B6, 2, 3, b"y"))):
        assert passes(a, b, frame)


RULES: dict[str, tuple[Rule, bytes, bytes]] = {  # what lets in the first frame and not the second
    "port": (SSH, to_b(f.syn(A4, B4, 10, 22)), to_b(f.syn(A4, B4, 11, 23))),
    "range of ports": (Rule(direction="in", protocol="udp", ports=(100, 200)), udp(200), udp(201)),
    "protocol": (Rule(direction="in", protocol="udp"), udp(9), to_b(f.syn(A4, B4, 12, 9))),
    "icmp": (Rule(direction="in", protocol="icmp"), to_b(f.ping4(A4, B4, b"z")), udp(10)),
    "family 6": (Rule(direction="in", family=6), to_b(f.udp6(A6, B6, 5, 5, b"6")), udp(11)),
    "family 4": (Rule(direction="in", family=4), udp(12), to_b(f.udp6(A6, B6, 6, 6, b"4"))),
    "ipv4 range": (Rule(direction="in", cidr=f"{A4}/32"), udp(13), to_b(f.udp6(A6, B6, 7, 7, b"c"))),
    "ipv6 range": (Rule(direction="in", cidr="fd91::/64"), to_b(f.udp6(A6, B6, 8, 8, b"c")), udp(14)),
    "everything of ipv4": (Rule(direction="in", cidr="0.0.0.0/0"), udp(15), to_b(f.udp6(A6, B6, 9, 9, b"c"))),
}  # fmt: skip


@pytest.mark.parametrize("what", RULES)
def test_a_rule_lets_in_what_it_names_and_no_more(driver: BridgeNetwork, a: Tap, b: Tap, what: str) -> None:
    rule, good, bad = RULES[what]
    driver.ensure_group(of(rule))
    assert passes(a, b, good)
    assert not passes(a, b, bad)


def test_many_ranges_are_one_rule(driver: BridgeNetwork, a: Tap, b: Tap) -> None:
    ranges = [Rule(direction="in", protocol="udp", cidr=f"10.{n}.0.0/16") for n in range(100, 250)]
    driver.ensure_group(of(*ranges))
    assert not passes(a, b, udp(20))
    driver.ensure_group(of(*ranges, Rule(direction="in", protocol="udp", cidr="10.91.0.0/24")))
    assert passes(a, b, udp(21))
    listed = subprocess.run(
        ["nft", "list", "chain", "inet", "drivertest", f"in-{ID}"], capture_output=True, text=True, check=True
    )
    assert listed.stdout.count("accept") == 1


def test_members_of_another_group(driver: BridgeNetwork, a: Tap, b: Tap) -> None:
    rule = Rule(direction="in", members=OUT.group_id)
    driver.ensure_group(of(rule, **{OUT.group_id: ("10.91.0.99",)}))
    assert not passes(a, b, udp(30))
    driver.ensure_group(of(rule, **{OUT.group_id: (A4, A6)}))
    assert passes(a, b, udp(31))
    assert passes(a, b, to_b(f.udp6(A6, B6, 1, 31, b"m")))
    driver.ensure_group(of(rule))
    assert not passes(a, b, udp(32))


def test_answers_pass_and_a_rule_taken_away_ends_what_it_let_in(driver: BridgeNetwork, a: Tap, b: Tap) -> None:
    driver.ensure_group(of(SSH))
    assert passes(a, b, to_b(f.tcp4(A4, B4, 40, 22, SYN, 1, 0)))
    assert passes(b, a, to_a(f.tcp4(B4, A4, 22, 40, SYN | ACK, 1, 2)))
    assert passes(a, b, to_b(f.tcp4(A4, B4, 40, 22, ACK, 2, 2)))
    assert passes(a, b, to_b(f.tcp4(A4, B4, 40, 22, ACK, 2, 2, b"data")))
    assert not passes(b, a, to_a(f.syn(B4, A4, 41, 22))), "B has no rule to send by"
    assert not passes(b, a, to_a(f.udp4(B4, A4, 41, 40, b"no answer to anything")))
    driver.ensure_group(of())
    assert not passes(a, b, to_b(f.tcp4(A4, B4, 40, 22, ACK, 6, 2, b"more")))


def test_what_may_be_sent(driver: BridgeNetwork, a: Tap, b: Tap) -> None:
    driver.ensure_group(of(Rule(direction="in")))
    driver.ensure_port(port(1, groups=(ID,)))  # lets in, and nothing out
    assert not passes(a, b, udp(50))
    driver.ensure_group(of(Rule(direction="in"), Rule(direction="out", protocol="udp", cidr="10.91.0.0/24")))
    assert passes(a, b, udp(51))
    assert not passes(a, b, to_b(f.syn(A4, B4, 51, 51)))


def test_nobody_is_reached_under_the_address_of_another(driver: BridgeNetwork, a: Tap, b: Tap) -> None:
    """B lets in nothing; a frame to its card for an address whose groups let in everything must not come there."""
    driver.ensure_port(port(3, groups=(ANY.group_id,)))
    c4 = port(3).addresses[0]
    assert not passes(a, b, ether(A.mac, B.mac, IP4, f.udp4(A4, c4, 1, 60, b"for C")))
    for broadcast in ("255.255.255.255", "10.91.0.255", "224.0.0.251"):
        assert not passes(a, b, ether(A.mac, B.mac, IP4, f.udp4(A4, broadcast, 1, 61, b"for all")))
    driver.ensure_port(port(2, groups=(ANY.group_id,)))
    assert passes(a, b, udp(61))
    assert not passes(a, b, ether(A.mac, B.mac, IP4, f.udp4(A4, c4, 1, 60, b"for C")))
    driver.remove_port(port(3).port_id)


@pytest.mark.parametrize("what", BAD)
def test_A25_no_group_admits_what_is_spoofed(driver: BridgeNetwork, a: Tap, b: Tap, what: str) -> None:
    for number in (1, 2):
        driver.ensure_port(port(number, groups=(ANY.group_id,)))
    assert passes(a, b, udp(70))
    frame = BAD[what]
    b.drain()
    a.send(frame)
    a.send(udp(71, b"the last one"))
    got = b.receive(lambda x: b"the last one" in x)
    assert b"the last one" in got[-1]
    assert not any(x.startswith(frame) or frame.startswith(x) for x in got[:-1])


def test_the_host_reaches_a_guest_by_its_groups(driver: BridgeNetwork, a: Tap, b: Tap) -> None:
    bridge = driver.observe().networks[0].bridge
    subprocess.run(["ip", "neigh", "replace", B4, "lladdr", B.mac, "dev", bridge], check=True)
    b.drain()

    def reached() -> bool:
        # The kernel says so to who sends what is dropped.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s, contextlib.suppress(PermissionError):
            s.sendto(b"from the host", (B4, 120))
        return any(b"from the host" in x for x in b.receive(lambda x: b"from the host" in x, 0.3))

    assert not reached()
    driver.ensure_group(of(Rule(direction="in", protocol="udp", cidr=f"{GATEWAY4}/32")))
    assert reached()


def test_a_bad_group_harms_no_other(driver: BridgeNetwork, a: Tap, b: Tap) -> None:
    """A26: what cannot be loaded is refused alone, and what was loaded stays."""
    driver.ensure_group(of(Rule(direction="in", protocol="udp", ports=(80, 80))))
    for bad in (
        Rule(direction="in", protocol="icmp", ports=(1, 2)),
        Rule(direction="in", cidr="10.0.0.1/8"),
        Rule(direction="in", cidr="10.0.0.0/8; drop"),
        Rule(direction="in", members="x y"),
        Rule(direction="in", protocol="tcp", ports=(9, 1)),
    ):
        with pytest.raises(DriverError):
            driver.ensure_group(of(bad))
        assert passes(a, b, udp(80))
        assert not passes(a, b, udp(81))


def test_an_agent_that_starts_anew_makes_all_rules_anew(driver: BridgeNetwork, a: Tap, b: Tap, place: Path) -> None:
    driver.ensure_group(of(Rule(direction="in", protocol="udp", ports=(90, 90))))
    subprocess.run(["nft", "flush", "chain", "inet", "drivertest", f"in-{ID}"], check=True)
    assert not passes(a, b, udp(90))
    again = BridgeNetwork(Options(table="drivertest", directory=str(place / "groups")))
    again.ensure_network(NETWORK)
    assert passes(a, b, udp(90))
    assert not passes(a, b, udp(91))
    again.close()


def test_addresses_come_and_go_on_a_running_port(driver: BridgeNetwork, a: Tap, b: Tap) -> None:
    more = ("10.91.0.50", "10.91.0.51", "fd91::50")
    driver.ensure_group(of(Rule(direction="in")))
    frames: list[Callable[[], bytes]] = [
        lambda: to_b(f.udp4(A4, more[0], 1, 100, b"new4")),
        lambda: to_b(f.udp4(A4, more[1], 1, 100, b"new4")),
        lambda: to_b(f.udp6(A6, more[2], 1, 100, b"new6")),
    ]
    assert not any(passes(a, b, frame()) for frame in frames)
    driver.ensure_port(port(2, groups=(ID,), addresses=(*B.addresses, *more)))
    assert all(passes(a, b, frame()) for frame in frames)
    driver.ensure_port(B)
    assert not any(passes(a, b, frame()) for frame in frames)
    taken: Port = port(3, groups=(ANY.group_id,), addresses=more)
    driver.ensure_port(taken)  # free for another at once
    driver.remove_port(taken.port_id)
    assert passes(a, b, udp(101))


def test_a_running_port_changes_its_groups(driver: BridgeNetwork, a: Tap, b: Tap) -> None:
    """Also what was let in before ends, and the interface stays the same."""
    index = socket.if_nametoindex(driver.ensure_port(B))
    driver.ensure_group(of(SSH))
    assert passes(a, b, to_b(f.tcp4(A4, B4, 60, 22, SYN, 1, 0)))
    assert passes(b, a, to_a(f.tcp4(B4, A4, 22, 60, SYN | ACK, 1, 2)))
    assert passes(a, b, to_b(f.tcp4(A4, B4, 60, 22, ACK, 2, 2, b"before")))
    driver.ensure_port(port(2, groups=(OUT.group_id,)))
    assert not passes(a, b, to_b(f.tcp4(A4, B4, 60, 22, ACK, 8, 2, b"after")))
    assert not passes(a, b, to_b(f.syn(A4, B4, 61, 22)))
    driver.ensure_port(port(2, groups=(OUT.group_id, ANY.group_id)))
    assert passes(a, b, udp(121))
    driver.ensure_port(port(2, groups=()))
    assert not passes(a, b, udp(122))
    driver.ensure_port(B)
    assert passes(a, b, to_b(f.syn(A4, B4, 62, 22)))
    assert not passes(a, b, udp(123))
    assert socket.if_nametoindex(driver.ensure_port(B)) == index


@pytest.mark.parametrize("way", ["in", "out"])
def test_bandwidth(driver: BridgeNetwork, a: Tap, b: Tap, way: str) -> None:
    """4 Mbit/s let through half a megabyte a second, counted at the receiver once the bucket is empty."""
    driver.ensure_group(of(Rule(direction="in")))
    slow = Bandwidth(in_kbit=4000, burst_kib=128) if way == "in" else Bandwidth(out_kbit=4000, burst_kib=128)
    free = flow(a, b, 0.5)
    driver.ensure_port(port(1, groups=(OUT.group_id,), bandwidth=slow if way == "out" else Bandwidth()))
    driver.ensure_port(port(2, groups=(ID,), bandwidth=slow if way == "in" else Bandwidth()))
    flow(a, b, 1.5)
    limited = flow(a, b, 1.0)
    assert free > 900_000
    assert 420_000 < limited < 580_000
    driver.ensure_port(port(1, groups=(OUT.group_id,)))
    driver.ensure_port(port(2, groups=(ID,)))
    assert flow(a, b, 0.5) > 900_000  # taken away again


def flow(a: Tap, b: Tap, for_s: float) -> float:
    """Bytes per second that arrive while as much as possible is sent."""
    b.drain()
    began, got = time.monotonic(), 0
    while (now := time.monotonic() - began) < for_s:
        a.send(udp(110, bytes(1400)))
        got += sum(len(x) for x in b.receive(lambda _: True, 0.0005))
    return (got + sum(len(x) for x in b.receive(lambda _: False, 0.05))) / now
