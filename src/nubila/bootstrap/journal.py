"""What an installation made on this host: an append-only file in its state directory.

Each entry is on disk before the thing is made, so an entry means 'may have been made'. `destroy` takes back exactly
what stands here. Standard library only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FILE = "journal.jsonl"

# kind -> what an entry of it means. `what` is the thing's name; `before` its former value, when it had one.
KINDS: dict[str, str] = {
    "directory": "this directory was made",
    "user": "this system user, and the group of its name, were added",
    "package": "this Debian package was installed",
    "file": "this file was written",
    "database": "the database's data directory was initialised",
}


@dataclass(frozen=True)
class Entry:
    kind: str
    what: str
    before: str | None = None


class Journal:
    def __init__(self, var_dir: Path) -> None:
        self.path = var_dir / FILE

    def entries(self) -> list[Entry]:
        """All entries, oldest first. A line cut short by a crash was never acted upon."""
        return list(self._read())

    def of(self, kind: str) -> list[Entry]:
        return [e for e in self._read() if e.kind == kind]

    def has(self, kind: str, what: str) -> bool:
        return any(e.what == what for e in self.of(kind))

    def add(self, *entries: Entry) -> None:
        """Record durably, before acting. What stands here already keeps its first entry (and first `before`)."""
        known = {(e.kind, e.what) for e in self._read()}
        new = [e for e in entries if (e.kind, e.what) not in known]
        if not new:
            return
        if unknown := {e.kind for e in new} - set(KINDS):
            raise ValueError(f"no such kind of entry: {unknown}")
        lines = "".join(json.dumps({"kind": e.kind, "what": e.what, "before": e.before}) + "\n" for e in new)
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(fd, self._mend() + lines.encode())
            os.fsync(fd)
        finally:
            os.close(fd)
        directory = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _mend(self) -> bytes:
        """A newline, when the last line was cut short."""
        data = self.path.read_bytes()
        return b"\n" if data and not data.endswith(b"\n") else b""

    def _read(self) -> Iterator[Entry]:
        try:
            text = self.path.read_text()
        except (FileNotFoundError, NotADirectoryError):
            return
        for line in text.splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            yield Entry(row["kind"], row["what"], row.get("before"))
