"""DHCP, router advertisements and the way outside, as a guest meets them on its tap."""

from __future__ import annotations

import ipaddress
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import driver_frames as f
import pytest
from driver_frames import IP4, IP6, Tap, ether
from driver_rig import wait_for
from driver_taps import bridged, plugged
from test_driver_network import NETWORK, port

from nubila.drivers import DriverError
from nubila.drivers.network.base import Network, Subnet
from nubila.drivers.network.bridge import BridgeNetwork

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("netns")]

NAT = Network(
    network_id=NETWORK.network_id,
    name="blue",
    mtu=1450,
    nat=True,
    subnets=(Subnet(cidr="10.91.0.0/24", gateway="10.91.0.1", dns=("9.9.9.9", "1.1.1.1")), NETWORK.subnets[1]),
)
INNER = Network(
    network_id="net-01k9xg2m4n5p6q7r8s9t0v1wrd",
    name="red",
    mtu=1500,
    nat=False,
    subnets=(Subnet(cidr="10.92.0.0/24", gateway="10.92.0.1"),),
)
A = port(1)
C = port(3, network_id=INNER.network_id, addresses=("10.92.0.13",))
OUTSIDE = "198.51.100.2"
ECHO = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", 7))
print("ready", flush=True)
while True:
    data, peer = s.recvfrom(2000)
    s.sendto(data + b" from " + peer[0].encode(), peer)
