"""The last confirmed wish, on disk: what each vm shall be, its durable counters, and the floor below which answers
are old.

Called by the agent's core in its own thread; `durable` by workers before they act on a counter. One line per change
in one journal, read back whole at the start: a vm's newest line wins. Invariant: what `durable` returned for survives
power loss.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from nubila.agent.journal import Journal
from nubila.agent.known import Record
from nubila.protocol import Vm

COMPACT_ABOVE_BYTES = 1 << 20
COMPACT_FACTOR = 4


class Floor(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, order=True):
    """The newest answer that was accepted. Nothing with a lower (fabric_epoch, timeline) is."""

    fabric_epoch: int = 0
    timeline: int = 0
    revision: int = 0

    @property
    def token(self) -> tuple[int, int]:
        return self.fabric_epoch, self.timeline


class Entry(msgspec.Struct, kw_only=True):
    vm: Vm
    record: Record = Record()
    fabric_epoch: int = 0  # of the answer that confirmed it last


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    vm_id: str = ""
    vm: Vm | None = None
    record: Record | None = None
    fabric_epoch: int = 0
    drop: bool = False
    floor: Floor | None = None


class Wishes:
    def __init__(self, directory: Path):
        self.entries: dict[str, Entry] = {}
        self.floor = Floor()
        self.damaged = 0
        self._journal = Journal(directory / "wishes")
        self._encode = msgspec.json.Encoder().encode
        self._last = 0

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

    def drop(self, vm_id: str) -> None:
        if self.entries.pop(vm_id, None) is not None:
            self._append(Line(vm_id=vm_id, drop=True))

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
        if self._journal.size_bytes > COMPACT_FACTOR * sum(map(len, bodies)):
            self._journal.compact(bodies)

    def close(self) -> None:
        self._journal.close()

    def _append(self, line: Line) -> None:
        self._last = self._journal.append(self._encode(line))

    def _replay(self, line: Line) -> None:
        if line.floor is not None:
            self.floor = max(self.floor, line.floor)
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
