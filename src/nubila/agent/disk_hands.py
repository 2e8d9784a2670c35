"""Carries out what vms' lanes do with disks, in worker threads, and holds the lock of each volume of this node.

Who acts on a volume has its lock: the start of a vm, plugging, and every step of the volume's own lane.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

from nubila.drivers import DriverError
from nubila.drivers.hypervisor.base import DomainDisk, Hypervisor
from nubila.drivers.storage.base import Storage
from nubila.drivers.storage.base import Volume as Wish
from nubila.protocol import Disk

WAIT_S = 10.0
STILL = "the guest has not let go of the disk yet"


class DiskHands:
    def __init__(self, hypervisor: Hypervisor, storage: Storage, end: Callable[[str, int], None]):
        """`end` writes down, before it comes back, that an attachment of a volume has ended."""
        self._hypervisor, self._storage, self._end = hypervisor, storage, end
        self._locks: dict[str, threading.Lock] = {}
        self.obstacle: Callable[[str, int], str | None] = lambda volume_id, epoch: None

    @contextlib.contextmanager
    def holding(self, volume_ids: Sequence[str], wait_s: float = WAIT_S) -> Iterator[None]:
        """In the order of ids, so that no two wait for each other; raises when something long is being done."""
        with contextlib.ExitStack() as held:
            for volume_id in sorted(set(volume_ids)):
                lock = self._locks.setdefault(volume_id, threading.Lock())
                if not lock.acquire(timeout=wait_s):
                    raise DriverError(f"{volume_id} is being worked on")
                held.callback(lock.release)
            yield

    @contextlib.contextmanager
    def opening(self, disks: Sequence[tuple[str, int]]) -> Iterator[None]:
        """For a vm that is about to open these volumes under these epochs."""
        with self.holding([volume_id for volume_id, _ in disks]):
            for volume_id, epoch in disks:
                reason = self.obstacle(volume_id, epoch)
                if reason is not None:
                    raise DriverError(reason)
            yield

    def ensure(self, wish: Wish) -> str:
        with self.holding([wish.volume_id]):
            return self._storage.ensure_volume(wish)

    def remove(self, volume_id: str) -> None:
        with self.holding([volume_id]):
            self._storage.remove_volume(volume_id)

    def plug(self, vm_id: str, disk: Disk, wish: DomainDisk) -> str | None:
        """The reason why it could not be done: the vm runs on, and is not said to fail for it."""
        try:
            with self.opening([(disk.volume_id, disk.epoch)]):
                self._hypervisor.attach_disk(vm_id, wish)
        except DriverError as e:
            return e.reason
        return None

    def unplug(self, vm_id: str, disk: Disk) -> str | None:
        try:
            with self.holding([disk.volume_id]):
                return None if self._hypervisor.detach_disk(vm_id, disk.volume_id) else STILL
        except DriverError as e:
            return e.reason

    def tune(self, vm_id: str, wish: DomainDisk) -> str | None:
        try:
            with self.holding([wish.volume_id]):
                self._hypervisor.tune_disk(vm_id, wish)
        except DriverError as e:
            return e.reason
        return None

    def release(self, disk: Disk) -> str | None:
        """What comes back as None is the proof: nobody has it open, and here nobody will under this epoch."""
        try:
            with self.holding([disk.volume_id]):
                if self.holder(disk.volume_id) is not None or not self._storage.is_free(disk.volume_id):
                    return "somebody still has the disk open"
                self._storage.disown_volume(disk.volume_id)
                self._end(disk.volume_id, disk.epoch)
        except DriverError as e:
            return e.reason
        return None

    def holder(self, volume_id: str) -> str | None:
        """The running vm that has it open, asked of the hypervisor now."""
        for domain in self._hypervisor.observe().domains:
            if domain.running and domain.disks is None:
                raise DriverError("it is not known yet which disks the vms of this node have open")
            if domain.running and volume_id in (domain.disks or {}):
                return domain.vm_id
        return None
