"""The last confirmed wish, on disk: what each vm shall be, its durable counters, and the floor below which answers
are old.

Called by the agent's core in its own thread; `durable` by workers before they act on a counter. One line per change
in one journal, read back whole at the start: a vm's newest line wins. Invariant: what `durable` returned for survives
power loss.
"""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec

from nubila.agent.journal import Journal
from nubila.agent.known import Record
from nubila.agent.plan_volume import Record as VolumeRecord
from nubila.protocol import Group, Seal, Vm, Volume

COMPACT_ABOVE_BYTES = 1 << 20
COMPACT_FACTOR = 4


class Floor(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, order=True):
    """The newest answer that was accepted. Nothing with a lower (fabric_epoch, timeline) is."""

    fabric_epoch: int = 0
    timeline: int = 0
    revision: int = 0
    seal: Seal = Seal()  # the newest one seen: evidence, should the change log be written anew

    @property
    def token(self) -> tuple[int, int]:
        return self.fabric_epoch, self.timeline


class Entry(msgspec.Struct, kw_only=True):
    vm: Vm
    record: Record = Record()
    fabric_epoch: int = 0  # of the answer that confirmed it last


class VolumeEntry(msgspec.Struct, kw_only=True):
    volume: Volume
    record: VolumeRecord = VolumeRecord()
    fabric_epoch: int = 0


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    vm_id: str = ""
    vm: Vm | None = None
    record: Record | None = None
    fabric_epoch: int = 0
    drop: bool = False
    floor: Floor | None = None
    volume_id: str = ""
    volume: Volume | None = None
    volume_record: VolumeRecord | None = None
    ended: int = 0  # the newest attachment of that volume whose end was said
    group: Group | None = None
    drop_group: str = ""


