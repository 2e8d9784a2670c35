"""The conformance suite of network drivers: one text, run on every driver of the registry."""

from __future__ import annotations

import ipaddress
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from driver_netns import own_netns

from nubila.drivers import DriverError
from nubila.drivers.network import DRIVERS
from nubila.drivers.network.base import Interface, Network, NetworkDriver, Options, Port, Subnet

NET = "net-01k9xg2m4n5p6q7r8s9t0v1w2x"
NETWORK = Network(
    network_id=NET,
    name="blue",
    mtu=1450,
    nat=True,
    subnets=(Subnet(cidr="10.91.0.0/24", gateway="10.91.0.1"), Subnet(cidr="fd91::/64", gateway="fd91::1")),
)


def port(number: int, **change: Any) -> Port:
    wish = Port(
        port_id=f"port-01{number:024d}",
        epoch=1,
        network_id=NET,
        mac=f"52:54:00:00:00:{number:02x}",
        hostname=f"guest-{number}",
        addresses=(f"10.91.0.{number + 10}", f"fd91::5054:ff:fe00:{number:x}"),
        uid=1_900_000 + number,
    )
    return msgspec.structs.replace(wish, **change)


def _fake(place: Path) -> Callable[[], NetworkDriver]:
    from nubila.drivers.network.fake import FakeNetwork, NetworkWorld

    return lambda: FakeNetwork(NetworkWorld(place / "world"))


def _bridge(place: Path) -> Callable[[], NetworkDriver]:
    from nubila.drivers.network.bridge import BridgeNetwork

    return lambda: BridgeNetwork(Options(table="drivertest", directory=str(place / "network")))


MAKERS = {"fake": _fake, "bridge": _bridge}


def test_every_driver_is_tested() -> None:
    assert set(MAKERS) == set(DRIVERS)


class Rig:
    """The driver under test, how a new agent would make it, and how the machine gets an address of its own."""

    def __init__(self, again: Callable[[], NetworkDriver], give: Callable[[NetworkDriver, str], None]):
        self.again = again
        self.driver = again()
        self.give = lambda cidr: give(self.driver, cidr)


def _give_fake(driver: Any, cidr: str) -> None:
    driver.world.ranges += (str(ipaddress.ip_interface(cidr).network),)
    driver.world.interfaces += (Interface(name="lan0", mac="02:00:00:00:00:01", mtu=1500, addresses=(cidr,)),)


def _give_real(driver: NetworkDriver, cidr: str) -> None:
    subprocess.run(["ip", "link", "add", "lan0", "type", "bridge"], check=True)
    subprocess.run(["ip", "addr", "add", cidr, "dev", "lan0"], check=True)
    subprocess.run(["ip", "link", "set", "lan0", "up"], check=True)


@pytest.fixture(params=[pytest.param(n, marks=pytest.mark.real if n != "fake" else ()) for n in DRIVERS])
def rig(request: pytest.FixtureRequest, place: Path, tmp_path: Path) -> Iterator[Rig]:
    path = place / tmp_path.name
    path.mkdir(mode=0o711)
    if request.param == "fake":
        yield Rig(MAKERS[request.param](path), _give_fake)
        return
    with own_netns():
        rig = Rig(MAKERS[request.param](path), _give_real)
        yield rig
        for found in rig.driver.observe().ports:
            rig.driver.remove_port(found.port_id)
        for network in rig.driver.observe().networks:
            rig.driver.remove_network(network.network_id)
        rig.driver.close()


def test_nothing_is_there_at_first(rig: Rig) -> None:
    observed = rig.driver.observe()
    assert (observed.networks, observed.ports, observed.leases) == ((), (), ())


def test_removing_what_is_not_there_succeeds(rig: Rig) -> None:
    rig.driver.remove_port(port(1).port_id)
    rig.driver.remove_network(NET)


@pytest.mark.parametrize("own", ["10.91.0.7/32", "10.91.0.1/25", "10.88.0.1/13"])
def test_a_network_never_takes_the_machines_own_addresses_over(rig: Rig, own: str) -> None:
    rig.give(own)
    assert any(ipaddress.ip_interface(own).ip in ipaddress.ip_network(r) for r in rig.driver.ranges())
    with pytest.raises(DriverError, match="uses itself"):
        rig.driver.ensure_network(NETWORK)
    assert rig.driver.observe().networks == ()
    elsewhere = Subnet(cidr="10.17.0.0/24", gateway="10.17.0.1")
    rig.driver.ensure_network(msgspec.structs.replace(NETWORK, subnets=(elsewhere,)))
    assert [n.network_id for n in rig.driver.observe().networks] == [NET]
    rig.driver.ensure_network(msgspec.structs.replace(NETWORK, subnets=(elsewhere,)))  # its own route is no obstacle


def test_the_machines_own_interfaces_are_told_and_not_the_drivers(rig: Rig) -> None:
    rig.give("10.92.0.7/24")
    rig.driver.ensure_network(NETWORK)
    (found,) = rig.driver.interfaces()
    assert (found.name, found.addresses) == ("lan0", ("10.92.0.7/24",))
    assert len(found.mac) == 17
    assert found.mtu >= 1280


def test_a_port_needs_its_network(rig: Rig) -> None:
    with pytest.raises(DriverError):
        rig.driver.ensure_port(port(1))


def test_made_twice_is_there_once_and_a_new_agent_finds_it(rig: Rig) -> None:
    bridge = rig.driver.ensure_network(NETWORK)
    tap = rig.driver.ensure_port(port(1))
    assert len(bridge) <= 15
    assert len(tap) <= 15
    observed = rig.driver.observe()
    assert rig.driver.ensure_network(NETWORK) == bridge
    assert rig.driver.ensure_port(port(1)) == tap
    again = rig.again()
    for driver in (rig.driver, again):
        now = driver.observe()
        assert now.networks == observed.networks
        assert now.ports == observed.ports
    assert [(n.network_id, n.bridge, n.serving) for n in observed.networks] == [(NET, bridge, True)]
    assert [(p.port_id, p.epoch, p.tap, p.network_id, p.up) for p in observed.ports] == [
        (port(1).port_id, 1, tap, NET, True)
    ]
    assert again.ensure_network(NETWORK) == bridge
    assert again.ensure_port(port(1)) == tap
    assert again.observe().ports == observed.ports
    again.close()


def test_a_new_epoch_is_seen(rig: Rig) -> None:
    rig.driver.ensure_network(NETWORK)
    tap = rig.driver.ensure_port(port(1))
    assert rig.driver.ensure_port(port(1, epoch=2)) == tap
    assert [(p.epoch, p.up) for p in rig.driver.observe().ports] == [(2, True)]


def test_a_network_with_ports_is_not_removed(rig: Rig) -> None:
    rig.driver.ensure_network(NETWORK)
    rig.driver.ensure_port(port(1))
    with pytest.raises(DriverError) as error:
        rig.driver.remove_network(NET)
    assert error.value.again
    rig.driver.remove_port(port(1).port_id)
    rig.driver.remove_network(NET)
    assert rig.driver.observe().networks == ()
    rig.driver.remove_network(NET)


def test_removed_twice_is_gone_and_others_stay(rig: Rig) -> None:
    rig.driver.ensure_network(NETWORK)
    for number in (1, 2):
        rig.driver.ensure_port(port(number))
    for _ in range(2):
        rig.driver.remove_port(port(1).port_id)
    assert [(p.port_id, p.up) for p in rig.driver.observe().ports] == [(port(2).port_id, True)]
