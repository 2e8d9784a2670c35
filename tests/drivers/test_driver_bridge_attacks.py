"""A26, A27 and A28 on the wire: what a guest's tap can do before its rules are there, whom it can be, what of its host it reaches.

Each judge is also run with its guard taken away, and must then see it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import driver_frames as f
import pytest
from driver_frames import IP4, IP6, Tap, ether
from driver_taps import bridged, plugged
from test_driver_network import NETWORK, port

from nubila.drivers import DriverError
from nubila.drivers.network import bridge, bridge_groups, nft
from nubila.drivers.network.base import Group, Rule
from nubila.drivers.network.bridge import BridgeNetwork

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("netns")]

TABLE = "drivertest"
A, B, C = port(1), port(2), port(3)
A4, A6 = A.addresses
B4, _ = B.addresses
GATEWAY4, GATEWAY6 = "10.91.0.1", "fd91::1"
METADATA, ELSEWHERE = "169.254.169.254", "192.0.2.77"
SPOOFED = ether(C.mac, B.mac, IP4, f.udp4("10.91.0.99", B4, 1, 2, b"spoofed"))
HONEST = ether(C.mac, B.mac, IP4, f.udp4(C.addresses[0], B4, 1, 2, b"honest"))
LISTENING = (22, 111, 2049, 3300, 5432, 5900, 6789, 8440, 8441, 8442, 16509, 49152)  # as if a host had all of these


@pytest.fixture(scope="module")
def driver(place: Path, netns: None) -> Iterator[BridgeNetwork]:
    with bridged(place / "attacks", NETWORK) as driver:
        yield driver


@pytest.fixture(scope="module")
def a(driver: BridgeNetwork) -> Iterator[Tap]:
    with plugged(driver, A) as tap:
        yield tap


@pytest.fixture(scope="module")
def b(driver: BridgeNetwork) -> Iterator[Tap]:
    with plugged(driver, B) as tap:
        yield tap


@contextlib.contextmanager
def unguarded(driver: BridgeNetwork, *chains: tuple[str, str]) -> Iterator[None]:
    """These chains let everything through; afterwards they are as they were."""
    for family, chain in chains:
        subprocess.run(["nft", "flush", "chain", family, TABLE, chain], check=True)
    yield
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    driver.observe()
    for wish in (A, B):
        driver.ensure_port(wish)


# --- A26


def spoofed_while_it_is_plugged_in(driver: BridgeNetwork, b: Tap, times: int) -> int:
    """How many spoofed frames got out of a tap that is flooded from before it is made until after it is removed."""
    name, stop, got = bridge.tap_name(TABLE, C.port_id), threading.Event(), 0
    for _ in range(times):
        stop.clear()
        flood = threading.Thread(target=_flood, args=(name, stop))
        flood.start()
        b.drain()
        driver.ensure_port(C)
        frames = b.receive(lambda x: b"honest" in x)
        assert b"honest" in frames[-1]  # the twin: what is its own passes
        frames += b.receive(lambda _: False, 0.05)
        stop.set()
        flood.join()
        driver.remove_port(C.port_id)
        frames += b.receive(lambda _: False, 0.05)
        got += sum(b"spoofed" in x for x in frames)
    return got


def _flood(name: str, stop: threading.Event) -> None:
    handle = -1
    while not stop.is_set():
        try:
            if handle < 0:
                if name not in [n for _, n in socket.if_nameindex()]:  # asked for by name it would be made
                    continue
                handle = f.opened(name)
            os.write(handle, SPOOFED.ljust(60, b"\0"))
            os.write(handle, HONEST.ljust(60, b"\0"))
        except OSError:
            time.sleep(0)  # down, or in the middle of being made
    if handle >= 0:
        os.close(handle)


def test_a26_a_flood_gets_nothing_out_before_its_rules_are_there(driver: BridgeNetwork, b: Tap) -> None:
    assert spoofed_while_it_is_plugged_in(driver, b, 10) == 0


def test_a26_without_the_rules_the_flood_would_be_seen(driver: BridgeNetwork, b: Tap) -> None:
    with unguarded(driver, ("bridge", "from-guests"), ("inet", "guest-sends")):  # the groups would not know it either
        assert spoofed_while_it_is_plugged_in(driver, b, 1) > 0


def groups_of(bad: int) -> list[Group]:
    """Ten of them; one has a rule that no kernel takes."""
    return [
        Group(
            group_id=f"sg-01{n:024d}",
            rules=(Rule(direction="in", protocol="tcp", ports=(n + 1, 99999 if n == bad else n + 1)),),
        )
        for n in range(10)
    ]


def refused(load: Callable[[Group], None], bad: int) -> list[int]:
    """Which of ten groups that are wished at the same time are not loaded."""
    groups = groups_of(bad)
    gate, lost = threading.Barrier(len(groups)), list[int]()

    def one(n: int) -> None:
        gate.wait()
        try:
            load(groups[n])
        except DriverError:
            lost.append(n)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(len(groups))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return sorted(lost)


def test_a26_one_bad_rule_holds_up_no_other(driver: BridgeNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "check_group", lambda group: group)
    assert refused(driver.ensure_group, 3) == [3]
    assert {g.group_id for n, g in enumerate(groups_of(3)) if n != 3} <= set(driver.observe().groups)
    for g in groups_of(-1):
        driver.remove_group(g.group_id)


def test_a26_if_one_transaction_decided_for_all_it_would_be_seen(
    driver: BridgeNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    def all_or_none(batch: list[nft._Wish]) -> None:
        time.sleep(0.3)  # so that the others gather
        error = nft._try([c for wish in batch for c in wish.commands])
        for wish in batch:
            wish.error = error
            wish.done.set()

    loader = nft.Loader()
    load = lambda group: loader.load(bridge_groups.group(TABLE, group))  # noqa: E731
    assert refused(load, 3) == [3]
    monkeypatch.setattr(nft, "_carry_out", all_or_none)
    assert any(len(refused(load, bad)) > 1 for bad in range(4))  # whoever comes first is alone
    for g in groups_of(-1):
        driver.remove_group(g.group_id)


# --- A27


def heard_by_metadata(driver: BridgeNetwork, a: Tap, source: str, gateway: str) -> bool:
    """Whether a connection under that source address is answered, seen by the answer on any tap of the network."""
    with metadata_listener(driver):
        a.drain()
        a.send(ether(A.mac, gateway, IP4, f.syn(source, METADATA, 5000, 80)))
        a.send(ether(A.mac, gateway, IP4, f.ping4(A4, GATEWAY4, b"after it")))
        a.receive(lambda x: b"after it" in x)
        said = subprocess.run(["ss", "-Hntn", "state", "syn-recv"], capture_output=True, text=True, check=True).stdout
        return f"{source}:5000" in said


@contextlib.contextmanager
def metadata_listener(driver: BridgeNetwork) -> Iterator[None]:
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, driver.observe().networks[0].bridge.encode())
        s.bind((METADATA, 80))
        s.listen()
        yield


def test_a27_metadata_is_not_asked_under_anothers_address(driver: BridgeNetwork, a: Tap, b: Tap) -> None:
    gateway = f.gateway_mac(a, A.mac, A4, GATEWAY4)
    assert heard_by_metadata(driver, a, A4, gateway)
    assert not heard_by_metadata(driver, a, B4, gateway)
    with unguarded(driver, ("bridge", "from-guests")):
        assert heard_by_metadata(driver, a, B4, gateway)


# --- A28


def answered_tcp(a: Tap, gateway: str, target: str, ports: tuple[int, ...]) -> set[int]:
    """The ports of the host, from 1 on, that say anything at all to a connection."""
    found: set[int] = set()
    for at in range(0, len(ports), 200):
        for number in ports[at : at + 200]:
            a.send(ether(A.mac, gateway, IP4, f.syn(A4, target, 5001, number)))
        a.send(ether(A.mac, gateway, IP4, f.ping4(A4, GATEWAY4, b"so far")))
        for x in a.receive(lambda x: b"so far" in x):
            if x[12:14] == b"\x08\x00" and x[26:30] == f.ip(target) and x[23] in (6, 1) and b"so far" not in x:
                found.add(struct.unpack_from(">H", x, 34)[0])
    return found


def answered_udp(a: Tap, gateway: str, ports: tuple[int, ...]) -> set[int]:
    """Likewise for a question that a name server understands, whoever it is that hears it."""
    question = struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 0) + b"\x07guest-2\0" + struct.pack(">HH", 1, 1)
    found: set[int] = set()
    for at in range(0, len(ports), 200):
        for number in ports[at : at + 200]:
            a.send(ether(A.mac, gateway, IP4, f.udp4(A4, GATEWAY4, 5002, number, question)))
        a.send(ether(A.mac, gateway, IP4, f.udp4(A4, GATEWAY4, 5003, 53, question)))  # what comes then was asked before
        for x in a.receive(lambda x: _is_answer(x) and struct.unpack_from(">H", x, 36)[0] == 5003):
            if _is_answer(x) and struct.unpack_from(">H", x, 36)[0] != 5003:
                found.add(struct.unpack_from(">H", x, 34)[0] if x[23] == 17 else 0)
    return found


def _is_answer(x: bytes) -> bool:
    return x[12:14] == b"\x08\x00" and x[26:30] == f.ip(GATEWAY4) and x[23] in (17, 1)


@contextlib.contextmanager
def host_full_of_services(driver: BridgeNetwork) -> Iterator[None]:
    subprocess.run(["ip", "addr", "replace", f"{ELSEWHERE}/32", "dev", "lo"], check=True)
    with contextlib.ExitStack() as held:
        for number in LISTENING:
            s = held.enter_context(socket.socket(socket.AF_INET6))
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(("::", number))
            s.listen()
        held.enter_context(metadata_listener(driver))
        yield


COMMON = (*range(1, 1024), *LISTENING)
EVERY = tuple(range(1, 65536))


@pytest.mark.parametrize("ports", [COMMON, pytest.param(EVERY, marks=pytest.mark.long)], ids=["common", "every"])
def test_a28_of_the_hosts_ports_only_dns_and_metadata_answer(
    driver: BridgeNetwork, a: Tap, ports: tuple[int, ...]
) -> None:
    gateway = f.gateway_mac(a, A.mac, A4, GATEWAY4)
    for address in (A4, A6):  # this guest answers no ARP, and would be forgotten
        known = ["ip", "neigh", "replace", address, "lladdr", A.mac, "dev", driver.observe().networks[0].bridge]
        subprocess.run(known, check=True)
    with host_full_of_services(driver):
        assert answered_tcp(a, gateway, GATEWAY4, ports) == {53}
        assert answered_tcp(a, gateway, METADATA, ports) == {80}
        assert answered_tcp(a, gateway, ELSEWHERE, LISTENING) == set()
        assert answered_udp(a, gateway, ports) == {53}
        for number in (*LISTENING, 80):
            a.send(ether(A.mac, gateway, IP6, _syn6(A6, GATEWAY6, number)))
        a.send(ether(A.mac, gateway, IP6, _syn6(A6, GATEWAY6, 53)))
        answers = a.receive(lambda x: x[12:14] == b"\x86\xdd" and x[20] == 6)
        assert [struct.unpack_from(">H", x, 54)[0] for x in answers if x[12:14] == b"\x86\xdd" and x[20] == 6] == [53]


def test_a28_dhcp_answers_too(a: Tap) -> None:
    a.send(f.dhcp(A.mac, 1, 77))
    assert a.receive(lambda x: f.dhcp_answer(x, 77) is not None)


def test_a28_without_the_guard_the_services_would_be_seen(driver: BridgeNetwork, a: Tap, b: Tap) -> None:
    gateway = f.gateway_mac(a, A.mac, A4, GATEWAY4)
    with host_full_of_services(driver), unguarded(driver, ("inet", "guest-to-host")):
        assert set(LISTENING) <= answered_tcp(a, gateway, GATEWAY4, LISTENING)
        assert set(LISTENING) <= answered_tcp(a, gateway, ELSEWHERE, LISTENING)


def _syn6(source: str, target: str, number: int) -> bytes:
    body = struct.pack(">HHIIBBHHH", 5003, number, 1, 0, 5 << 4, f.SYN, 1024, 0, 0)
    pseudo = f.ip(source) + f.ip(target) + struct.pack(">II", len(body), 6)
    return f.ip6(source, target, 6, body[:16] + struct.pack(">H", f.checksum(pseudo + body)) + body[18:], 64)
