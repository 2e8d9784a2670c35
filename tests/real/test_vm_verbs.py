"""Reset, suspend, crash policy, size, media and rescue on one real guest, judged from inside it or by the host's kernel."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from nubila.agent import iso9660
from tests.drivers import driver_guests
from tests.real.conftest import USER_DATA, Guest

pytestmark = pytest.mark.real


def settings(vm: Guest, **body: Any) -> dict[str, Any]:
    answer: dict[str, Any] = vm.cloud.call(0, "PATCH", f"/v1/vms/{vm.name}?wait=60", body, vm.cloud.tokens["user"])
    return answer


def panic(vm: Guest) -> None:
    with contextlib.suppress(ConnectionError, subprocess.TimeoutExpired):
        vm.ssh("echo 1 > /proc/sys/kernel/sysrq; (sleep 1; echo c > /proc/sysrq-trigger) >/dev/null 2>&1 &", 10)


def booted_anew(vm: Guest, before: str, within_s: float = 400) -> None:
    """Emulated, a machine that is reset boots ten times as slowly as one that is started."""
    deadline = time.monotonic() + within_s
    while vm.reachable(within_s) == before:
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_what_was_given_reads_back(vm: Guest) -> None:
    user = vm.cloud.tokens["user"]
    assert vm.cloud.call(0, "GET", "/v1/vms/verbs/user-data", token=user)["user_data"] == USER_DATA
    assert vm.cloud.call(0, "GET", "/v1/vms/verbs/boot-string", token=user)["boot_string"] == "boot=me"
    deadline = time.monotonic() + 60
    while vm.ssh("cat /run/marker") != "user-data-ran":
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert vm.ssh("wget -qO- http://169.254.169.254/nubila/v1/boot-string") == "boot=me"


def test_suspended_it_stands_still_and_goes_on_where_it_was(vm: Guest) -> None:
    before, qemu = vm.reachable(), vm.qemu()
    vm.ssh("echo kept > /run/in-memory-only")
    vm.ssh("(while :; do cut -d' ' -f1 /proc/uptime >> /run/ticks; sleep 0.2; done) >/dev/null 2>&1 &")
    time.sleep(1)
    vm.verb("POST", "/suspend")
    assert qemu is not None
    used = cpu_s(qemu)
    time.sleep(6)
    assert cpu_s(qemu) - used < 0.5  # it does nothing at all
    with pytest.raises((ConnectionError, subprocess.TimeoutExpired)):
        vm.ssh("true", 4)
    vm.verb("POST", "/resume")
    assert (vm.reachable(), vm.qemu()) == (before, qemu)
    assert vm.ssh("cat /run/in-memory-only") == "kept"
    time.sleep(2)
    ticks = [float(t) for t in vm.ssh("cat /run/ticks").split()]
    assert max(b - a for a, b in itertools.pairwise(ticks)) < 5  # its own clock stood still too
    vm.ssh("pkill -f ticks; true")


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.long
def test_reset_boots_it_at_once_without_asking(vm: Guest) -> None:
    before, qemu = vm.reachable(), vm.qemu()
    vm.verb("POST", "/reset")
    booted_anew(vm, before)
    assert vm.qemu() == qemu, vm.shown()["status"]  # the button, not a new machine
    assert vm.shown()["status"]["resets"] == vm.shown()["spec"]["resets"] > 0


def mem_total_mib(vm: Guest) -> int:
    return int(vm.ssh("awk '/MemTotal/ {print $2}' /proc/meminfo")) // 1024


def test_size_changes_live_where_it_can(vm: Guest) -> None:
    before, qemu = vm.reachable(), vm.qemu()
    cores, memory = int(vm.ssh("nproc")), mem_total_mib(vm)
    booted = vm.shown()["status"]["memory_max_mib"]
    assert vm.shown()["status"]["cores"] == cores == 1
    plan = vm.cloud.call(
        0, "PATCH", "/v1/vms/verbs?plan=1", {"cores": 2, "memory_mib": booted - 40}, vm.cloud.tokens["user"]
    )
    assert [plan["effects"][0]["details"][c]["when"][:3] for c in ("cores", "memory_mib")] == ["now", "now"]
    assert settings(vm, cores=2, memory_mib=booted - 40)["operation"]["state"] == "done"
    deadline = time.monotonic() + 60
    while True:  # a core is offered; whether it is used is the guest's affair
        vm.ssh("for c in /sys/devices/system/cpu/cpu*/online; do echo 1 > $c; done; true")
        if int(vm.ssh("nproc")) == 2 and mem_total_mib(vm) <= memory - 35:
            break
        assert time.monotonic() < deadline, (vm.ssh("nproc"), mem_total_mib(vm), vm.shown()["status"])
        time.sleep(1)
    settings(vm, memory_mib=booted)
    while mem_total_mib(vm) < memory - 2:
        assert time.monotonic() < deadline + 30, vm.shown()["status"]
        time.sleep(1)
    settings(vm, cores=1)
    while int(vm.ssh("nproc")) > 1:
        assert time.monotonic() < deadline + 60, vm.shown()["status"]  # a core that was plugged comes out again
        time.sleep(1)
    while (vm.shown()["status"]["cores"], vm.shown()["status"]["at_next_start"]) != (1, []):
        assert time.monotonic() < deadline + 90, vm.shown()["status"]  # and its node says so
        time.sleep(1)
    assert (vm.reachable(), vm.qemu()) == (before, qemu)


@pytest.mark.long
def test_size_changes_otherwise_at_the_next_start(vm: Guest) -> None:
    qemu, memory, booted = vm.qemu(), mem_total_mib(vm), vm.shown()["status"]["memory_max_mib"]
    plan = vm.cloud.call(0, "PATCH", "/v1/vms/verbs?plan=1", {"memory_mib": booted + 64}, vm.cloud.tokens["user"])
    assert "start" in plan["effects"][0]["details"]["memory_mib"]["when"]
    assert settings(vm, memory_mib=booted + 64)["operation"]["state"] == "done"
    deadline = time.monotonic() + 60
    while vm.shown()["status"]["at_next_start"] != ["memory_mib"]:
        assert time.monotonic() < deadline, vm.shown()["status"]
        time.sleep(1)
    assert vm.qemu() == qemu
    assert abs(mem_total_mib(vm) - memory) < 5
    vm.verb("POST", "/stop", {"mode": "hard"})
    vm.verb("POST", "/start")
    vm.reachable()
    assert int(vm.ssh("nproc")) == 1
    assert mem_total_mib(vm) > memory + 50
    assert vm.until("running")["status"]["at_next_start"] == []


def test_an_iso_is_inserted_read_and_ejected_while_it_runs(vm: Guest) -> None:
    user = vm.cloud.tokens["user"]
    before = vm.reachable()
    content = os.urandom(100_000)
    vm.cloud.call(0, "POST", "/v1/images", {"name": "disc", "format": "iso"}, user)
    vm.cloud.call(0, "PUT", "/v1/images/disc/content", token=user, raw=iso9660.image("DISC", {"file": content}))
    vm.verb("POST", "/insert", {"image": "disc"})
    read = "for d in /dev/sr?; do mount -t iso9660 -o ro $d /mnt 2>/dev/null || continue; md5sum /mnt/file; umount /mnt; done"
    deadline = time.monotonic() + 30
    while hashlib.md5(content, usedforsecurity=False).hexdigest() not in vm.ssh(read):
        assert time.monotonic() < deadline
        time.sleep(1)
    vm.ssh("mount -t iso9660 -o ro /dev/sr1 /mnt || mount -t iso9660 -o ro /dev/sr0 /mnt")  # its drive is locked
    vm.verb("POST", "/eject")
    vm.ssh("umount /mnt; true")
    assert hashlib.md5(content, usedforsecurity=False).hexdigest() not in vm.ssh(f"{read}; true")
    assert vm.reachable() == before


def refused(vm: Guest, method: str, path: str, body: Any = None) -> str:
    with pytest.raises(RuntimeError, match=r": 409 |: 403 ") as told:
        vm.cloud.call(0, method, f"/v1/vms/{vm.name}{path}", body, vm.cloud.tokens["user"])
    return str(told.value)


def test_protected_or_held_it_runs_on(vm: Guest) -> None:
    before = vm.reachable()
    settings(vm, protected=True)
    assert "protected" in refused(vm, "DELETE", "")
    settings(vm, protected=False)
    vm.cloud.call(0, "POST", "/v1/vms/verbs/hold", {"reason": "evidence"}, vm.cloud.tokens["user"])
    for method, path, body in (("POST", "/stop", {}), ("POST", "/reset", None), ("DELETE", "", None)):
        assert "evidence" in refused(vm, method, path, body)
    vm.cloud.call(0, "POST", "/v1/vms/verbs/unhold", token=vm.cloud.tokens["user"])
    assert vm.reachable() == before
    settings(vm, labels={"held": "no"})  # and now it goes
    assert vm.shown()["labels"] == {"held": "no"}


def heard(vm: Guest) -> int:
    """How often the guest of the rescue ISO began to run: it says so on the console, and can do nothing else."""
    return vm.console().count("BOOT SECTOR RUNS")


def hears(vm: Guest, times: int) -> None:
    deadline = time.monotonic() + 60
    while heard(vm) != times:
        assert time.monotonic() < deadline, (times, vm.console()[-300:])
        time.sleep(0.5)


@pytest.mark.long
def test_it_boots_from_an_iso_in_rescue_or_by_its_order_and_then_from_its_disk_again(vm: Guest, tmp_path: Path) -> None:
    user, before = vm.cloud.tokens["user"], vm.reachable()
    driver_guests.write_iso(tmp_path / "iso", driver_guests.DEAF)
    vm.cloud.call(0, "POST", "/v1/images", {"name": "rescue", "format": "iso"}, user)
    vm.cloud.call(0, "PUT", "/v1/images/rescue/content", token=user, raw=(tmp_path / "iso").read_bytes())
    vm.verb("POST", "/insert", {"image": "rescue"})
    settings(vm, boot=["cdrom", "disk"])
    assert vm.reachable() == before  # at its next start
    vm.verb("POST", "/stop", {"mode": "hard"})
    count = heard(vm)
    vm.verb("POST", "/start")
    hears(vm, count + 1)
    vm.verb("POST", "/stop", {"mode": "hard"})
    settings(vm, boot=["disk"])
    vm.verb("POST", "/eject")
    count = heard(vm)
    vm.verb("POST", "/rescue", {"image": "rescue"})
    hears(vm, count + 1)
    vm.verb("POST", "/stop", {"mode": "hard"})
    vm.verb("POST", "/unrescue")
    vm.verb("POST", "/start")
    assert vm.reachable() != before
    assert vm.shown()["spec"]["media"] is None


@pytest.mark.long
def test_a_panicked_guest_is_preserved_and_starts_again_when_stopped(vm: Guest) -> None:
    settings(vm, on_crash="preserve")
    vm.verb("POST", "/stop", {"mode": "hard"})
    vm.verb("POST", "/start")
    before, qemu = vm.reachable(), vm.qemu()
    panic(vm)
    shown = vm.until("crashed", 60)
    assert "panicked" in shown["status"]["reason"]
    assert "panicked" in shown["status"]["last_crash"]
    assert vm.qemu() == qemu  # still there, to be looked at
    assert "sysrq triggered crash" in vm.console()
    vm.verb("POST", "/stop", {"mode": "clean"})  # it cannot hear: ended at once
    assert vm.qemu() is None
    settings(vm, on_crash="restart")
    vm.verb("POST", "/start")
    assert vm.reachable() != before


@pytest.mark.long
def test_a_panicked_guest_is_started_again(vm: Guest) -> None:
    before, qemu = vm.reachable(), vm.qemu()
    panic(vm)
    deadline = time.monotonic() + 60
    while vm.qemu() in (None, qemu):
        assert time.monotonic() < deadline, vm.shown()["status"]
        time.sleep(0.3)
    assert vm.reachable() != before
    assert "panicked" in vm.shown()["status"]["last_crash"]


@pytest.mark.long
def test_by_policy_a_crashed_machine_stays_down_and_says_why(vm: Guest) -> None:
    settings(vm, on_crash="stop")
    qemu = vm.qemu()
    assert qemu is not None
    os.kill(qemu, signal.SIGKILL)
    shown = vm.until("stopped", 30)
    assert "crash policy" in shown["status"]["reason"]
    time.sleep(4)
    assert vm.qemu() is None
    settings(vm, on_crash="restart")
    vm.verb("POST", "/start")
    vm.reachable()


@pytest.mark.long
def test_a_vm_killed_while_suspended_is_stopped_with_the_reason(vm: Guest) -> None:
    vm.verb("POST", "/suspend")
    qemu = vm.qemu()
    assert qemu is not None
    os.kill(qemu, signal.SIGKILL)
    shown = vm.until("stopped", 30)
    assert "suspended" in shown["status"]["reason"]
    time.sleep(3)
    assert vm.qemu() is None
    vm.verb("POST", "/start")
    vm.reachable()
