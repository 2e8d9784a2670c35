"""One rig per hypervisor driver: the driver, and a hand behind its back that does to domains what the world does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import driver_containers
import driver_guests

from nubila.drivers.detached import Detached
from nubila.drivers.hypervisor.base import Domain, DomainDisk, DomainNic, Found, Hypervisor, Options
from nubila.drivers.storage import qcow2
from nubila.drivers.storage.base import Volume

UID = 1_900_001
PATIENCE_S = 30.0


def wait_for(what: Callable[[], Any], within_s: float = PATIENCE_S) -> Any:
    limit = time.monotonic() + within_s
    while True:
        got = what()
        if got:
            return got
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.02)


def vm_id(number: int) -> str:
    return f"vm-01{number:024d}"


class Rig(Protocol):
    driver: Hypervisor
    method: str

    def again(self) -> Hypervisor: ...
    def domain(self, number: int, kind: str = driver_guests.DEAF, epoch: int = 1) -> Domain: ...
    def disk(self, number: int, volume_id: str) -> DomainDisk: ...
    def nic(self, number: int) -> DomainNic: ...
    def target(self, number: int) -> str: ...
    def inside(self, volume_id: str) -> tuple[int, tuple[str, ...]]: ...
    def crash(self, vm_id: str) -> None: ...
    def guest_shutdown(self, vm_id: str) -> None: ...
    def panic(self, vm_id: str) -> None: ...
    def boots(self, vm_id: str) -> int: ...
    def ticks(self, vm_id: str) -> int: ...
    def medium(self, name: str) -> str: ...
    def in_drive(self, vm_id: str) -> str | None: ...
    def add_foreign(self, name: str) -> None: ...
    def change(self, vm_id: str) -> None: ...
    def meddle(self, vm_id: str, path: str) -> None: ...
    def has_foreign(self, name: str) -> bool: ...
    def done(self) -> None: ...


def found(driver: Hypervisor, vm_id: str) -> Found | None:
    return next((d for d in driver.observe().domains if d.vm_id == vm_id), None)


class FakeRig:
    method = "qemu"

    def __init__(self, place: Path):
        from nubila.drivers.hypervisor.fake import FakeHypervisor
        from nubila.drivers.hypervisor.fake_world import HypervisorWorld

        self._make, self._make_world = FakeHypervisor, HypervisorWorld
        self._path = place / "world"
        self.driver = FakeHypervisor(HypervisorWorld(self._path))
        self._ticks = 0

    def again(self) -> Hypervisor:
        """A new process: it knows what the journal says."""
        return self._make(self._make_world(self._path))

    def domain(self, number: int, kind: str = driver_guests.DEAF, epoch: int = 1) -> Domain:
        if kind == driver_guests.DEAF:
            self.driver.world.deaf.add(vm_id(number))
            self.driver.world.clinging.add(vm_id(number))
        return Domain(
            vm_id=vm_id(number), uuid=str(uuid.UUID(int=number)), epoch=epoch, virt_method="qemu", cores=1,
            memory_mib=64, directory="/nonexistent", uid=UID, gid=UID, disks=(), nics=(),
        )  # fmt: skip

    def disk(self, number: int, volume_id: str) -> DomainDisk:
        from nubila.drivers.storage.fake import FakeStorage, StorageWorld

        self.disks = StorageWorld()
        self.driver.world.storage = self.disks
        FakeStorage(self.disks).ensure_volume(Volume(volume_id=volume_id, format="qcow2", size_gib=1, uid=UID, gid=UID))
        return DomainDisk(volume_id=volume_id, path="/nonexistent/disk", format="qcow2")

    def nic(self, number: int) -> DomainNic:
        return DomainNic(tap=f"tap{number}", mac=f"52:00:00:00:00:{number:02X}", mtu=1500)

    def target(self, number: int) -> str:
        return "/nonexistent/copy"

    def inside(self, volume_id: str) -> tuple[int, tuple[str, ...]]:
        volume = self.disks.volumes.get(volume_id)
        assert volume is not None
        return volume.size_gib, volume.snapshots

    def crash(self, vm_id: str) -> None:
        self.driver.world.crash(vm_id)

    def guest_shutdown(self, vm_id: str) -> None:
        self.driver.world.guest_shutdown(vm_id)

    def boots(self, vm_id: str) -> int:
        domain = self.driver.world.domains.get(vm_id)
        return domain.boots if domain else 0

    def change(self, vm_id: str) -> None:
        """Somebody names it, lets libvirt start it, and gives it an interface, all behind our back."""
        defined = self.driver.world.domains.get(vm_id)
        assert defined is not None
        assert defined.defined is not None
        nics = tuple(sorted((*defined.defined.nics, "52:54:00:de:ad:01")))
        self.driver.world.change(vm_id, live=True, nics=nics)
        self.driver.world.change(vm_id, title="mine", autostart=True)

    def meddle(self, vm_id: str, path: str) -> None:
        """Somebody puts another ISO in, limits its disk and has it booted from the drive, from its next start on."""
        disk = next(iter(self.driver.world.domains.get(vm_id).disks))  # type: ignore[union-attr]
        self.driver.world.change(vm_id, live=True, media=path, limits=((disk, "write_iops=7"),))
        self.driver.world.change(vm_id, boot=("cdrom", "disk"))

    def panic(self, vm_id: str) -> None:
        self.driver.world.panic(vm_id)

    def ticks(self, vm_id: str) -> int:
        domain = self.driver.world.domains.get(vm_id)
        self._ticks += domain is not None and domain.running and domain.paused is None
        return self._ticks

    def medium(self, name: str) -> str:
        return f"/images/{name}"

    def in_drive(self, vm_id: str) -> str | None:
        domain = self.driver.world.domains.get(vm_id)
        return None if domain is None else domain.media

    def add_foreign(self, name: str) -> None:
        self.driver.world.add_foreign(name)

    def has_foreign(self, name: str) -> bool:
        return name in self.driver.world.foreign

    def done(self) -> None:
        self.driver.close()


class LibvirtRig:
    method = "qemu"

    def __init__(self, place: Path, console_log_max_bytes: int = 1 << 20):
        from nubila.drivers.hypervisor.libvirt import LibvirtHypervisor

        self._make = lambda: LibvirtHypervisor(
            Options(console_log_max_bytes=console_log_max_bytes), place / "node", place / "run", "drivertest"
        )
        self.place = place
        self.taps: list[str] = []
        self.driver = self._make()

    def again(self) -> Hypervisor:
        return self._make()

    def domain(self, number: int, kind: str = driver_guests.DEAF, epoch: int = 1) -> Domain:
        directory = self.place / "vms" / str(number)
        directory.mkdir(parents=True, exist_ok=True)
        disk = directory / "disk.raw"
        driver_guests.write_disk(disk, kind)
        for path in (directory, disk):
            os.chown(path, UID, UID)
        directory.chmod(0o700)
        disk.chmod(0o600)
        return Domain(
            vm_id=vm_id(number), uuid=str(uuid.UUID(int=number << 64 | 0x4000 << 64 | 1)), epoch=epoch,
            virt_method="qemu", cores=1, memory_mib=32, directory=str(directory), uid=UID, gid=UID,
            disks=(DomainDisk(volume_id=f"vol-{number}", path=str(disk), format="raw"),), nics=(),
        )  # fmt: skip

    def disk(self, number: int, volume_id: str) -> DomainDisk:
        path = self.place / "vms" / str(number) / f"{volume_id}.qcow2"
        path.write_bytes(qcow2.empty(1 << 30))
        os.chown(path, UID, UID)
        return DomainDisk(volume_id=volume_id, path=str(path), format="qcow2")

    def nic(self, number: int) -> DomainNic:
        """With a tap of its own, on no bridge."""
        tap = f"nbdrv{number}"
        subprocess.run(["ip", "tuntap", "add", "dev", tap, "mode", "tap", "user", str(UID)], check=True)
        self.taps.append(tap)
        return DomainNic(tap=tap, mac=f"52:00:00:00:00:{number:02X}", mtu=1500)

    def target(self, number: int) -> str:
        path = Path(self.disk(number, "vol-copy").path)
        path.write_bytes(qcow2.empty(2 << 30))
        return str(path)

    def inside(self, volume_id: str) -> tuple[int, tuple[str, ...]]:
        path = next(self.place.rglob(f"{volume_id}.qcow2"))
        with path.open("rb") as file:
            found = qcow2.inside(file)
        assert found is not None
        return found.virtual_bytes >> 30, found.snapshots

    def crash(self, vm_id: str) -> None:
        domain = found(self.driver, vm_id)
        assert domain is not None
        assert domain.pid is not None
        os.kill(domain.pid, signal.SIGKILL)

    def guest_shutdown(self, vm_id: str) -> None:
        """By the guest's own code: its disk says so from the next boot on, and it is booted."""
        self._boot_anew(vm_id, driver_guests.SUICIDAL)

    def panic(self, vm_id: str) -> None:
        self._boot_anew(vm_id, driver_guests.PANICKING)

    def ticks(self, vm_id: str) -> int:
        return self.driver.read_console(vm_id, 1 << 20).count(b".")

    def medium(self, name: str) -> str:
        path = self.place / name
        path.write_bytes(name.encode() * 2048)
        path.chmod(0o444)
        return str(path)

    def in_drive(self, vm_id: str) -> str | None:
        """What QEMU itself says."""
        domain = next(d for d in self._connection().listAllDomains() if d.name().startswith(vm_id))
        monitor = ["virsh", "-q", "-c", self.driver.daemons.uri, "qemu-monitor-command", domain.name()]
        said = subprocess.run(
            [*monitor, json.dumps({"execute": "query-block"})], capture_output=True, text=True, check=True
        )
        drives = [b for b in json.loads(said.stdout)["return"] if "inserted" not in b or b["inserted"]["ro"]]
        assert len(drives) == 1, drives
        inserted = drives[0].get("inserted")
        return None if inserted is None else str(inserted["file"])

    def _boot_anew(self, vm_id: str, kind: str) -> None:
        number = int(vm_id.removeprefix("vm-01"))
        driver_guests.write_disk(self.place / "vms" / str(number) / "disk.raw", kind)
        assert self.driver.ask_reboot(vm_id, "reset")

    def boots(self, vm_id: str) -> int:
        return self.driver.read_console(vm_id, 1 << 20).count(b"BOOT SECTOR RUNS")

    def change(self, vm_id: str) -> None:
        import libvirt

        domain = next(d for d in self._connection().listAllDomains() if d.name().startswith(vm_id))
        both = libvirt.VIR_DOMAIN_AFFECT_CONFIG | libvirt.VIR_DOMAIN_AFFECT_LIVE
        domain.attachDeviceFlags(
            "<interface type='user'><mac address='52:54:00:de:ad:01'/><model type='virtio'/></interface>", both
        )
        domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_TITLE, "mine", None, None, libvirt.VIR_DOMAIN_AFFECT_CONFIG)
        domain.setAutostart(1)

    def meddle(self, vm_id: str, path: str) -> None:
        def virsh(*words: str) -> str:
            done = subprocess.run(
                ["virsh", "-q", "-c", self.driver.daemons.uri, *words], capture_output=True, text=True, check=True
            )
            return done.stdout

        name = next(d.name() for d in self._connection().listAllDomains() if d.name().startswith(vm_id))
        virsh("change-media", name, "sdb", path, "--live", "--config")
        virsh("blkdeviotune", name, "vda", "--write-iops-sec", "7", "--live", "--config")
        xml = virsh("dumpxml", name, "--inactive").replace("<boot order='1'/>", "")
        xml = xml.replace("<target dev='sdb' bus='scsi'/>", "<target dev='sdb' bus='scsi'/><boot order='1'/>")
        xml = xml.replace("<target dev='vda' bus='virtio'/>", "<target dev='vda' bus='virtio'/><boot order='2'/>")
        file = self.place / "meddled.xml"
        file.write_text(xml)
        virsh("define", str(file))

    def add_foreign(self, name: str) -> None:
        self._connection().defineXML(
            f"<domain type='qemu'><name>{name}</name><memory unit='MiB'>16</memory>"
            "<os><type arch='x86_64'>hvm</type></os></domain>"
        )

    def has_foreign(self, name: str) -> bool:
        return name in [d.name() for d in self._connection().listAllDomains()]

    def done(self) -> None:
        for domain in self.driver.observe().domains:
            self.driver.remove(domain.vm_id)
        for domain in self._connection().listAllDomains():
            domain.undefine()
        self.driver.close()
        self.driver.daemons.remove()
        for tap in self.taps:
            subprocess.run(["ip", "link", "del", tap], check=True)

    def _connection(self) -> Any:
        return self.driver.session.open()