class Wishes:
    def __init__(self, directory: Path):
        self.entries: dict[str, Entry] = {}
        self.volumes: dict[str, VolumeEntry] = {}
        self.floors: dict[str, int] = {}  # volume id -> no vm here opens it under this epoch or an older one
        self.groups: dict[str, Group] = {}  # security groups, by id
        self.floor = Floor()
        self.damaged = 0
        self._journal = Journal(directory / "wishes")
        self._encode = msgspec.json.Encoder().encode
        self._last = 0
        self._appending = threading.Lock()

    def open(self) -> None:
        """Read what was kept."""
        decoder = msgspec.json.Decoder(Line)
        for body in self._journal.open():
            try:
                self._replay(decoder.decode(body))
            except msgspec.MsgspecError:
                self.damaged += 1

    def put(self, vm: Vm, fabric_epoch: int) -> None:
        entry = self.entries.get(vm.vm_id)
        if entry is None:
            self.entries[vm.vm_id] = Entry(vm=vm, fabric_epoch=fabric_epoch)
        elif entry.vm == vm and entry.fabric_epoch == fabric_epoch:
            return
        else:
            entry.vm, entry.fabric_epoch = vm, fabric_epoch
        self._append(Line(vm_id=vm.vm_id, vm=vm, fabric_epoch=fabric_epoch))

    def note(self, vm_id: str, record: Record) -> int:
        """Keep the record; returns the number to give to `durable`."""
        entry = self.entries[vm_id]
        if entry.record != record:
            entry.record = record
            self._append(Line(vm_id=vm_id, record=record))
        return self._last

    def put_volume(self, volume: Volume, fabric_epoch: int) -> None:
        entry = self.volumes.get(volume.volume_id)
        if entry is None:
            self.volumes[volume.volume_id] = VolumeEntry(volume=volume, fabric_epoch=fabric_epoch)
        elif entry.volume == volume and entry.fabric_epoch == fabric_epoch:
            return
        else:
            entry.volume, entry.fabric_epoch = volume, fabric_epoch
        self._append(Line(volume_id=volume.volume_id, volume=volume, fabric_epoch=fabric_epoch))

    def note_volume(self, volume_id: str, record: VolumeRecord) -> None:
        entry = self.volumes[volume_id]
        if entry.record != record:
            entry.record = record
            self._append(Line(volume_id=volume_id, volume_record=record))

    def drop_volume(self, volume_id: str) -> None:
        self.floors.pop(volume_id, None)
        if self.volumes.pop(volume_id, None) is not None:
            self._append(Line(volume_id=volume_id, drop=True))

    def end(self, volume_id: str, epoch: int) -> None:
        """On disk before it is said: no vm here opens the volume under that epoch again. By any thread."""
        if self.floors.get(volume_id, 0) < epoch:
            self.floors[volume_id] = epoch
            self._append(Line(volume_id=volume_id, ended=epoch))
        self.durable(self._last)

    def drop(self, vm_id: str) -> None:
        if self.entries.pop(vm_id, None) is not None:
            self._append(Line(vm_id=vm_id, drop=True))

    def put_group(self, group: Group) -> bool:
        """Whether it is new or another than before."""
        if self.groups.get(group.group_id) == group:
            return False
        self.groups[group.group_id] = group
        self._append(Line(group=group))
        return True

    def drop_group(self, group_id: str) -> None:
        if self.groups.pop(group_id, None) is not None:
            self._append(Line(drop_group=group_id))

    def raise_floor(self, floor: Floor) -> None:
        if floor > self.floor:
            self.floor = floor
            self._append(Line(floor=floor))

    def write(self) -> None:
        """Hand all changes to the kernel; called at the end of each batch."""
        self._journal.write()

    def durable(self, number: int) -> None:
        self._journal.durable(number)

    def compact_if_large(self) -> None:
        """Called when there is nothing better to do."""
        if self._journal.size_bytes < COMPACT_ABOVE_BYTES:
            return
        bodies = [self._encode(Line(floor=self.floor))]
        bodies += [
            self._encode(Line(vm_id=k, vm=e.vm, record=e.record, fabric_epoch=e.fabric_epoch))
            for k, e in self.entries.items()
        ]
        bodies += [
            self._encode(Line(volume_id=k, volume=v.volume, volume_record=v.record, fabric_epoch=v.fabric_epoch))
            for k, v in self.volumes.items()
        ]
        bodies += [self._encode(Line(volume_id=k, ended=epoch)) for k, epoch in self.floors.items()]
        bodies += [self._encode(Line(group=g)) for g in self.groups.values()]
        if self._journal.size_bytes > COMPACT_FACTOR * sum(map(len, bodies)):
            self._journal.compact(bodies)

    def close(self) -> None:
        self._journal.close()

    def _append(self, line: Line) -> None:
        with self._appending:
            self._last = self._journal.append(self._encode(line))

    def _replay(self, line: Line) -> None:
        if line.floor is not None:
            self.floor = max(self.floor, line.floor)
        if line.group is not None:
            self.groups[line.group.group_id] = line.group
        self.groups.pop(line.drop_group, None)
        if line.volume_id:
            return self._replay_volume(line)
        if line.drop:
            self.entries.pop(line.vm_id, None)
            return
        entry = self.entries.get(line.vm_id)
        if line.vm is not None:
            if entry is None:
                entry = self.entries[line.vm_id] = Entry(vm=line.vm)
            entry.vm, entry.fabric_epoch = line.vm, line.fabric_epoch
        if line.record is not None and entry is not None:
            entry.record = line.record

    def _replay_volume(self, line: Line) -> None:
        if line.drop:
            self.volumes.pop(line.volume_id, None)
            self.floors.pop(line.volume_id, None)
            return
        self.floors[line.volume_id] = max(line.ended, self.floors.get(line.volume_id, 0))
        entry = self.volumes.get(line.volume_id)
        if line.volume is not None:
            if entry is None:
                entry = self.volumes[line.volume_id] = VolumeEntry(volume=line.volume)
            entry.volume, entry.fabric_epoch = line.volume, line.fabric_epoch
        if line.volume_record is not None and entry is not None:
            entry.record = line.volume_record