"""


@pytest.fixture
def driver(place: Path, tmp_path: Path, netns: None) -> Iterator[BridgeNetwork]:
    with bridged(place / tmp_path.name, NAT, INNER) as driver:
        yield driver


@pytest.fixture
def a(driver: BridgeNetwork) -> Iterator[Tap]:
    with plugged(driver, A) as tap:
        yield tap


@pytest.fixture
def c(driver: BridgeNetwork) -> Iterator[Tap]:
    with plugged(driver, C) as tap:
        yield tap


@pytest.fixture
def outside(netns: None) -> Iterator[str]:
    """A neighbour in a namespace of its own, which answers UDP on port 7 with the address that it saw."""
    name = "nubilatest"
    for line in (
        f"ip netns add {name}", f"ip link add up0 type veth peer name up1 netns {name}",
        "ip addr add 198.51.100.1/24 dev up0", "ip link set up0 up",
        f"ip -n {name} addr add {OUTSIDE}/24 dev up1", f"ip -n {name} link set up1 up",
        f"ip -n {name} route add 10.91.0.0/24 via 198.51.100.1",
    ):  # fmt: skip
        subprocess.run(line.split(), check=True)
    echo = subprocess.Popen(["ip", "netns", "exec", name, "python3", "-c", ECHO], stdout=subprocess.PIPE)
    assert echo.stdout is not None
    assert echo.stdout.readline() == b"ready\n"
    yield name
    echo.kill()
    echo.wait()
    echo.stdout.close()
    subprocess.run(["ip", "link", "del", "up0"], check=True)
    subprocess.run(["ip", "netns", "del", name], check=True)


def _ask(
    tap: Tap, mac: str, kind: int, transaction: int, *options: bytes, within_s: float = 3.0
) -> dict[int, bytes] | None:
    tap.drain()
    tap.send(f.dhcp(mac, kind, transaction, *options))
    got = tap.receive(lambda x: f.dhcp_answer(x, transaction) is not None, within_s)
    return f.dhcp_answer(got[-1], transaction) if got else None


def _lease(tap: Tap, mac: str) -> dict[int, bytes]:
    offer = _ask(tap, mac, 1, 1)
    assert offer is not None
    ack = _ask(tap, mac, 3, 2, bytes([50, 4]) + offer[0], bytes([54, 4]) + offer[54])
    assert ack is not None
    assert ack[53] == b"\x05"
    return ack


def test_a_guest_gets_its_address_and_the_way_out(driver: BridgeNetwork, a: Tap) -> None:
    ack = _lease(a, A.mac)
    assert ack[0] == f.ip("10.91.0.11")
    assert ack[1] == f.ip("255.255.255.0")
    assert ack[3] == f.ip("10.91.0.1")
    assert ack[6] == f.ip("9.9.9.9") + f.ip("1.1.1.1")
    assert struct.unpack(">H", ack[26])[0] == 1450
    assert struct.unpack(">I", ack[51])[0] == 120
    assert ack[121] == b"\x20" + f.ip("169.254.169.254") + f.ip("10.91.0.1") + b"\0" + f.ip("10.91.0.1")
    leases = wait_for(lambda: driver.observe().leases)
    assert [(x.network_id, x.mac, x.address) for x in leases] == [(NAT.network_id, A.mac, "10.91.0.11")]
    again = BridgeNetwork(driver._options)
    assert again.observe().leases == leases
    again.close()


def test_without_nat_only_metadata_has_a_route(c: Tap) -> None:
    ack = _lease(c, C.mac)
    assert ack[0] == f.ip("10.92.0.13")
    assert 3 not in ack
    assert ack[6] == f.ip("10.92.0.1")  # none was named: the gateway answers for names
    assert ack[121] == b"\x20" + f.ip("169.254.169.254") + f.ip("10.92.0.1")


def _name(tap: Tap, mac: str, mine: str, gateway: str, name: str, within_s: float = 3.0) -> list[bytes]:
    """The addresses that the gateway's name server gives; [] for none, or when it does not answer."""
    labels = b"".join(bytes([len(x)]) + x.encode() for x in name.split("."))
    asks = struct.pack(">HHHHHH", 77, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", 1, 1)
    tap.drain()
    tap.send(ether(mac, f.gateway_mac(tap, mac, mine, gateway), IP4, f.udp4(mine, gateway, 4053, 53, asks)))
    sent = struct.pack(">HH", 53, 4053)
    got = tap.receive(lambda x: x[34:38] == sent, within_s)
    answers = [x[42:] for x in got if x[34:38] == sent]
    return [a[-4:] for a in answers if struct.unpack(">H", a[6:8])[0] == 1]


def test_guests_find_their_neighbours_by_name_and_no_other_networks(driver: BridgeNetwork, a: Tap, c: Tap) -> None:
    """A is asked for on its own network, where it is found, and on another's, where nobody knows it."""
    _lease(a, A.mac)
    _lease(c, C.mac)
    assert _name(a, A.mac, A.addresses[0], "10.91.0.1", "guest-1") == [f.ip("10.91.0.11")]
    assert _name(c, C.mac, C.addresses[0], "10.92.0.1", "guest-3") == [f.ip("10.92.0.13")]
    assert _name(c, C.mac, C.addresses[0], "10.92.0.1", "guest-1") == []


def test_dhcp_serves_on_where_the_host_has_a_name_server_of_its_own(place: Path, tmp_path: Path, netns: None) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as everywhere:
        everywhere.bind(("0.0.0.0", 53))
        with bridged(place / f"{tmp_path.name}2", INNER) as driver, plugged(driver, C) as tap:
            assert 6 not in _lease(tap, C.mac)


def test_a_removed_ports_address_is_free_at_once(driver: BridgeNetwork) -> None:
    tap = Tap(driver.ensure_port(A))
    _lease(tap, A.mac)
    wait_for(lambda: driver.observe().leases)
    tap.close()
    driver.remove_port(A.port_id)
    assert driver.observe().leases == ()
    heir = port(9, addresses=A.addresses)
    tap = Tap(driver.ensure_port(heir))
    assert _lease(tap, heir.mac)[0] == f.ip(A.addresses[0])
    tap.close()


def test_of_several_addresses_dhcp_gives_the_first_and_another_as_soon_as_that_is_unassigned(
    driver: BridgeNetwork, a: Tap
) -> None:
    first, other, six = A.addresses[0], "10.91.0.5", A.addresses[1]
    driver.ensure_port(port(1, addresses=(first, other, six)))
    assert _lease(a, A.mac)[0] == f.ip(first)
    driver.ensure_port(port(1, addresses=(other, six)))
    assert driver.observe().leases == ()
    assert _lease(a, A.mac)[0] == f.ip(other)
    heir = port(9, addresses=(first,))
    tap = Tap(driver.ensure_port(heir))
    assert _lease(tap, heir.mac)[0] == f.ip(first)
    tap.close()


def test_dhcp_outlives_the_driver_and_is_made_again_when_dead(driver: BridgeNetwork, a: Tap) -> None:
    _lease(a, A.mac)
    process = driver._dhcp_of(NAT.network_id)._process
    before = process.pid()
    other = BridgeNetwork(driver._options)
    other.ensure_network(NAT)
    assert other._dhcp_of(NAT.network_id)._process.pid() == before
    process.stop()
    assert [n.serving for n in other.observe().networks if n.network_id == NAT.network_id] == [False]
    other.ensure_network(NAT)
    assert other._dhcp_of(NAT.network_id)._process.pid() not in (None, before)
    _lease(a, A.mac)
    other.close()


def test_dhcp_runs_unprivileged(driver: BridgeNetwork) -> None:
    pid = driver._dhcp_of(NAT.network_id)._process.pid()
    status = Path(f"/proc/{pid}/status").read_text()
    uids = next(line for line in status.splitlines() if line.startswith("Uid:")).split()[1:]
    assert "0" not in uids


def test_the_router_is_announced(a: Tap) -> None:
    got: list[bytes] = []
    for _ in range(4):  # as a guest does: the first may come before the router's own address is ready
        a.send(ether(A.mac, "33:33:00:00:00:02", IP6, f.icmp6("fe80::5054:ff:fe00:1", "ff02::2", 133, bytes(4))))
        got = a.receive(lambda x: x[12:14] == b"\x86\xdd" and x[20] == 58 and x[54] == 134, 2.0)
        if got and got[-1][54] == 134:
            break
    advertisement = got[-1][54:]
    assert advertisement[0] == 134
    assert struct.unpack(">H", advertisement[6:8])[0] == 3600
    options, prefixes = advertisement[16:], []
    while options:
        if options[0] == 3:
            prefixes.append((str(ipaddress.ip_address(options[16:32])), options[2], options[3] & 0x40))
        options = options[options[1] * 8 :]
    assert prefixes == [("fd91::", 64, 0x40)]


def test_guests_reach_the_outside_under_the_nodes_address(a: Tap, outside: str) -> None:
    gateway = f.gateway_mac(a, A.mac, A.addresses[0], "10.91.0.1")
    a.send(ether(A.mac, gateway, IP4, f.udp4(A.addresses[0], OUTSIDE, 4000, 7, b"hello")))
    assert b"hello from 198.51.100.1" in a.receive(lambda x: b"hello" in x)[-1]


def test_the_outside_does_not_reach_guests(a: Tap, outside: str) -> None:
    """The twin is the answer above: the same way back, when the guest had asked."""
    send = (
        f"import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'intruder', ('{A.addresses[0]}', 9))"
    )
    gateway = f.gateway_mac(a, A.mac, A.addresses[0], "10.91.0.1")
    subprocess.run(["ip", "netns", "exec", outside, "python3", "-c", send], check=True)
    a.send(ether(A.mac, gateway, IP4, f.udp4(A.addresses[0], OUTSIDE, 4000, 7, b"hello")))
    assert not any(b"intruder" in x for x in a.receive(lambda x: b"hello" in x))


def test_networks_do_not_reach_each_other(a: Tap, c: Tap, outside: str) -> None:
    gateway = f.gateway_mac(a, A.mac, A.addresses[0], "10.91.0.1")
    f.gateway_mac(c, C.mac, C.addresses[0], "10.92.0.1")
    c.drain()
    a.send(ether(A.mac, gateway, IP4, f.udp4(A.addresses[0], C.addresses[0], 1, 2, b"across")))
    a.send(ether(A.mac, gateway, IP4, f.udp4(A.addresses[0], OUTSIDE, 4000, 7, b"hello")))
    assert b"hello" in a.receive(lambda x: b"hello" in x)[-1]
    assert not any(b"across" in x for x in c.receive(lambda x: b"across" in x, 0.2))


def test_without_nat_there_is_no_way_out(a: Tap, c: Tap, outside: str) -> None:
    gateway = f.gateway_mac(c, C.mac, C.addresses[0], "10.92.0.1")
    c.send(ether(C.mac, gateway, IP4, f.udp4(C.addresses[0], OUTSIDE, 4000, 7, b"hello")))
    c.send(ether(C.mac, gateway, IP4, f.ping4(C.addresses[0], "10.92.0.1", b"after it")))
    got = c.receive(lambda x: b"after it" in x)
    assert b"after it" in got[-1]
    assert not any(b"hello" in x for x in got)


def test_the_host_reaches_its_guests(a: Tap) -> None:
    gateway = f.gateway_mac(a, A.mac, A.addresses[0], "10.91.0.1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as host:
        host.settimeout(3)
        host.bind(("10.91.0.1", 0))
        host.sendto(b"knock", (A.addresses[0], 99))
        wanted = a.receive(lambda x: (x[12:14] == b"\x08\x06" and x[38:42] == f.ip(A.addresses[0])) or b"knock" in x)[
            -1
        ]
        if b"knock" not in wanted:
            a.send(f.arp(A.mac, A.addresses[0], "10.91.0.1", gateway, reply=True))
            assert b"knock" in a.receive(lambda x: b"knock" in x)[-1]
        a.send(ether(A.mac, gateway, IP4, f.udp4(A.addresses[0], "10.91.0.1", 99, host.getsockname()[1], b"come in")))
        assert host.recv(100) == b"come in"


def test_overlapping_networks_are_refused_with_the_reason(driver: BridgeNetwork) -> None:
    twin = Network(network_id="net-01k9xg2m4n5p6q7r8s9t0v1wtw", name="t", mtu=1500, nat=True, subnets=NAT.subnets)
    driver.ensure_port(A)
    with pytest.raises(DriverError) as error:
        driver.ensure_network(twin)
    assert "overlaps" in error.value.reason
    assert {n.network_id for n in driver.observe().networks} == {NAT.network_id, INNER.network_id}
    driver.remove_port(A.port_id)
    driver.ensure_network(twin)  # what nothing is on is in nobody's way
    assert {n.network_id for n in driver.observe().networks} == {twin.network_id, INNER.network_id}


def test_foreign_tables_and_interfaces_stay(driver: BridgeNetwork, a: Tap) -> None:
    subprocess.run(["nft", "add table inet stranger"], check=True)
    subprocess.run(["ip", "link", "add", "stranger0", "type", "bridge"], check=True)
    driver.ensure_network(NAT)
    driver.remove_port(A.port_id)
    driver.remove_all()
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    assert tables == "table inet stranger\n"
    assert socket.if_nametoindex("stranger0")
    subprocess.run(["nft", "delete table inet stranger"], check=True)
    subprocess.run(["ip", "link", "del", "stranger0"], check=True)


def test_the_machines_settings_come_back(driver: BridgeNetwork) -> None:
    settings = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding")
    now = {name: value for name, _, value in driver.host_settings()}
    assert [now[s] for s in settings] == ["1", "1"]
    driver.remove_all()
    now = {name: value for name, _, value in driver.host_settings()}
    assert [now[s] for s in settings] == ["0", "0"]


def test_routing_switched_off_by_others_is_seen_and_mended(driver: BridgeNetwork) -> None:
    """As by another installation of this machine when it ends."""
    for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        switch = Path("/proc/sys/net", name)
        switch.write_text("0")
        assert {n.network_id: n.serving for n in driver.observe().networks} == {
            NAT.network_id: False,
            INNER.network_id: True,
        }
        driver.ensure_network(NAT)
        assert switch.read_text() == "1\n"
    assert {n.serving for n in driver.observe().networks} == {True}


def test_after_a_boot_nothing_old_is_remembered(driver: BridgeNetwork, a: Tap) -> None:
    for name in [n for _, n in socket.if_nameindex() if len(n) == 15]:
        subprocess.run(["ip", "link", "del", name], check=True)
    fresh = BridgeNetwork(driver._options)
    fresh.ensure_network(INNER)
    assert [n.network_id for n in fresh.observe().networks] == [INNER.network_id]
    assert not list((Path(driver._options.directory) / "ports").glob("*.json"))
    fresh.close()
