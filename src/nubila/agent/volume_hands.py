"""Carries out the steps of volumes' lanes, in worker threads.

Under the volume's lock it is settled whether a vm has it open: then the step goes through that vm's hypervisor, never
beside it.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from nubila.agent import plan_volume as p
from nubila.agent.disk_hands import DiskHands
from nubila.drivers import DriverError
from nubila.drivers.hypervisor.base import Hypervisor
from nubila.drivers.storage.base import Found, Storage
from nubila.drivers.storage.base import Volume as Wish
from nubila.protocol import Volume


class VolumeHands:
    def __init__(self, hypervisor: Hypervisor, storage: Storage, disks: DiskHands, uid_of: Callable[[str], int]):
        """`uid_of` a vm's user; a volume that no vm has belongs to the agent's own."""
        self._hypervisor, self._storage, self._disks, self._uid_of = hypervisor, storage, disks, uid_of
        self._own_uid = os.geteuid()

    def do(self, wanted: Volume, step: p.Step) -> Found | None:
        """One step; returns the volume as it then is."""
        volume_id = wanted.volume_id
        both = [volume_id, *([step.source_volume_id] if isinstance(step, p.Copy) else [])]
        with self._disks.holding(both):
            match step:
                case p.Make():
                    self._storage.ensure_volume(self._wish(wanted))
                case p.Copy(source_id):
                    self._copy(wanted, source_id)
                case p.Remove():
                    if self._disks.holder(volume_id) is not None or not self._storage.is_free(volume_id):
                        raise DriverError("a vm still has the volume open")
                    self._storage.remove_volume(volume_id)
                case p.RollBack(snapshot_id, _):
                    if self._disks.holder(volume_id) is not None:
                        raise DriverError("its vm runs; a volume is rolled back while nobody has it open")
                    self._storage.roll_back(volume_id, snapshot_id)
                case _:
                    self._inside(volume_id, step)
            return self._storage.find(volume_id)

    def _inside(self, volume_id: str, step: p.Step) -> None:
        """What can be done to a volume that is open as well as to one that is not."""
        vm_id = self._disks.holder(volume_id)
        match step:
            case p.Grow(size_gib):
                if vm_id is None:
                    self._storage.grow_volume(volume_id, size_gib)
                else:
                    self._hypervisor.resize_disk(vm_id, volume_id, size_gib)
            case p.TakeSnapshot(snapshot_id):
                if vm_id is None:
                    self._storage.make_snapshot(volume_id, snapshot_id)
                else:
                    self._hypervisor.snapshot_disk(vm_id, volume_id, snapshot_id)
            case p.DropSnapshot(snapshot_id):
                if vm_id is None:
                    self._storage.remove_snapshot(volume_id, snapshot_id)
                else:
                    self._hypervisor.drop_disk_snapshot(vm_id, volume_id, snapshot_id)
            case _:
                raise AssertionError(step)

    def _copy(self, wanted: Volume, source_id: str) -> None:
        wish = self._wish(wanted)
        vm_id = self._disks.holder(source_id)
        if vm_id is None:
            self._storage.copy_volume(source_id, wish)
        elif self._storage.find(wanted.volume_id) is None:
            source = self._storage.find(source_id)
            if source is None:
                raise DriverError("the source is not here")
            uid = self._uid_of(vm_id)
            place = self._storage.begin_copy(
                # QEMU copies between equal sizes only; what the copy is to have more is a step of its own.
                Wish(volume_id=wish.volume_id, format=wish.format, size_gib=source.size_gib, uid=uid, gid=uid)
            )
            self._hypervisor.copy_disk(vm_id, source_id, place, wish.format)
            self._storage.end_copy(wish)

    def _wish(self, wanted: Volume) -> Wish:
        disk = wanted.disk
        return Wish(
            volume_id=wanted.volume_id,
            format=disk.format,
            size_gib=disk.size_gib,
            uid=self._own_uid,
            gid=self._own_uid,
            image_sha256=disk.image_sha256,
            image_format=disk.image_format,
        )
