"""What the fakes share: a script of things that go wrong, and a table that may be kept in a journal file.

A fake calls `enter` before its side effect and `leave` after it. With nothing scripted both cost one dictionary
look-up, since benchmarks of whole fleets run on them.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from nubila.drivers import DriverError, Leftover, Scan

T = TypeVar("T", bound=msgspec.Struct)


class Mishap(msgspec.Struct):
    """Something that befalls the next `times` calls (None: every call)."""

    kind: str  # 'fail' before the effect | 'lose' the reply after it | 'delay' before it
    times: int | None
    reason: str = ""
    again: bool = True
    delay_s: float = 0.0


class Script:
    """What shall befall the calls of one fake, by the call's name; '*' means any call."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self._mishaps: dict[str, list[Mishap]] = {}
        self._lock = threading.Lock()

    def fail(self, call: str, times: int | None = 1, reason: str = "told to fail", *, again: bool = True) -> None:
        """The next calls fail and change nothing."""
        self._add(call, Mishap("fail", times, reason, again))

    def lose_reply(self, call: str, times: int | None = 1, reason: str = "the reply was lost") -> None:
        """The next calls take effect, and then fail all the same."""
        self._add(call, Mishap("lose", times, reason))

    def delay(self, call: str, delay_s: float, times: int | None = None) -> None:
        """The next calls take that long."""
        self._add(call, Mishap("delay", times, delay_s=delay_s))

    def clear(self) -> None:
        with self._lock:
            self._mishaps.clear()

    def enter(self, call: str) -> None:
        self.calls[call] += 1
        if not self._mishaps:
            return
        for mishap in self._due(call, ("delay", "fail")):
            if mishap.kind == "fail":
                raise DriverError(mishap.reason, again=mishap.again)
            time.sleep(mishap.delay_s)

    def leave(self, call: str) -> None:
        if not self._mishaps:
            return
        for mishap in self._due(call, ("lose",)):
            raise DriverError(mishap.reason, again=mishap.again)

    def _add(self, call: str, mishap: Mishap) -> None:
        with self._lock:
            self._mishaps.setdefault(call, []).append(mishap)

    def _due(self, call: str, kinds: tuple[str, ...]) -> list[Mishap]:
        with self._lock:
            due = [m for name in (call, "*") for m in self._mishaps.get(name, []) if m.kind in kinds and m.times != 0]
            for mishap in due:
                if mishap.times is not None:
                    mishap.times -= 1
            return due


class Leftovers:
    """What is left over in a fake's world: put there by tests."""

    def __init__(self) -> None:
        self.left: tuple[Leftover, ...] = ()


class Scanned:
    """The part of each fake that finds and removes leftovers."""

    script: Script
    leftovers: Leftovers

    def scan(self) -> Scan:
        self.script.enter("scan")
        return Scan(leftovers=self.leftovers.left)

    def remove_leftover(self, leftover: Leftover) -> None:
        self.script.enter("remove_leftover")
        self.leftovers.left = tuple(x for x in self.leftovers.left if x != leftover)


class Table(Generic[T]):
    """The fake's world by key. With a path, each change is appended there, and a new process finds the world again."""

    def __init__(self, type_: type[T], path: Path | None = None):
        self._type = type_
        self._rows: dict[str, T] = {}
        self._file = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)
            os.truncate(path, self._read(path))

    def get(self, key: str) -> T | None:
        return self._rows.get(key)

    def put(self, key: str, row: T) -> None:
        self._rows[key] = row
        if self._file is not None:
            self._append(key, row)

    def drop(self, key: str) -> None:
        if self._rows.pop(key, None) is not None and self._file is not None:
            self._append(key, None)

    def all(self) -> tuple[T, ...]:
        return tuple(self._rows.values())

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._rows))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _append(self, key: str, row: T | None) -> None:
        assert self._file is not None
        self._file.write(msgspec.json.encode((key, row)) + b"\n")

    def _read(self, path: Path) -> int:
        """Returns how long the journal is without a last line whose writer was killed in the middle."""
        whole = path.read_bytes()
        length = whole.rfind(b"\n") + 1
        for line in whole[:length].splitlines():
            key, row = msgspec.json.decode(line, type=tuple[str, self._type | None])  # type: ignore[name-defined]
            if row is None:
                self._rows.pop(key, None)
            else:
                self._rows[key] = row
        return length
