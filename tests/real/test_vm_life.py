"""Each first verb on a real guest, judged from inside it or by the host's kernel, never by our own status alone."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.real.conftest import Cloud, Guest

pytestmark = pytest.mark.real

SCRIPT = "#!/bin/sh\necho user-data-ran > /run/marker\n"


@pytest.fixture(scope="module")
def vm(cloud: Cloud) -> Guest:
    made = cloud.create("life", user_data=SCRIPT, boot_string="boot=me", labels={"a": "b"})
    made.reachable()
    return made


def host_boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_create_gives_a_guest_of_its_own_with_what_was_asked(vm: Guest) -> None:
    shown = vm.shown()
    assert vm.reachable() != host_boot_id()
    assert vm.ssh("hostname") == "life"
    inside = vm.ssh("ip -4 -o addr show eth0")
    assert all(a in inside for a in shown["addresses"] if ":" not in a)
    assert vm.ssh("wget -qO- http://169.254.169.254/latest/meta-data/instance-id") == shown["id"]
    assert vm.ssh("wget -qO- http://169.254.169.254/nubila/v1/boot-string") == "boot=me"
    assert vm.ssh("cat /run/marker") == "user-data-ran"
    assert int(vm.ssh("nproc")) == 1
    assert "READY" in vm.console()


def test_the_process_is_unprivileged_and_sandboxed(vm: Guest) -> None:
    status = Path(f"/proc/{vm.qemu()}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert int(fields["Uid"].split()[0]) > 1000
    assert fields["Seccomp"].strip() == "2"
    assert int(fields["CapEff"], 16) == 0


def test_reboot_boots_the_same_guest_anew(vm: Guest) -> None:
    before, qemu = vm.reachable(), vm.qemu()
    vm.verb("POST", "/reboot", {})
    deadline = time.monotonic() + 60
    while (after := vm.reachable()) == before:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert after != before
    assert vm.uptime_s() < 60
    assert vm.qemu() == qemu  # a reboot, not a new machine


def test_clean_stop_ends_the_guest_and_start_boots_it_with_its_disk(vm: Guest) -> None:
    before = vm.reachable()
    vm.ssh("echo kept > /data/file")  # not synced: only a clean stop saves it
    vm.verb("POST", "/stop", {"mode": "clean"})
    assert vm.qemu() is None
    vm.verb("POST", "/start")
    assert vm.reachable() != before
    assert vm.ssh("cat /data/file") == "kept"


def test_hard_stop_ends_it_at_once(vm: Guest) -> None:
    before = vm.reachable()
    vm.verb("POST", "/stop", {"mode": "hard"})
    assert vm.qemu() is None
    vm.verb("POST", "/start")
    assert vm.reachable() != before


def test_rename_changes_nothing_inside(vm: Guest) -> None:
    boot_id = vm.reachable()
    vm.cloud.call(0, "PATCH", "/v1/vms/life", {"name": "renamed"}, vm.cloud.tokens["user"])
    vm.name = "renamed"
    assert vm.ssh("hostname") == "life"
    assert vm.reachable() == boot_id


def test_a_guest_that_powers_itself_off_stays_off_until_started(vm: Guest) -> None:
    before = vm.reachable()
    vm.ssh("poweroff")
    shown = vm.until("stopped")
    assert "itself" in shown["status"]["reason"]
    deadline = time.monotonic() + 15
    while vm.shown()["spec"]["power"] != "off":
        assert time.monotonic() < deadline, "the wish did not follow the guest"
        time.sleep(0.3)
    time.sleep(3)
    assert vm.qemu() is None
    vm.verb("POST", "/start")
    assert vm.reachable() != before


def test_a_crashed_machine_is_started_again(vm: Guest) -> None:
    before, qemu = vm.reachable(), vm.qemu()
    assert qemu is not None
    os.kill(qemu, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while vm.qemu() in (None, qemu):
        assert time.monotonic() < deadline, vm.shown()["status"]
        time.sleep(0.3)
    assert vm.reachable() != before


def test_f26_a_killed_agent_adopts_its_guests_without_touching_them(vm: Guest) -> None:
    before, qemu = vm.reachable(), vm.qemu()
    agent = vm.cloud.processes["agent"]
    agent.kill()
    agent.wait()
    vm.cloud.start("agent", "agent")
    deadline = time.monotonic() + 10  # adopted and served within
    while vm.ssh("wget -qO- http://169.254.169.254/latest/meta-data/instance-id", 30) != vm.shown()["id"]:
        assert time.monotonic() < deadline
    assert (vm.reachable(), vm.qemu()) == (before, qemu)
    assert "READY" in vm.console()
    vm.verb("POST", "/stop", {"mode": "hard"})  # the new agent acts on it
    assert vm.qemu() is None
    vm.verb("POST", "/start")
    assert vm.reachable() != before


def test_remove_leaves_nothing_of_it(vm: Guest) -> None:
    shown = vm.shown()
    var = vm.cloud.top / "var/node"
    ports = vm.cloud.call(0, "GET", "/v1/ports", token=vm.cloud.tokens["user"])["items"]
    port = next(p["id"] for p in ports if p["vm_id"] == shown["id"])
    aliases = subprocess.run(["ip", "-d", "link"], capture_output=True, text=True, check=True).stdout
    rules = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
    assert port in aliases
    assert port.rpartition("-")[2][-8:] in rules or shown["addresses"][0] in rules
    assert list(var.rglob(f"*{shown['id']}*"))
    qemu = vm.qemu()
    vm.verb("DELETE")
    assert not Path(f"/proc/{qemu}").exists()
    assert port not in subprocess.run(["ip", "-d", "link"], capture_output=True, text=True, check=True).stdout
    assert (
        shown["addresses"][0]
        not in subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
    )
    deadline = time.monotonic() + 10
    while left := [p for p in var.rglob(f"*{shown['id']}*") if "log" not in p.parts]:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)
