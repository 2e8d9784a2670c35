"""Which vm an address or a MAC on a network belongs to, and what its guest showed of itself first. Called by the core.

Metadata is answered, and a lease understood, by this index alone; it is made from the wishes on disk.
"""

from __future__ import annotations

import time

from nubila.agent import effects
from nubila.agent.lanes import Lanes
from nubila.agent.wish import Wishes
from nubila.drivers.network.base import Lease
from nubila.protocol import Vm

EAGER_S = 60.0  # how long after a change a guest's address is looked for often


class Guests:
    def __init__(self, wishes: Wishes, lanes: Lanes):
        self._wishes, self._lanes = wishes, lanes
        self._addresses: dict[tuple[str, str], str] = {}  # network, address -> vm
        self._of: dict[str, list[tuple[str, str]]] = {}  # vm -> its keys in `_addresses`
        self._macs: dict[tuple[str, str], str] = {}  # network, mac -> vm, until it has its address
        self._changed_s = 0.0

    def add(self, vm: Vm) -> None:
        record = self._wishes.entries[vm.vm_id].record
        self._forget(vm.vm_id)
        for nic in vm.nics:
            for address in nic.addresses:
                self._addresses[(nic.network.network_id, address)] = vm.vm_id
                self._of.setdefault(vm.vm_id, []).append((nic.network.network_id, address))
            if record.addressed_at is None and not vm.gone:
                self._macs[(nic.network.network_id, nic.mac.lower())] = vm.vm_id
                self._changed_s = time.monotonic()

    def drop(self, vm: Vm) -> None:
        self._forget(vm.vm_id)
        for nic in vm.nics:
            self._macs.pop((nic.network.network_id, nic.mac.lower()), None)

    def _forget(self, vm_id: str) -> None:
        """What it was known by; another vm may have one of its addresses by now, and keeps that."""
        for where in self._of.pop(vm_id, ()):
            if self._addresses.get(where) == vm_id:
                del self._addresses[where]

    def who(self, network_id: str, address: str) -> Vm | None:
        """The vm that a packet from there comes from: the rules on its tap let no other send it."""
        vm_id = self._addresses.get((network_id, address))
        entry = self._wishes.entries.get(vm_id) if vm_id else None
        return entry.vm if entry is not None and not entry.vm.gone else None

    def awaited(self) -> bool:
        """A guest's address is expected any moment."""
        return bool(self._macs) and time.monotonic() - self._changed_s < EAGER_S

    def leased(self, leases: tuple[Lease, ...]) -> None:
        if not self._macs:
            return
        for lease in leases:
            vm_id = self._macs.pop((lease.network_id, lease.mac.lower()), None)
            if vm_id is not None:
                self._mark(vm_id, "addressed_at")

    def fetched(self, vm_id: str) -> None:
        self._mark(vm_id, "metadata_at")

    def _mark(self, vm_id: str, field: str) -> None:
        """Only the first time is kept."""
        lane = self._lanes.lanes.get(vm_id)
        if lane is not None and getattr(lane.record, field) is None:
            self._lanes.note(lane, **{field: effects.timestamp()})
            self._lanes.changed(vm_id, soft=True)
