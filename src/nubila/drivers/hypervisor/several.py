"""The hypervisors of one node as one: a domain goes to the driver that offers its virt method, and is found again there.

The agent knows one hypervisor; this is the one place that knows how many there are. Which driver has a vm is looked up
in what it shows, never remembered beside it.
"""

from __future__ import annotations

from collections.abc import Mapping

from nubila.drivers import DriverError, Leftover, Scan
from nubila.drivers.hypervisor.base import Capabilities, Domain, DomainDisk, DomainNic, Hypervisor, Observed, Shaped


class Several:
    """`drivers` by name, the preferred first. Methods may be called from several threads at once."""

    def __init__(self, drivers: Mapping[str, Hypervisor]):
        self.drivers = dict(drivers)
        self._of: dict[str, Hypervisor] = {}  # vm -> who showed or started it last

    def described(self) -> dict[str, Capabilities]:
        return {name: driver.capabilities() for name, driver in self.drivers.items()}

    def capabilities(self) -> Capabilities:
        """Of the first; all methods that any of them offers."""
        found = list(self.described().values())
        methods = tuple(dict.fromkeys([m for c in found for m in c.virt_methods]))
        return Capabilities(**{f: getattr(found[0], f) for f in found[0].__struct_fields__} | {"virt_methods": methods})

    def scan(self) -> Scan:
        scans = [(name, driver.scan()) for name, driver in self.drivers.items()]
        return Scan(
            leftovers=tuple(left for _, scan in scans for left in scan.leftovers),
            foreign=tuple(dict.fromkeys(f for _, scan in scans for f in scan.foreign)),
        )

    def remove_leftover(self, leftover: Leftover) -> None:
        for driver in self.drivers.values():
            driver.remove_leftover(leftover)

    def observe(self) -> Observed:
        seen = [(driver, driver.observe()) for driver in self.drivers.values()]
        for driver, observed in seen:
            for domain in observed.domains:
                self._of[domain.vm_id] = driver
        return Observed(
            domains=tuple(d for _, observed in seen for d in observed.domains),
            foreign=tuple(f for _, observed in seen for f in observed.foreign),
        )

    def shapes(self) -> tuple[Shaped, ...]:
        return tuple(shaped for driver in self.drivers.values() for shaped in driver.shapes())

    def repair(self, domain: Domain) -> None:
        self._for(domain).repair(domain)

    def rewire(self, domain: Domain) -> None:
        self._for(domain).rewire(domain)

    def start(self, domain: Domain) -> None:
        driver = self._for(domain)
        driver.start(domain)
        self._of[domain.vm_id] = driver

    def ask_stop(self, vm_id: str, how: str) -> bool:
        return self._having(vm_id).ask_stop(vm_id, how)

    def ask_reboot(self, vm_id: str, how: str) -> bool:
        return self._having(vm_id).ask_reboot(vm_id, how)

    def suspend(self, vm_id: str) -> None:
        self._having(vm_id).suspend(vm_id)

    def resume(self, vm_id: str) -> None:
        self._having(vm_id).resume(vm_id)

    def destroy(self, vm_id: str) -> None:
        self._having(vm_id).destroy(vm_id)

    def remove(self, vm_id: str) -> None:
        """Of all of them: whoever has it, nobody has it afterwards."""
        for driver in self.drivers.values():
            driver.remove(vm_id)
        self._of.pop(vm_id, None)

    def read_console(self, vm_id: str, max_bytes: int) -> bytes:
        return self._having(vm_id).read_console(vm_id, max_bytes)

    def attach_nic(self, vm_id: str, nic: DomainNic) -> None:
        self._having(vm_id).attach_nic(vm_id, nic)

    def detach_nic(self, vm_id: str, mac: str) -> bool:
        return self._having(vm_id).detach_nic(vm_id, mac)

    def attach_disk(self, vm_id: str, disk: DomainDisk) -> None:
        self._having(vm_id).attach_disk(vm_id, disk)

    def detach_disk(self, vm_id: str, volume_id: str) -> bool:
        return self._having(vm_id).detach_disk(vm_id, volume_id)

    def tune_disk(self, vm_id: str, disk: DomainDisk) -> None:
        self._having(vm_id).tune_disk(vm_id, disk)

    def resize_disk(self, vm_id: str, volume_id: str, size_gib: int) -> None:
        self._having(vm_id).resize_disk(vm_id, volume_id, size_gib)

    def snapshot_disk(self, vm_id: str, volume_id: str, snapshot_id: str) -> None:
        self._having(vm_id).snapshot_disk(vm_id, volume_id, snapshot_id)

    def drop_disk_snapshot(self, vm_id: str, volume_id: str, snapshot_id: str) -> None:
        self._having(vm_id).drop_disk_snapshot(vm_id, volume_id, snapshot_id)

    def copy_disk(self, vm_id: str, volume_id: str, target: str, format_: str) -> None:
        self._having(vm_id).copy_disk(vm_id, volume_id, target, format_)

    def close(self) -> None:
        for driver in self.drivers.values():
            driver.close()

    def _for(self, domain: Domain) -> Hypervisor:
        for driver in self.drivers.values():
            if domain.virt_method in driver.capabilities().virt_methods:
                return driver
        raise DriverError(f"this node does not offer the virt method {domain.virt_method!r} now", again=True)

    def _having(self, vm_id: str) -> Hypervisor:
        """Whoever has it; when nobody is known to, the others are looked at, and else the first answers."""
        if vm_id not in self._of:
            self.observe()
        return self._of.get(vm_id) or next(iter(self.drivers.values()))
