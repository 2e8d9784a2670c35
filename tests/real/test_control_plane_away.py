"""Everything but the agent, its libvirtd, dnsmasq and the guests is dead for 90 s: the guests do not notice (I12)."""

from __future__ import annotations

import time

import pytest

from tests.real.conftest import Cloud

pytestmark = pytest.mark.real

AWAY_S = 90


def lease_until(cloud: Cloud) -> float:
    """When the newest DHCP lease ends, by dnsmasq's own file."""
    ends = [
        float(line.split()[0])
        for file in (cloud.made.top / "var/node").rglob("*lease*")
        if file.is_file()
        for line in file.read_text().splitlines()
        if line[:1].isdigit()
    ]
    return max(ends, default=0.0)


def test_guests_live_on_renew_and_read_metadata_while_the_control_plane_is_dead(cloud: Cloud) -> None:
    vm = cloud.create("steady")
    boot_id, qemu, uptime = vm.reachable(), vm.qemu(), vm.uptime_s()
    shown = vm.shown()
    address = next(a for a in shown["addresses"] if ":" not in a)
    lease = lease_until(cloud)
    assert lease > time.time()
    for word in ("public", "internal"):
        cloud.made.processes[word].kill()
        cloud.made.processes[word].wait()
    server = cloud.made.server
    assert server is not None
    server.kill()
    began = time.monotonic()
    # While nobody answers, the address is known and the guest is asked directly.
    vm.shown = lambda: {**shown, "addresses": [address]}  # type: ignore[method-assign]
    agent = cloud.made.processes["agent"]
    time.sleep(20)
    agent.kill()
    agent.wait()
    cloud.made.start("agent", "agent")
    metadata = "wget -qO- http://169.254.169.254/latest/meta-data/instance-id"
    deadline = time.monotonic() + 20
    while (said := vm.ssh(metadata, 30)) != shown["id"]:
        assert time.monotonic() < deadline, said
        time.sleep(0.5)
    while time.monotonic() - began < AWAY_S:
        assert vm.reachable() == boot_id
        time.sleep(5)
    assert vm.ssh(metadata, 30) == shown["id"]
    assert vm.uptime_s() > uptime + AWAY_S - 5
    assert lease_until(cloud) > lease + 30, "the lease was not renewed"
    server.start()
    cloud.made.start("public", "serve", "user", "operator")
    cloud.made.ready(0)
    cloud.made.start("internal", "serve", "internal", "reconcile")
    cloud.made.ready(2)
    del vm.shown
    vm.until("running", 60)
    assert (vm.reachable(), vm.qemu()) == (boot_id, qemu)
    vm.verb("DELETE")
