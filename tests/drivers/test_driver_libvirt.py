"""What only the libvirt driver promises: its isolation, its bounded console, and that it outlives its own parts."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import driver_guests
import msgspec
import pytest
from driver_rig import UID, found, wait_for
from driver_rig_libvirt import LibvirtRig

from nubila.drivers import DriverError
from nubila.drivers.hypervisor.base import Domain

pytestmark = pytest.mark.real
LIMIT_BYTES = 64 << 10
PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def rig(place: Path) -> Iterator[LibvirtRig]:
    rig = LibvirtRig(place, console_log_max_bytes=LIMIT_BYTES)
    yield rig
    rig.done()


@pytest.fixture
def running(rig: LibvirtRig) -> Iterator[Domain]:
    wish = rig.domain(1)
    rig.driver.start(wish)
    yield wish
    rig.driver.remove(wish.vm_id)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _listening_inodes() -> set[str]:
    lines = [line.split() for f in ("tcp", "tcp6") for line in Path(f"/proc/net/{f}").read_text().splitlines()[1:]]
    return {fields[9] for fields in lines if fields[3] == "0A"}


def _sockets(pid: int) -> set[str]:
    links = [os.readlink(f) for f in Path(f"/proc/{pid}/fd").iterdir()]
    return {link[8:-1] for link in links if link.startswith("socket:[")}


def test_qemu_runs_unprivileged_and_under_seccomp(rig: LibvirtRig, running: Domain) -> None:
    status = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{rig.pid(running.vm_id)}/status").read_text().splitlines()
        if ":\t" in line
    )
    assert status["Uid"].split() == [str(UID)] * 4
    assert status["Gid"].split() == [str(UID)] * 4
    assert status["Groups"].split() in ([], [str(UID)])
    assert int(status["CapEff"], 16) == 0
    assert status["Seccomp"] == "2"
    assert status["NoNewPrivs"] == "1"


def test_nothing_listens_on_the_network(rig: LibvirtRig, running: Domain) -> None:
    listening = _listening_inodes()
    daemons = [p for p in (rig.driver.daemons._libvirtd.pid(), rig.driver.daemons._virtlogd.pid()) if p is not None]
    assert len(daemons) == 2
    for pid in (*daemons, rig.pid(running.vm_id)):
        assert not _sockets(pid) & listening
    assert Path(running.directory, "vnc.sock").is_socket()


def test_only_root_may_connect(rig: LibvirtRig) -> None:
    rig.driver.observe()
    for sock in rig.driver.daemons.run.glob("*-sock*"):
        assert sock.stat().st_mode & 0o077 == 0, sock
        assert sock.stat().st_uid == 0


def test_the_machine_sees_none_of_it(rig: LibvirtRig, running: Domain) -> None:
    assert str(rig.place) not in Path("/proc/self/mounts").read_text()
    assert not Path("/run/libvirt/libvirt-sock").exists()
    assert "libvirt-qemu" not in Path("/etc/passwd").read_text()


def test_a_flooding_guest_cannot_fill_the_disk(rig: LibvirtRig) -> None:
    wish = rig.domain(2, driver_guests.FLOODING)
    rig.driver.start(wish)
    log = rig.driver.daemons.console_dir / f"{wish.vm_id}.log"
    aside = log.with_name(log.name + ".0")
    wait_for(aside.exists)
    moved: set[int] = set()
    limit = time.monotonic() + PATIENCE_S
    while len(moved) < 4:  # the log was moved aside again and again, and the sum stayed below the limit
        assert time.monotonic() < limit
        now = [stat for stat in (_stat(log), _stat(aside)) if stat is not None]
        assert sum([stat.st_size for stat in now]) <= LIMIT_BYTES
        moved |= {stat.st_ino for stat in now}
        time.sleep(0.01)
    assert sorted(p.name for p in log.parent.glob(f"{wish.vm_id}*")) == [log.name, aside.name]
    assert set(rig.driver.read_console(wish.vm_id, 1000)) == {ord("A")}
    assert len(rig.driver.read_console(wish.vm_id, LIMIT_BYTES)) > LIMIT_BYTES // 4
    rig.driver.remove(wish.vm_id)
    assert not log.exists()
    assert not aside.exists()


def test_domains_outlive_the_daemons(rig: LibvirtRig, running: Domain) -> None:
    before = found(rig.driver, running.vm_id)
    for daemon in (rig.driver.daemons._libvirtd, rig.driver.daemons._virtlogd):
        assert daemon.signal(signal.SIGKILL)
    wait_for(lambda: not rig.driver.daemons.running())

    def restored() -> bool:
        """By a look; one that meets a daemon which is just dying or on its way says so, and the one after it finds it."""
        with contextlib.suppress(DriverError):
            return found(rig.driver, running.vm_id) == before and rig.driver.daemons.running()
        return False

    wait_for(restored)
    rig.driver.start(running)
    assert found(rig.driver, running.vm_id) == before


def test_a_new_driver_finds_the_daemons(rig: LibvirtRig) -> None:
    rig.driver.observe()
    adopted = rig.again()
    adopted.observe()
    assert adopted.daemons._libvirtd.pid() == rig.driver.daemons._libvirtd.pid()
    adopted.close()


def test_a_signal_from_outside_is_not_the_guests_wish(rig: LibvirtRig) -> None:
    """As when the machine goes down: such a guest is to run again afterwards."""
    wish = rig.domain(3)
    rig.driver.start(wish)
    os.kill(rig.pid(wish.vm_id), signal.SIGTERM)
    off = wait_for(lambda: (d := found(rig.driver, wish.vm_id)) and not d.running and d)
    assert off.reason != "guest-shutdown"
    rig.driver.remove(wish.vm_id)


def test_a_disk_that_is_not_there_is_told_and_leaves_nothing_running(rig: LibvirtRig) -> None:
    wish = rig.domain(4)
    os.unlink(wish.disks[0].path)
    with pytest.raises(DriverError) as error:
        rig.driver.start(wish)
    assert "disk.raw" in error.value.reason
    domain = found(rig.driver, wish.vm_id)
    assert domain is None or not domain.running
    rig.driver.remove(wish.vm_id)


def test_it_boots_from_the_medium_that_is_first(rig: LibvirtRig) -> None:
    """The disk has nothing to boot from, so what is heard comes from the ISO."""
    wish = rig.domain(6)
    Path(wish.disks[0].path).write_bytes(bytes(1 << 20))
    iso = rig.place / "rescue.iso"
    driver_guests.write_iso(iso, driver_guests.DEAF)
    iso.chmod(0o444)
    rig.driver.start(msgspec.structs.replace(wish, media=str(iso)))
    time.sleep(6)
    assert rig.boots(wish.vm_id) == 0  # in the drive, and not in the order
    rig.driver.destroy(wish.vm_id)
    rig.driver.start(msgspec.structs.replace(wish, media=str(iso), boot=("cdrom", "disk")))
    wait_for(lambda: rig.boots(wish.vm_id))
    rig.driver.remove(wish.vm_id)


def test_a_disk_of_another_vm_cannot_be_opened(rig: LibvirtRig) -> None:
    """The kernel refuses it, whatever the definition says: QEMU has no right to it."""
    wish = rig.domain(5)
    os.chown(wish.disks[0].path, UID + 1, UID + 1)
    with pytest.raises(DriverError) as error:
        rig.driver.start(wish)
    assert "Permission denied" in error.value.reason
    rig.driver.remove(wish.vm_id)


def test_mount_points_that_were_made_are_removed_by_the_last_one(place: Path) -> None:
    from nubila.drivers.hypervisor import libvirt_daemon

    at = place / "compiled-in"
    daemons = libvirt_daemon.Daemons(place / "n", place / "r", LIMIT_BYTES)
    (place / "exists").mkdir()
    before = dict(libvirt_daemon._MOUNTS), libvirt_daemon._RUN
    try:
        libvirt_daemon._MOUNTS.clear()
        libvirt_daemon._MOUNTS.update({str(at): "etc", str(place / "exists"): "lib"})
        libvirt_daemon._RUN = str(place / "compiled-in-run")
        daemons.directory.mkdir(parents=True)
        (daemons.directory / "log").mkdir()
        other = libvirt_daemon.Daemons(place / "n2", place / "r2", LIMIT_BYTES)
        (other.directory / "log").mkdir(parents=True)
        daemons._directories()
        daemons._directories()
        other._directories()
        assert at.is_dir()
        mount = ["unshare", "-m", "sh", "-c", 'mount --bind "$0" "$0" && echo mounted && read x', str(at)]
        with subprocess.Popen(mount, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as user:
            assert user.stdout is not None
            assert user.stdout.readline() == b"mounted\n"
            daemons.remove()
            assert at.is_dir()
            user.communicate(b"\n")
        other.remove()
        assert not at.exists()
        assert not (place / "compiled-in-run").exists()
        assert (place / "exists").is_dir()
    finally:
        libvirt_daemon._MOUNTS.clear()
        libvirt_daemon._MOUNTS.update(before[0])
        libvirt_daemon._RUN = before[1]
