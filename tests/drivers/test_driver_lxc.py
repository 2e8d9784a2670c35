"""What only the LXC driver promises: whose a container's root is on the host, that it holds its disk alone, and what is left."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import driver_containers
import driver_guests
import msgspec
import pytest
from driver_containers import enter
from driver_rig import found, vm_id, wait_for
from driver_rig_libvirt import LxcRig

from nubila.drivers import CapabilityMissing, DriverError
from nubila.drivers.hypervisor import lxc_xml
from nubila.drivers.hypervisor.base import Domain, DomainDisk
from nubila.drivers.storage import qemu_img

pytestmark = [pytest.mark.real, pytest.mark.long]
LIMIT_BYTES = 64 << 10


@pytest.fixture(scope="module")
def rig(place: Path) -> Iterator[LxcRig]:
    rig = LxcRig(place, console_log_max_bytes=LIMIT_BYTES)
    yield rig
    rig.done()


@pytest.fixture
def running(rig: LxcRig) -> Iterator[Domain]:
    wish = rig.domain(1)
    rig.driver.start(wish)
    wait_for(lambda: rig.boots(wish.vm_id))
    yield wish
    rig.driver.remove(wish.vm_id)


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def test_its_root_is_nobody_on_the_host(rig: LxcRig, running: Domain) -> None:
    pid, first = rig.pid(running.vm_id), lxc_xml.first_id(running.uid)
    assert Path(f"/proc/{pid}/uid_map").read_text().split() == ["0", str(first), "65536"]
    assert Path(f"/proc/{pid}/gid_map").read_text().split() == ["0", str(first), "65536"]
    assert status(pid)["Uid"].split() == [str(first)] * 4
    for kind in ("user", "pid", "mnt", "net", "ipc", "uts"):
        assert os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")
    assert enter(pid, "id -u").split() == ["0"]


def test_what_its_root_may_not(rig: LxcRig, running: Domain) -> None:
    pid = rig.pid(running.vm_id)
    assert "permitted" in enter(pid, "mknod /tmp/loop b 7 0")
    mounts = "mkdir -p /tmp/m; mount -t {} /tmp/m && echo DID && umount /tmp/m"
    assert "DID" in enter(pid, mounts.format("tmpfs none"))
    assert "DID" not in enter(pid, mounts.format("ext4 /dev/loop0") + "; echo h > /proc/sysrq-trigger && echo DID")
    assert enter(pid, "ls /dev/loop0 /dev/kvm /dev/mem /dev/sda /dev/vda 2>/dev/null") == ""
    assert "nubila" not in enter(pid, "cat /proc/mounts | grep /var/tmp/nubila || true")
    before = Path("/proc/sys/kernel/hostname").read_text()
    enter(pid, "hostname taken; echo 1 > /proc/sys/kernel/panic")
    assert Path("/proc/sys/kernel/hostname").read_text() == before


def test_its_limits_are_not_its_own_to_lift_and_its_neighbours_not_its_to_see(rig: LxcRig, running: Domain) -> None:
    other = rig.domain(2)
    rig.driver.start(other)
    pid = rig.pid(running.vm_id)
    limits = [
        p for d in cgroups(pid) for p in d.glob("*") if p.name in ("memory.limit_in_bytes", "memory.max", "cpu.max")
    ]
    before = {p: p.read_text() for p in limits}
    assert str(running.memory_mib << 20) in "".join(before.values())
    places = "$(sed 's,.*:,/sys/fs/cgroup,' /proc/1/cgroup) /sys/fs/cgroup/memory"
    files = "$d/memory.max $d/memory.limit_in_bytes $d/cpu.max"
    said = enter(pid, f"for d in {places}; do for f in {files}; do echo 1073741824 > $f; done; done; echo tried")
    assert "tried" in said
    assert {p: p.read_text() for p in limits} == before
    assert "tried" in enter(pid, "echo tried")
    assert other.vm_id not in enter(pid, "find /sys/fs/cgroup 2>/dev/null; true")
    rig.driver.remove(other.vm_id)


def cgroups(pid: int) -> list[Path]:
    """Where the host keeps its limits."""
    found = []
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        top = Path("/sys/fs/cgroup", names) if names else Path("/sys/fs/cgroup")
        found.append(top / path.lstrip("/"))
    return [d for d in found if d.is_dir()]


def test_it_alone_holds_its_disk(rig: LxcRig, running: Domain) -> None:
    other = rig.domain(2)
    rig.driver.start(other)
    disk = Path(running.disks[0].path)
    assert str(rig.place) not in Path("/proc/self/mounts").read_text()
    assert not qemu_img.is_free(disk)
    holders = [p for p in Path("/proc").glob("[0-9]*") if _mounts(p, running.vm_id)]
    assert holders == [], "its root is mounted in no namespace but its own, where it is '/'"
    asked = ["qemu-img", "resize", "-f", "raw", str(disk), "128M"]
    assert b"lock" in subprocess.run(asked, capture_output=True, check=False).stderr
    rig.driver.destroy(running.vm_id)
    wait_for(lambda: qemu_img.is_free(disk))
    rig.driver.remove(other.vm_id)


def _mounts(process: Path, vm: str) -> bool:
    try:
        return f"containers/{vm}" in (process / "mountinfo").read_text()
    except OSError:
        return False


def test_a_disk_that_is_open_elsewhere_is_not_started_from(rig: LxcRig) -> None:
    wish = rig.domain(3)
    qemu = ["qemu-io", "-f", "raw", wish.disks[0].path]
    with subprocess.Popen(qemu, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as writer:
        wait_for(lambda: not qemu_img.is_free(Path(wish.disks[0].path)))
        with pytest.raises(DriverError, match="open elsewhere"):
            rig.driver.start(wish)
        writer.communicate(b"quit\n")
    rig.driver.start(wish)
    rig.driver.remove(wish.vm_id)


def test_a_flooding_container_cannot_fill_the_disk(rig: LxcRig) -> None:
    wish = rig.domain(4, driver_guests.FLOODING)
    rig.driver.start(wish)
    log = rig.driver.daemons.console_dir / f"{wish.vm_id}.log"
    aside = log.with_name(log.name + ".0")
    wait_for(aside.exists)
    for _ in range(50):
        assert sum([p.stat().st_size for p in (log, aside) if p.exists()]) <= LIMIT_BYTES
    rig.driver.remove(wish.vm_id)
    assert not log.exists()
    assert not aside.exists()


def test_it_outlives_the_daemons_and_its_console_its_reader(rig: LxcRig, running: Domain) -> None:
    before = found(rig.driver, running.vm_id)
    for daemon in (rig.driver.daemons._libvirtd, rig.driver.daemons._virtlogd, rig.reader(running)):
        assert daemon.signal(signal.SIGKILL)
    wait_for(lambda: not rig.driver.daemons.running())
    wait_for(lambda: found(rig.driver, running.vm_id) == before)
    assert wait_for(rig.reader(running).pid)
    enter(rig.pid(running.vm_id), "echo SAID AFTERWARDS > /dev/console")
    wait_for(lambda: b"SAID AFTERWARDS" in rig.driver.read_console(running.vm_id, 4096))


def test_a_reboot_from_inside_boots_it_again(rig: LxcRig) -> None:
    wish = rig.domain(5)
    rig.driver.start(wish)
    first = rig.pid(wish.vm_id)
    wait_for(lambda: rig.boots(wish.vm_id) == 1)
    enter(first, "reboot -f")
    wait_for(lambda: (d := found(rig.driver, wish.vm_id)) and d.running and d.pid not in (None, first))
    wait_for(lambda: rig.boots(wish.vm_id) == 2)
    rig.driver.remove(wish.vm_id)


def test_a_larger_disk_is_seen_at_the_next_start(rig: LxcRig) -> None:
    wish = rig.domain(6)
    rig.driver.start(wish)
    was = os.statvfs(f"/proc/{rig.pid(wish.vm_id)}/root").f_blocks
    rig.driver.destroy(wish.vm_id)
    wait_for(lambda: qemu_img.is_free(Path(wish.disks[0].path)))
    os.truncate(wish.disks[0].path, 2 * driver_containers.SIZE_BYTES)
    rig.driver.start(wish)
    assert os.statvfs(f"/proc/{rig.pid(wish.vm_id)}/root").f_blocks > was * 1.5
    rig.driver.remove(wish.vm_id)


def test_nothing_is_left_and_what_is_left_is_found(rig: LxcRig, running: Domain) -> None:
    name = f"{vm_id(77)}.e1"
    (rig.driver.places.directory / name / "root").mkdir(parents=True)
    (rig.driver.places.directory / "stranger").mkdir()
    scan = rig.driver.scan()
    assert [(left.kind, left.name, left.owner) for left in scan.leftovers if left.owner == vm_id(77)] == [
        ("container", name, vm_id(77))
    ]
    assert ("file", "libvirt/container/stranger") in scan.foreign
    for left in scan.leftovers:
        if left.owner == vm_id(77):
            rig.driver.remove_leftover(left)
    assert not (rig.driver.places.directory / name).exists()
    assert (rig.driver.places.directory / "stranger").exists()
    assert found(rig.driver, running.vm_id) is not None
    (rig.driver.places.directory / "stranger").rmdir()


@pytest.mark.parametrize(
    "change",
    [
        {"media": "/x.iso"}, {"boot": ("cdrom", "disk")}, {"disks": ()},
        {"disks": (DomainDisk(volume_id="vol-1", path="/p", format="qcow2"),)},
    ],
)  # fmt: skip
def test_what_it_cannot_express_is_refused_for_good(rig: LxcRig, change: dict[str, object]) -> None:
    with pytest.raises(CapabilityMissing):
        rig.driver.start(msgspec.structs.replace(rig.domain(8), **change))
