"""A place in the change log, as text and as numbers."""

from __future__ import annotations

import msgspec

LAST_SEQ = 10**18 - 1  # 18 digits: what `Cursor.parse` takes


class Cursor(msgspec.Struct, frozen=True, order=True):
    """`fabric_epoch` is the one it was handed out in; `of` the row's own, when the row is from before an adoption."""

    fabric_epoch: int
    xid: int
    seq: int
    of: int | None = None

    def __str__(self) -> str:
        middle = "" if self.of is None else f"{self.of}."
        return f"{self.fabric_epoch}.{middle}{self.xid}.{self.seq}"

    @property
    def place(self) -> tuple[int, int, int]:
        """What rows are ordered by."""
        return (self.fabric_epoch if self.of is None else self.of), self.xid, self.seq

    @classmethod
    def at(cls, present: int, epoch: int, xid: int, seq: int) -> Cursor:
        """Of a row of that epoch, handed out in the present one."""
        return cls(present, xid, seq, None if epoch == present else epoch)

    @classmethod
    def parse(cls, value: str) -> Cursor | None:
        parts = value.split(".")
        if len(parts) not in (3, 4) or not all(p.isascii() and p.isdigit() and len(p) < 19 for p in parts):
            return None
        numbers = list(map(int, parts))
        if len(numbers) == 3:
            return cls(*numbers)
        return cls(numbers[0], numbers[2], numbers[3], numbers[1]) if numbers[1] < numbers[0] else None
