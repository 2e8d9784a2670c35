"""The rigs of the two drivers over libvirt: machines whose boot sector, and containers whose init, does one thing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import uuid
from pathlib import Path
from typing import Any

import driver_containers
import driver_guests
from driver_rig import UID, found, vm_id

from nubila.drivers.detached import Detached
from nubila.drivers.hypervisor.base import Domain, DomainDisk, DomainNic, Hypervisor, Options
from nubila.drivers.storage import qcow2


class _OverLibvirt:
    """What both have in common."""

    method: str
    memory_mib: int
    driver: Any

    def __init__(self, place: Path, console_log_max_bytes: int = 1 << 20):
        self.place = place
        self._options = (
            Options(console_log_max_bytes=console_log_max_bytes),
            place / "node",
            place / "run",
            "drivertest",
        )
        self.driver = self.again()

    def again(self) -> Hypervisor:
        raise NotImplementedError

    def domain(self, number: int, kind: str = driver_guests.DEAF, epoch: int = 1) -> Domain:
        directory = self.place / "vms" / str(number)
        directory.mkdir(parents=True, exist_ok=True)
        disk = directory / "disk.raw"
        self.write_disk(disk, kind)
        directory.chmod(0o700)
        disk.chmod(0o600)
        uid = self.uid(number)
        return Domain(
            vm_id=vm_id(number), uuid=str(uuid.UUID(int=number << 64 | 0x4000 << 64 | 1)), epoch=epoch,
            virt_method=self.method, cores=1, memory_mib=self.memory_mib, directory=str(directory), uid=uid, gid=uid,
            disks=(DomainDisk(volume_id=f"vol-{number}", path=str(disk), format="raw"),), nics=(),
        )  # fmt: skip

    def write_disk(self, disk: Path, kind: str) -> None:
        raise NotImplementedError

    def uid(self, number: int) -> int:
        raise NotImplementedError

    def pid(self, vm_id: str) -> int:
        domain = found(self.driver, vm_id)
        assert domain is not None
        assert domain.pid is not None
        return domain.pid

    def crash(self, vm_id: str) -> None:
        os.kill(self.pid(vm_id), signal.SIGKILL)

    def ticks(self, vm_id: str) -> int:
        return self.driver.read_console(vm_id, 1 << 20).count(b".")

    def boots(self, vm_id: str) -> int:
        return self.driver.read_console(vm_id, 1 << 20).count(b"BOOT SECTOR RUNS")

    def change(self, vm_id: str) -> None:
        import libvirt

        domain = self._domain(vm_id)
        self.add_nic(domain)
        domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_TITLE, "mine", None, None, libvirt.VIR_DOMAIN_AFFECT_CONFIG)
        domain.setAutostart(1)

    def add_nic(self, domain: Any) -> None:
        raise NotImplementedError

    def has_foreign(self, name: str) -> bool:
        return name in [d.name() for d in self._connection().listAllDomains()]

    def done(self) -> None:
        for domain in self.driver.observe().domains:
            self.driver.remove(domain.vm_id)
        for domain in self._connection().listAllDomains():
            domain.undefine()
        self.driver.close()
        self.driver.daemons.remove()

    def _connection(self) -> Any:
        return self.driver.session.open()

    def _domain(self, vm_id: str) -> Any:
        return next(d for d in self._connection().listAllDomains() if d.name().startswith(vm_id))


class LibvirtRig(_OverLibvirt):
    method = "qemu"
    memory_mib = 32

    def __init__(self, place: Path, console_log_max_bytes: int = 1 << 20):
        super().__init__(place, console_log_max_bytes)
        self.taps: list[str] = []

    def again(self) -> Hypervisor:
        from nubila.drivers.hypervisor.libvirt import LibvirtHypervisor

        return LibvirtHypervisor(*self._options)

    def write_disk(self, disk: Path, kind: str) -> None:
        driver_guests.write_disk(disk, kind)
        for path in (disk.parent, disk):
            os.chown(path, UID, UID)

    def uid(self, number: int) -> int:
        return UID

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

    def guest_shutdown(self, vm_id: str) -> None:
        """By the guest's own code: its disk says so from the next boot on, and it is booted."""
        self._boot_anew(vm_id, driver_guests.SUICIDAL)

    def panic(self, vm_id: str) -> None:
        self._boot_anew(vm_id, driver_guests.PANICKING)

    def medium(self, name: str) -> str:
        path = self.place / name
        path.write_bytes(name.encode() * 2048)
        path.chmod(0o444)
        return str(path)

    def in_drive(self, vm_id: str) -> str | None:
        """What QEMU itself says."""
        asked = json.dumps({"execute": "query-block"})
        said = self._virsh("qemu-monitor-command", self._domain(vm_id).name(), asked)
        drives = [b for b in json.loads(said)["return"] if "inserted" not in b or b["inserted"]["ro"]]
        assert len(drives) == 1, drives
        inserted = drives[0].get("inserted")
        return None if inserted is None else str(inserted["file"])

    def add_nic(self, domain: Any) -> None:
        import libvirt

        both = libvirt.VIR_DOMAIN_AFFECT_CONFIG | libvirt.VIR_DOMAIN_AFFECT_LIVE
        domain.attachDeviceFlags(
            "<interface type='user'><mac address='52:54:00:de:ad:01'/><model type='virtio'/></interface>", both
        )

    def meddle(self, vm_id: str, path: str) -> None:
        name = self._domain(vm_id).name()
        self._virsh("change-media", name, "sdb", path, "--live", "--config")
        self._virsh("blkdeviotune", name, "vda", "--write-iops-sec", "7", "--live", "--config")
        xml = self._virsh("dumpxml", name, "--inactive").replace("<boot order='1'/>", "")
        xml = xml.replace("<target dev='sdb' bus='scsi'/>", "<target dev='sdb' bus='scsi'/><boot order='1'/>")
        xml = xml.replace("<target dev='vda' bus='virtio'/>", "<target dev='vda' bus='virtio'/><boot order='2'/>")
        file = self.place / "meddled.xml"
        file.write_text(xml)
        self._virsh("define", str(file))

    def add_foreign(self, name: str) -> None:
        self._connection().defineXML(
            f"<domain type='qemu'><name>{name}</name><memory unit='MiB'>16</memory>"
            "<os><type arch='x86_64'>hvm</type></os></domain>"
        )

    def done(self) -> None:
        super().done()
        for tap in self.taps:
            subprocess.run(["ip", "link", "del", tap], check=True)

    def _boot_anew(self, vm_id: str, kind: str) -> None:
        number = int(vm_id.removeprefix("vm-01"))
        driver_guests.write_disk(self.place / "vms" / str(number) / "disk.raw", kind)
        assert self.driver.ask_reboot(vm_id, "reset")

    def _virsh(self, *words: str) -> str:
        return subprocess.run(
            ["virsh", "-q", "-c", self.driver.daemons.uri, *words], capture_output=True, text=True, check=True
        ).stdout


