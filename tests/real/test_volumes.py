"""Volumes on a real guest, judged from inside it: they appear, hold bytes, grow, are slowed down, go back in time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.real.conftest import Cloud, Guest

pytestmark = [pytest.mark.real, pytest.mark.long]

CANARY = "canary-0f6e1b"


@pytest.fixture(scope="module")
def vm(cloud: Cloud) -> Guest:
    made = cloud.create("disks")
    made.reachable()
    return made


class Volumes:
    def __init__(self, vm: Guest):
        self.vm, self.cloud = vm, vm.cloud

    def call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """Do it and wait until its operation is done."""
        answer = self.cloud.call(0, method, f"/v1{path}?wait=60", body, self.cloud.tokens["user"])
        assert answer["operation"]["state"] == "done", answer
        return dict(answer)

    def make(self, name: str, **body: Any) -> dict[str, Any]:
        found: dict[str, Any] = self.call("POST", "/volumes", {"name": name, "for_vm": self.vm.name, **body})["volume"]
        return found

    def attach(self, name: str, vm: str = "") -> None:
        self.call("POST", f"/volumes/{name}/attach", {"vm": vm or self.vm.name})

    def detach(self, name: str) -> None:
        self.call("POST", f"/volumes/{name}/detach")

    def show(self, name: str) -> dict[str, Any]:
        return dict(self.cloud.call(0, "GET", f"/v1/volumes/{name}", token=self.cloud.tokens["user"]))

    def device(self, volume: dict[str, Any]) -> str:
        """The guest's name for it, found by its serial number."""
        serial = volume["id"][-20:]
        deadline = time.monotonic() + 20
        while True:
            said = self.vm.ssh(f"grep -ls {serial} /sys/block/*/serial || true")
            if said:
                return said.split("/")[3]
            assert time.monotonic() < deadline, self.vm.ssh("ls -l /sys/block; cat /sys/block/*/serial")
            time.sleep(0.5)


@pytest.fixture(scope="module")
def volumes(vm: Guest) -> Volumes:
    return Volumes(vm)


def write(vm: Guest, device: str, text: str, mib: int = 1) -> None:
    vm.ssh(f"echo {text} | dd of=/dev/{device} bs=512 seek={mib * 2048} conv=notrunc,fsync 2>/dev/null; sync")


def read(vm: Guest, device: str, mib: int = 1) -> str:
    vm.ssh("echo 3 > /proc/sys/vm/drop_caches")
    return vm.ssh(f"dd if=/dev/{device} bs=512 skip={mib * 2048} count=1 2>/dev/null | tr -d '\\0'")


def sectors(vm: Guest, device: str) -> int:
    return int(vm.ssh(f"cat /sys/block/{device}/size"))


@pytest.mark.parametrize("format_", ["qcow2", "raw"])
def test_a_volume_comes_grows_and_goes_while_the_guest_runs(vm: Guest, volumes: Volumes, format_: str) -> None:
    boot = vm.reachable()
    made = volumes.make(f"live-{format_}", size_gib=1, format=format_)
    volumes.attach(made["name"])
    device = volumes.device(made)
    assert sectors(vm, device) == 1 << 21
    write(vm, device, CANARY)
    assert read(vm, device) == CANARY
    volumes.call("PATCH", f"/volumes/{made['name']}", {"size_gib": 2})
    assert sectors(vm, device) == 2 << 21
    assert read(vm, device) == CANARY
    volumes.detach(made["name"])
    assert made["id"][-20:] not in vm.ssh("cat /sys/block/*/serial 2>/dev/null; true")
    assert volumes.show(made["name"])["status"]["released_epoch"] == 2
    volumes.attach(made["name"])
    assert read(vm, volumes.device(made)) == CANARY
    volumes.detach(made["name"])
    assert vm.reachable() == boot
    volumes.call("DELETE", f"/volumes/{made['name']}")
    assert not list(vm.cloud.top.rglob(f"*{made['id']}*"))


def test_limits_hold_at_once_and_are_lifted(vm: Guest, volumes: Volumes) -> None:
    made = volumes.make("slow", size_gib=1, format="raw")
    volumes.attach("slow")
    device = volumes.device(made)

    def seconds() -> float:
        words = vm.ssh(
            f"cat /proc/uptime; dd if=/dev/zero of=/dev/{device} bs=1M count=16 oflag=direct 2>/dev/null; cat /proc/uptime",
            90,
        ).split()
        return float(words[2]) - float(words[0])

    free = seconds()
    volumes.call("PATCH", "/volumes/slow", {"limits": {"write_bytes": 2 << 20}})
    slow = seconds()
    volumes.call("PATCH", "/volumes/slow", {"limits": {}})
    again = seconds()
    print(f"16 MiB: free {free:.1f} s, at 2 MiB/s {slow:.1f} s, free again {again:.1f} s")
    assert slow > 6
    assert max(free, again) < slow / 2
    volumes.detach("slow")
    volumes.call("DELETE", "/volumes/slow")


