"""Running, stopping and forgetting containers: libvirt's part is as for QEMU, the rest is the container's own."""

from __future__ import annotations

import os
import time
from pathlib import Path

import libvirt

from nubila.drivers import DriverError
from nubila.drivers.detached import signalled
from nubila.drivers.hypervisor import lxc_xml
from nubila.drivers.hypervisor.base import Domain
from nubila.drivers.hypervisor.libvirt_power import Power, power_off
from nubila.drivers.hypervisor.libvirt_session import Session, mapped
from nubila.drivers.hypervisor.libvirt_xml import name_of
from nubila.drivers.hypervisor.lxc_guest import Places, first_process, signal_for

_DOWN_WITHIN_S = 300.0  # whoever asked waits as long as he likes, and then forces it
_LOOK_S = 0.05
_SEED_MAX_BYTES = 1 << 20


class LxcPower(Power):
    forgotten = 0

    def __init__(self, session: Session, installation: str, places: Places):
        super().__init__(session, installation)
        self._places = places

    def xml(self, domain: Domain) -> str:
        place = self._places.of(name_of(domain.vm_id, domain.epoch))
        return lxc_xml.build(domain, self._installation, str(place))

    def prepare(self, domain: Domain) -> None:
        place = self._places.make(name_of(domain.vm_id, domain.epoch))
        if domain.seed is not None:
            _copy_seed(Path(domain.seed), place / "seed", lxc_xml.first_id(domain.uid))

    def start(self, domain: Domain) -> None:
        super().start(domain)
        running = self._session.running(domain.vm_id)
        if running is not None:
            self._places.keep_console(running, self._session.console(domain.vm_id))

    def ask_stop(self, vm_id: str, how: str) -> bool:
        """There is no button beside the first process: both ways are its signal."""
        found = self._first(vm_id)
        return found is not None and how in ("agent", "acpi") and _told(found[1], "stop")

    def ask_reboot(self, vm_id: str, how: str) -> bool:
        found = self._first(vm_id)
        if found is None or how not in ("agent", "reset"):
            return False
        running, pid = found
        if how == "agent":
            return _told(pid, "reboot") and _went_down(pid)
        name = running.name()
        try:
            power_off(running)
            self._places.why_ended(name)  # who reads its console ends first, else the next one's is not read
            self._places.note_end(name, "destroyed")
            self._places.make(name)
            running.create()
            self._places.keep_console(running, self._session.console(vm_id))
        except libvirt.libvirtError as e:
            raise mapped(e) from e
        return True

    def destroy(self, vm_id: str) -> None:
        names = self._names(vm_id)
        running = self._session.running(vm_id)
        super().destroy(vm_id)
        for name in names if running is not None else ():
            self._places.note_end(name, "destroyed")

    def remove(self, vm_id: str) -> None:
        names = self._names(vm_id)
        super().remove(vm_id)
        for name in names:
            self._places.remove(name)

    def _names(self, vm_id: str) -> list[str]:
        try:
            return [d.name() for d in self._session.of(self._session.open(), vm_id)]
        except libvirt.libvirtError as e:
            raise mapped(e) from e

    def _first(self, vm_id: str) -> tuple[libvirt.virDomain, int] | None:
        running = self._session.running(vm_id)
        pid = None if running is None else first_process(running)
        return None if running is None or pid is None else (running, pid)


def _told(pid: int, wish: str) -> bool:
    number = signal_for(pid, wish)
    return number is not None and signalled(pid, number)


def _went_down(pid: int) -> bool:
    limit = time.monotonic() + _DOWN_WITHIN_S
    while os.path.exists(f"/proc/{pid}"):
        if time.monotonic() > limit:
            return False
        time.sleep(_LOOK_S)
    return True


def _copy_seed(source: Path, seed: Path, owner: int) -> None:
    """What the agent wrote, where the container's own root alone reads it. The source's directory is the vm's user's, so
    nothing in it is followed."""
    seed.mkdir(exist_ok=True, mode=0o700)
    for old in seed.iterdir():
        old.unlink()
    directory = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for name in sorted(os.listdir(directory)):
            handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
            with os.fdopen(handle, "rb") as file:
                data = file.read(_SEED_MAX_BYTES + 1)
            if len(data) > _SEED_MAX_BYTES:
                raise DriverError("the seed is too large", again=False)
            copy = seed / name
            copy.write_bytes(data)
            os.chown(copy, owner, owner)
            copy.chmod(0o400)
    finally:
        os.close(directory)
    os.chown(seed, owner, owner)
    seed.chmod(0o500)
