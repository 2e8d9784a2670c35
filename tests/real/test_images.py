"""Images of real guests' disks: made while the guest runs and while it is off, and booted; and a guest whose disk is full."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.installation import until
from tests.real.conftest import Cloud, Guest
from tests.real.test_volumes import Volumes, read, write

pytestmark = [pytest.mark.real, pytest.mark.long]

CANARY = "canary-71c2"
MARK_MIB = 900  # of a boot disk of 1 GiB


@pytest.fixture(scope="module")
def vm(cloud: Cloud) -> Guest:
    made = cloud.create("source")
    made.reachable()
    return made


def image(source: Guest, name: str, **body: Any) -> dict[str, Any]:
    """Made, and waited for."""
    answer = source.cloud.call(
        0, "POST", "/v1/images?wait=120", {"name": name, "format": "qcow2", **body}, source.cloud.tokens["user"]
    )
    assert answer["operation"]["state"] == "done", answer
    found: dict[str, Any] = source.cloud.call(0, "GET", f"/v1/images/{name}", token=source.cloud.tokens["user"])
    assert found["state"] == "ready"
    return found


def test_a_guest_booted_from_the_image_of_another_has_its_bytes(vm: Guest, cloud: Cloud) -> None:
    """First of the running one, then of the same one stopped, with what it wrote in between to the end of its boot disk:
    its files are in memory."""
    write(vm, "vda", f"{CANARY}-running", MARK_MIB)
    image(vm, "live", vm="source")
    write(vm, "vda", f"{CANARY}-stopped", MARK_MIB)
    vm.verb("POST", "/stop", {"timeout_s": 60})
    image(vm, "cold", vm="source")
    for name, mark in (("cold", "stopped"), ("live", "running")):
        copy = cloud.create(f"from-{name}", image=name)
        copy.reachable()
        assert read(copy, "vda", MARK_MIB) == f"{CANARY}-{mark}"
        copy.verb("DELETE")
    vm.verb("POST", "/start")
    vm.reachable()
    assert read(vm, "vda", MARK_MIB) == f"{CANARY}-stopped"
    assert not list((Path(vm.cloud.top) / "var").glob("node/disks/exports/*"))


@pytest.fixture
def small(vm: Guest) -> Iterator[Path]:
    """A file system of 24 MiB, where the VM's QEMU sees it: libvirtd and its children have mounts of their own."""
    place = vm.cloud.top / "small"
    place.mkdir()
    within(vm, "mount", "-t", "tmpfs", "-o", "size=24m,mode=711", "none", str(place))
    try:
        yield place
    finally:
        within(vm, "umount", "--lazy", str(place))
        place.rmdir()


def within(vm: Guest, *words: str) -> None:
    subprocess.run(["nsenter", "-t", str(vm.qemu()), "-m", "--", *words], check=True)


def test_f31_a_guest_whose_disk_is_full_stands_still_and_goes_on(vm: Guest, small: Path) -> None:
    """The disk's file lies on a file system of its own, with room for a third of what the guest writes."""
    volumes = Volumes(vm)
    made = volumes.make("full", size_gib=1)
    file = next(p for p in Path(vm.cloud.top).rglob(f"{made['id']}.qcow2"))
    there = small / file.name
    within(vm, "cp", "--preserve=all", str(file), str(there))
    within(vm, "chown", str(os.stat(f"/proc/{vm.qemu()}").st_uid), str(there))
    within(vm, "mount", "--bind", str(there), str(file))
    try:
        volumes.attach("full")
        device = volumes.device(made)
        write = f"yes {CANARY} | head -c 67108864 | dd of=/dev/{device} bs=1M conv=fsync 2>/dev/null; echo done"
        vm.ssh(f"sh -c '{write} > /tmp/wrote' > /dev/null 2>&1 < /dev/null &")
        shown = vm.until("failed", 60)
        assert (shown["status"]["power"], shown["status"]["paused"]) == ("on", "io-error")
        assert "full" in shown["status"]["reason"]
        pid = vm.qemu()
        within(vm, "mount", "-o", "remount,size=200m", str(small))
        vm.until("running", 60)
        until(lambda: vm.ssh("cat /tmp/wrote 2>/dev/null || true", 20) == "done", 60, 1)
        assert vm.qemu() == pid
        there_now = vm.ssh(f"echo 3 > /proc/sys/vm/drop_caches; head -c 67108864 /dev/{device} | sha256sum", 60)
        assert there_now == vm.ssh(f"yes {CANARY} | head -c 67108864 | sha256sum", 60)
        assert "I/O error" not in vm.ssh("dmesg")  # the guest never learned of it
        volumes.detach("full")
    finally:
        within(vm, "umount", "--lazy", str(file))
    volumes.call("DELETE", "/volumes/full")