class LxcRig(_OverLibvirt):
    """Containers with a root of a few files. What they cannot have, no case that applies to them asks for."""

    method = "lxc"
    memory_mib = 64

    def again(self) -> Hypervisor:
        from nubila.drivers.hypervisor.lxc import LxcHypervisor

        driver = LxcHypervisor(*self._options)
        driver.use_methods(("lxc",))
        return driver

    def write_disk(self, disk: Path, kind: str) -> None:
        if not disk.exists():
            driver_containers.write_disk(disk, kind)

    def uid(self, number: int) -> int:
        return UID + number

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

    def meddle(self, vm_id: str, path: str) -> None:
        raise AssertionError("a container has no drive")

    def panic(self, vm_id: str) -> None:
        raise AssertionError("a container has no kernel of its own")

    def reader(self, domain: Domain) -> Detached:
        """Of its console."""
        return self.driver.places._keeper(f"{domain.vm_id}.e{domain.epoch}")

    def crash(self, vm_id: str) -> None:
        """Its first process fails."""
        driver_containers.enter(self.pid(vm_id), "touch /tmp/crash")

    def guest_shutdown(self, vm_id: str) -> None:
        """By the guest's own code, which looks for this file."""
        driver_containers.enter(self.pid(vm_id), "touch /tmp/die")

    def add_nic(self, domain: Any) -> None:
        import libvirt

        nic = "<interface type='ethernet'><mac address='52:54:00:de:ad:01'/></interface>"
        for part in (libvirt.VIR_DOMAIN_AFFECT_LIVE, libvirt.VIR_DOMAIN_AFFECT_CONFIG):
            domain.attachDeviceFlags(nic, part)

    def add_foreign(self, name: str) -> None:
        self._connection().defineXML(
            f"<domain type='lxc'><name>{name}</name><memory unit='MiB'>16</memory>"
            "<os><type>exe</type><init>/sbin/init</init></os></domain>"
        )

    def done(self) -> None:
        self.driver.remove_all()
        super().done()
