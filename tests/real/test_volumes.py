"""Volumes on a real guest, judged from inside it: they appear, hold bytes, grow, are slowed down, go back in time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.real.conftest import Cloud, Guest

pytestmark = [pytest.mark.real, pytest.mark.long]

CANARY = "canary-0f6e1b"


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
    vm.reachable()
    return Volumes(vm)


def write(vm: Guest, device: str, text: str, mib: int = 1) -> None:
    vm.ssh(f"echo {text} | dd of=/dev/{device} bs=512 seek={mib * 2048} conv=notrunc,fsync 2>/dev/null; sync")


def read(vm: Guest, device: str, mib: int = 1) -> str:
    vm.ssh("echo 3 > /proc/sys/vm/drop_caches")
    return vm.ssh(f"dd if=/dev/{device} bs=512 skip={mib * 2048} count=1 2>/dev/null | tr -d '\\0'")


def sectors(vm: Guest, device: str) -> int:
    return int(vm.ssh(f"cat /sys/block/{device}/size"))


@pytest.mark.parametrize("format_", ["qcow2", pytest.param("raw")])
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


def moving(vm: Guest, device: str, limit: str, count: int, size: str) -> float:
    """Seconds, by the guest's own clock, for so many direct reads or writes of that size."""
    clock = "cut -d' ' -f1 /proc/uptime"
    ends = (
        f"if=/dev/{device} of=/dev/null iflag" if limit.startswith("read") else f"if=/dev/zero of=/dev/{device} oflag"
    )
    dd = f"dd {ends}=direct bs={size} count={count} 2>/dev/null"
    begin, end = vm.ssh(f"{clock}; {dd}; {clock}", 90).split()
    return float(end) - float(begin)


@pytest.mark.parametrize(
    ("limit", "rate", "size", "unit"),
    [
        ("write_bytes", 2, "1M", 1 << 20),
        pytest.param("read_iops", 40, "4k", 1),
        pytest.param("write_iops", 40, "4k", 1),
        pytest.param("read_bytes", 2, "1M", 1 << 20),
    ],
)
def test_limits_hold_at_once_burst_after_a_rest_and_are_lifted(
    vm: Guest, volumes: Volumes, limit: str, rate: int, size: str, unit: int
) -> None:
    """What takes `count / rate` seconds under the limit: less without it, less within a burst, and that long after it."""
    name = limit.replace("_", "-")
    made = volumes.make(name, size_gib=1, format="raw")
    volumes.attach(name)
    device, count = volumes.device(made), 4 * rate
    free = moving(vm, device, limit, count, size)
    volumes.call("PATCH", f"/volumes/{name}", {"limits": {limit: rate * unit}})
    slow = moving(vm, device, limit, count, size)
    burst = {limit: rate * unit, f"{limit}_burst": 6 * rate * unit, "burst_s": 1}
    volumes.call("PATCH", f"/volumes/{name}", {"limits": burst})
    time.sleep(2)
    quick = moving(vm, device, limit, count, size)
    moving(vm, device, limit, count, size)  # the rest of what a burst may be
    after = moving(vm, device, limit, count, size)
    volumes.call("PATCH", f"/volumes/{name}", {"limits": {}})
    again = moving(vm, device, limit, count, size)
    said = f"{limit}, {count} of {size}: {free:.1f} s; at {rate} a second {slow:.1f} s; in a burst {quick:.1f} s, after it "
    print(f"{said}{after:.1f} s; free again {again:.1f} s")
    assert min(slow, after) > 2.5, said
    assert max(free, quick, again) < min(slow, after) / 2, said
    volumes.detach(name)
    volumes.call("DELETE", f"/volumes/{name}")


def test_a_volume_grows_and_changes_its_cache_mode_while_no_guest_has_it(vm: Guest, volumes: Volumes) -> None:
    made = volumes.make("off", size_gib=1)
    volumes.attach("off")
    device = volumes.device(made)
    write(vm, device, CANARY)
    assert vm.ssh(f"cat /sys/block/{device}/queue/write_cache") == "write back"
    volumes.detach("off")
    volumes.call("PATCH", "/volumes/off", {"size_gib": 3, "cache": "writethrough"})
    volumes.attach("off")
    device = volumes.device(made)
    assert (sectors(vm, device), read(vm, device)) == (3 << 21, CANARY)
    assert vm.ssh(f"cat /sys/block/{device}/queue/write_cache") == "write through"
    volumes.detach("off")
    volumes.call("DELETE", "/volumes/off")


def test_a_volume_goes_to_another_vm_with_its_bytes(vm: Guest, volumes: Volumes, cloud: Cloud) -> None:
    other = cloud.create("other")
    other.reachable()
    made = volumes.make("moves", size_gib=1)
    volumes.attach("moves")
    sums = "head -c 4194304 /dev/{} | sha256sum"
    device = volumes.device(made)
    vm.ssh(f"dd if=/dev/urandom of=/dev/{device} bs=1M count=4 conv=fsync 2>/dev/null", 60)
    wrote = vm.ssh(sums.format(device))
    with pytest.raises(RuntimeError, match=" 409 "):
        cloud.made.call(0, "POST", "/v1/volumes/moves/attach", {"vm": "other"}, cloud.made.tokens["user"])
    volumes.detach("moves")
    volumes.attach("moves", "other")
    theirs = Volumes(other)
    assert other.ssh(sums.format(theirs.device(made))) == wrote
    assert made["id"][-20:] not in vm.ssh("cat /sys/block/*/serial 2>/dev/null; true")
    theirs.detach("moves")
    volumes.call("DELETE", "/volumes/moves")
    other.verb("DELETE")


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