class LxcRig:
    """Containers with a root of a few files, whose init does one thing."""

    method = "lxc"

    def __init__(self, place: Path, console_log_max_bytes: int = 1 << 20):
        from nubila.drivers.hypervisor.lxc import LxcHypervisor

        def make() -> LxcHypervisor:
            driver = LxcHypervisor(
                Options(console_log_max_bytes=console_log_max_bytes), place / "node", place / "run", "drivertest"
            )
            driver.use_methods(("lxc",))
            return driver

        self._make = make
        self.place = place
        self.driver = make()

    def again(self) -> Hypervisor:
        return self._make()

    def domain(self, number: int, kind: str = driver_guests.DEAF, epoch: int = 1) -> Domain:
        directory = self.place / "vms" / str(number)
        directory.mkdir(parents=True, exist_ok=True)
        disk = directory / "disk.raw"
        if not disk.exists():
            driver_containers.write_disk(disk, kind)
        directory.chmod(0o700)
        disk.chmod(0o600)
        return Domain(
            vm_id=vm_id(number), uuid=str(uuid.UUID(int=number << 64 | 0x4000 << 64 | 1)), epoch=epoch,
            virt_method="lxc", cores=1, memory_mib=64, directory=str(directory), uid=UID + number, gid=UID + number,
            disks=(DomainDisk(volume_id=f"vol-{number}", path=str(disk), format="raw"),), nics=(),
        )  # fmt: skip

    def disk(self, number: int, volume_id: str) -> DomainDisk:
        raise AssertionError("a container has its root alone")

    def target(self, number: int) -> str:
        raise AssertionError("a container's disk is not copied while it runs")

    def inside(self, volume_id: str) -> tuple[int, tuple[str, ...]]:
        raise AssertionError("a container keeps no snapshots")

    def nic(self, number: int) -> DomainNic:
        raise AssertionError("a container keeps the interfaces that it was started with")

    def medium(self, name: str) -> str:
        raise AssertionError("a container has no drive")

    def in_drive(self, vm_id: str) -> str | None:
        raise AssertionError("a container has no drive")

    def panic(self, vm_id: str) -> None:
        raise AssertionError("a container has no kernel of its own")

    def pid(self, vm_id: str) -> int:
        domain = found(self.driver, vm_id)
        assert domain is not None
        assert domain.pid is not None
        return domain.pid

    def reader(self, domain: Domain) -> Detached:
        """Of its console."""
        return self.driver.places._keeper(f"{domain.vm_id}.e{domain.epoch}")

    def crash(self, vm_id: str) -> None:
        os.kill(self.pid(vm_id), signal.SIGKILL)

    def guest_shutdown(self, vm_id: str) -> None:
        """By the guest's own code, which looks for this file."""
        driver_containers.enter(self.pid(vm_id), "touch /tmp/die")

    def ticks(self, vm_id: str) -> int:
        return self.driver.read_console(vm_id, 1 << 20).count(b".")

    def boots(self, vm_id: str) -> int:
        return self.driver.read_console(vm_id, 1 << 20).count(b"BOOT SECTOR RUNS")

    def change(self, vm_id: str) -> None:
        import libvirt

        domain = next(d for d in self._connection().listAllDomains() if d.name().startswith(vm_id))
        nic = "<interface type='ethernet'><mac address='52:54:00:de:ad:01'/></interface>"
        for part in (libvirt.VIR_DOMAIN_AFFECT_LIVE, libvirt.VIR_DOMAIN_AFFECT_CONFIG):
            domain.attachDeviceFlags(nic, part)
        domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_TITLE, "mine", None, None, libvirt.VIR_DOMAIN_AFFECT_CONFIG)
        domain.setAutostart(1)

    def add_foreign(self, name: str) -> None:
        self._connection().defineXML(
            f"<domain type='lxc'><name>{name}</name><memory unit='MiB'>16</memory>"
            "<os><type>exe</type><init>/sbin/init</init></os></domain>"
        )

    def has_foreign(self, name: str) -> bool:
        return name in [d.name() for d in self._connection().listAllDomains()]

    def done(self) -> None:
        self.driver.remove_all()
        for domain in self._connection().listAllDomains():
            domain.undefine()
        self.driver.close()
        self.driver.daemons.remove()

    def _connection(self) -> Any:
        return self.driver.session.open()


RIGS: dict[str, Callable[[Path], Rig]] = {"fake": FakeRig, "libvirt": LibvirtRig, "lxc": LxcRig}
