"""The rig of the fake hypervisor."""

from __future__ import annotations

import uuid
from pathlib import Path

import driver_guests
from driver_rig import UID, vm_id

from nubila.drivers.hypervisor.base import Domain, DomainDisk, DomainNic, Hypervisor
from nubila.drivers.hypervisor.fake import FakeHypervisor
from nubila.drivers.hypervisor.fake_world import HypervisorWorld
from nubila.drivers.storage.base import Volume
from nubila.drivers.storage.fake import FakeStorage, StorageWorld


class FakeRig:
    method = "qemu"

    def __init__(self, place: Path):
        self._path = place / "world"
        self.driver = FakeHypervisor(HypervisorWorld(self._path))
        self._ticks = 0

    def again(self) -> Hypervisor:
        """A new process: it knows what the journal says."""
        return FakeHypervisor(HypervisorWorld(self._path))

    def domain(self, number: int, kind: str = driver_guests.DEAF, epoch: int = 1) -> Domain:
        if kind == driver_guests.DEAF:
            self.driver.world.deaf.add(vm_id(number))
            self.driver.world.clinging.add(vm_id(number))
        return Domain(
            vm_id=vm_id(number), uuid=str(uuid.UUID(int=number)), epoch=epoch, virt_method="qemu", cores=1,
            memory_mib=64, directory="/nonexistent", uid=UID, gid=UID, disks=(), nics=(),
        )  # fmt: skip

    def disk(self, number: int, volume_id: str) -> DomainDisk:
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
