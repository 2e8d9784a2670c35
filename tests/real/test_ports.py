"""Ports and addresses on a real guest, judged from inside it and from its network: what is plugged in, what answers."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.real.conftest import Cloud, Guest

pytestmark = [pytest.mark.real, pytest.mark.long]


@pytest.fixture(scope="module")
def vm(cloud: Cloud) -> Guest:
    made = cloud.create("ports")
    made.reachable()
    return made


class Ports:
    def __init__(self, vm: Guest):
        self.vm, self.cloud = vm, vm.cloud
        first = int(vm.cloud.cidr.split(".")[1])
        self.second = f"10.{first - 1}.7.0/24"
        self.call("POST", "/networks", {"name": "second", "subnets": [{"cidr": self.second}]})

    def call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """Do it, and wait until its operation is done, if it has one."""
        wait = "" if method in ("GET", "PATCH") or "?" in path else "?wait=60"
        answer = self.cloud.call(0, method, f"/v1{path}{wait}", body, self.cloud.tokens["user"])
        if "operation" in answer:
            assert answer["operation"]["state"] == "done", answer
        return dict(answer)

    def own(self) -> dict[str, Any]:
        """The port that the vm was made with."""
        items: list[dict[str, Any]] = self.call("GET", "/ports")["items"]
        return next(p for p in items if p["vm"] == self.vm.name and p["network"] == "default")

    def interfaces(self) -> dict[str, str]:
        """MAC -> name, as the guest's kernel has them."""
        said = self.vm.ssh("cd /sys/class/net; for i in eth*; do echo $i $(cat $i/address); done")
        return {mac: name for name, mac in (line.split() for line in said.splitlines())}


@pytest.fixture(scope="module")
def ports(vm: Guest) -> Ports:
    return Ports(vm)


def answers(address: str, port: int = 22) -> bool:
    """Whether somebody there takes a connection from the network's gateway."""
    with contextlib.suppress(OSError), socket.create_connection((address, port), 1.0):
        return True
    return False


def soon(what: Callable[[], Any], within_s: float = 20.0) -> float:
    """Seconds until it was so."""
    began = time.monotonic()
    while not what():
        assert time.monotonic() - began < within_s
        time.sleep(0.05)
    return time.monotonic() - began


def test_a_port_appears_in_a_running_guest_gets_its_address_and_is_gone_again(vm: Guest, ports: Ports) -> None:
    before, boot_id = ports.interfaces(), vm.reachable()
    port = ports.call("POST", f"/vms/{vm.name}/ports", {"network": "second"})["port"]
    soon(lambda: port["mac"] in ports.interfaces())
    name = ports.interfaces()[port["mac"]]
    assert set(ports.interfaces()) - set(before) == {port["mac"]}
    vm.ssh(f"ip link set {name} up; udhcpc -i {name} -s /sbin/dhcp-event -n -q -t 20 -T 1", 40)
    (address,) = port["addresses"]
    assert f" {address}/24" in vm.ssh(f"ip -4 addr show dev {name}")
    soon(lambda: answers(address))
    ports.call("DELETE", f"/ports/{port['id']}")
    assert ports.interfaces() == before
    assert not answers(address)
    assert vm.reachable() == boot_id  # all of it without a reboot
    ports.call("DELETE", "/networks/second")


def test_a_second_address_answers_while_it_is_assigned_and_not_before_and_after(vm: Guest, ports: Ports) -> None:
    own = ports.own()
    name, first = ports.interfaces()[own["mac"]], own["addresses"][0]
    plan = ports.call("POST", f"/ports/{own['id']}/addresses?plan=1", {})
    other = plan["effects"][0]["details"]["assigned"]
    vm.ssh(f"ip addr add {other}/16 dev {name}")
    assert not answers(other)
    assert answers(first)
    ports.call("POST", f"/ports/{own['id']}/addresses", {"address": other})
    assert soon(lambda: answers(other)) < 5.0
    assert other in vm.ssh(
        f"wget -qO- http://169.254.169.254/latest/meta-data/network/interfaces/macs/{own['mac']}/local-ipv4s"
    )
    ports.call("DELETE", f"/ports/{own['id']}/addresses/{other}")
    assert not answers(other)
    assert answers(first)
    vm.ssh(f"ip addr del {other}/16 dev {name}")


def test_a_guest_with_the_wrong_address_or_mac_reaches_nobody(vm: Guest, ports: Ports) -> None:
    own = ports.own()
    name, right = ports.interfaces()[own["mac"]], own["addresses"][0]
    gateway = right.rsplit(".", 2)[0] + ".0.1"
    wrong = right.rsplit(".", 1)[0] + ".253" if not right.endswith(".253") else right.rsplit(".", 1)[0] + ".252"
    script = f"""
ping -c1 -W2 {gateway} >/dev/null && echo right
ip addr add {wrong}/16 dev {name}
ping -c2 -W1 -I {wrong} {gateway} >/dev/null && echo wrong-address
ip addr del {wrong}/16 dev {name}
ip link set {name} address 52:00:de:ad:be:ef
ping -c2 -W1 {gateway} >/dev/null && echo wrong-mac
ip link set {name} address {own["mac"]}
for i in 1 2 3 4 5; do ping -c1 -W2 {gateway} >/dev/null && break; done && echo right-again
"""
    vm.ssh(
        f"cat > /run/try <<'END'\n{script}\nEND\n(sh /run/try > /run/tried 2>/run/tried.err; echo over >> /run/tried) >/dev/null 2>&1 &"
    )
    said: list[str] = []

    def over() -> bool:
        with contextlib.suppress(ConnectionError, subprocess.TimeoutExpired):
            said[:] = vm.ssh("cat /run/tried", 5).split()
        return "over" in said

    soon(over, 60)
    assert said == ["right", "right-again", "over"]


def test_a_rule_added_on_a_running_port_acts_within_a_second(vm: Guest, ports: Ports) -> None:
    address = ports.own()["addresses"][0]
    vm.ssh("(while :; do nc -l -p 8081 </dev/null >/dev/null 2>&1; done) >/dev/null 2>&1 &")
    assert not answers(address, 8081)
    rules = ports.call("GET", "/security-groups/default")["spec"]["rules"]
    more = {"direction": "in", "protocol": "tcp", "port_min": 8081}
    wish = [{k: v for k, v in r.items() if v is not None} for r in rules]
    ports.call("PATCH", "/security-groups/default", {"rules": [*wish, more]})
    assert soon(lambda: answers(address, 8081)) < 2.0  # a connection that was dropped is tried again after one second
    ports.call("PATCH", "/security-groups/default", {"rules": wish})
    soon(lambda: not answers(address, 8081))
    assert answers(address)