def test_a_snapshot_of_a_running_guests_disk_brings_the_old_bytes_back(vm: Guest, volumes: Volumes) -> None:
    made = volumes.make("past", size_gib=1)
    volumes.attach("past")
    device = volumes.device(made)
    write(vm, device, "before")
    volumes.call("POST", "/volumes/past/snapshots", {"name": "then"})
    write(vm, device, "after")
    volumes.call("PATCH", "/volumes/past", {"size_gib": 2})
    assert read(vm, device) == "after"
    volumes.call("POST", "/volumes", {"name": "copy", "source": "past"})  # while its guest runs
    volumes.detach("past")
    volumes.call("POST", "/volumes/past/roll-back", {"snapshot": "then"})
    volumes.attach("past")
    device = volumes.device(made)
    assert read(vm, device) == "before"
    assert sectors(vm, device) == 2 << 21  # the size is the wished one
    volumes.detach("past")
    volumes.attach("copy")
    assert read(vm, volumes.device(volumes.show("copy"))) == "after"
    volumes.detach("copy")
    for path in ("/snapshots/then", "/volumes/past", "/volumes/copy"):
        volumes.call("DELETE", path)


@pytest.mark.parametrize("format_", ["qcow2", "raw"])
def test_a22_nothing_of_a_removed_volume_is_in_the_next(vm: Guest, volumes: Volumes, format_: str) -> None:
    first = volumes.make("first", size_gib=1, format=format_)
    volumes.attach("first")
    vm.ssh(f"yes {CANARY} | head -c 8388608 | dd of=/dev/{volumes.device(first)} bs=1M conv=fsync 2>/dev/null")
    volumes.detach("first")
    file = next(p for p in Path(vm.cloud.top).rglob(f"{first['id']}.*"))
    assert CANARY.encode() in file.read_bytes()[: 16 << 20]  # it was there
    volumes.call("DELETE", "/volumes/first")
    second = volumes.make("second", size_gib=1, format=format_)
    volumes.attach("second")
    device = volumes.device(second)
    assert vm.ssh(f"head -c 67108864 /dev/{device} | tr -d '\\0' | wc -c", 60) == "0"
    volumes.detach("second")
    volumes.call("DELETE", "/volumes/second")


def test_a18_a_header_that_a_guest_writes_into_its_raw_disk_gains_nothing(vm: Guest, volumes: Volumes) -> None:
    """A qcow2 header whose backing file is a file of the host, then everything that opens the disk on the host."""
    made = volumes.make("liar", size_gib=1, format="raw")
    volumes.attach("liar")
    device = volumes.device(made)
    vm.ssh(
        "printf 'QFI\\373\\0\\0\\0\\3\\0\\0\\0\\0\\0\\0\\0\\160\\0\\0\\0\\13\\0\\0\\0\\20\\0\\0\\0\\0\\100\\0\\0\\0'"
        f" | dd of=/dev/{device} bs=512 conv=notrunc,fsync 2>/dev/null;"
        f" printf '/etc/passwd' | dd of=/dev/{device} bs=1 seek=112 conv=notrunc,fsync 2>/dev/null"
    )
    before = vm.ssh(f"head -c 512 /dev/{device} | sha256sum")
    volumes.call("PATCH", "/volumes/liar", {"size_gib": 2})
    volumes.call("POST", "/volumes", {"name": "liars-copy", "source": "liar"})  # through its QEMU
    volumes.detach("liar")
    volumes.call("PATCH", "/volumes/liar", {"size_gib": 3})
    volumes.call("POST", "/volumes", {"name": "liars-copy2", "source": "liar"})  # by qemu-img
    for name in ("liar", "liars-copy", "liars-copy2"):
        volumes.attach(name)
        device = volumes.device(volumes.show(name))
        assert vm.ssh(f"head -c 512 /dev/{device} | sha256sum") == before, name
        assert vm.ssh(f"head -c 1048576 /dev/{device} | grep -c root: || true") == "0", name
        volumes.detach(name)
        volumes.call("DELETE", f"/volumes/{name}")
