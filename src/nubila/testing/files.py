"""A machine's disk, as far as the agent uses it: its journal, of which a crash keeps what was written and a power loss only
what was made durable."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from nubila.testing.stage import Process, Stage


class File:
    """The bytes of one journal on the machine's disk."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.synced = 0

    def lose_power(self) -> None:
        del self.lines[self.synced :]


class MemoryJournal:
    """As `agent.journal.Journal`, on the disk of the machine whose turn it is."""

    on: ClassVar[Stage]

    def __init__(self, path: Path):
        process = self.on.process
        assert process is not None
        self._process: Process = process
        self._file: File = process.disk.setdefault(str(path), File())
        self._buffer: list[bytes] = []
        self._appended = self._written = 0
        self.size_bytes = 0

    def open(self) -> Iterator[bytes]:
        self._file.synced = len(self._file.lines)
        yield from list(self._file.lines)

    def append(self, body: bytes) -> int:
        self._buffer.append(body)
        self._appended += 1
        return self._appended

    def write(self) -> None:
        if self._buffer and self._process.alive:
            self._file.lines += self._buffer
            self._written += len(self._buffer)
            self._buffer = []

    def durable(self, number: int) -> None:
        if self.on.in_fibre():
            self.on.sleep(0.0002)
        self.write()
        self._file.synced = len(self._file.lines)

    def compact(self, bodies: list[bytes]) -> None:
        self._file.lines, self._file.synced = list(bodies), len(bodies)
        self._buffer = []

    def close(self) -> None:
        self.write()
