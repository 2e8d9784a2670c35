"""The newest rows of the change log, read once for all event streams of a process and kept for a while, in bounds.

A stream that is behind reads its own way up to here; from then on it takes from memory, and shares one reader with all
others. What falls out of the ring before a stream took it is not kept for it: it is told so, and resumes from its place.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice

import msgspec

from nubila.errors import NubilaError
from nubila.store.cursor import Cursor
from nubila.store.database import Record
from nubila.store.notify import CHANGED, Hub

ROWS_MAX = 4096
BYTES_MAX = 8 << 20  # of the rows' contents
BATCH = 500
CLOCK_S = 1.0
SPACING_S = 0.05  # a burst of commits is one batch
PAUSE_S = 1.0  # after the database did not answer

Place = tuple[int, int, int]  # fabric epoch, transaction, sequence: the order of reading


class _Node(msgspec.Struct):
    node_id: str | None = None


class Told(msgspec.Struct, frozen=True):
    """A row with what streams ask of each: its place, and the node that it is on."""

    place: Place
    row: Record
    node_id: str | None


def told(row: Record) -> Told:
    node = msgspec.json.decode(row["content"], type=_Node).node_id if '"node_id"' in row["content"] else None
    return Told((row["fabric_epoch"], row["xid"], row["seq"]), row, node)


class Ring:
    """PURE. All rows after `low` up to `high`, as far as the bounds allow: the oldest go first."""

    def __init__(self, begin: Place, rows_max: int = ROWS_MAX, bytes_max: int = BYTES_MAX):
        self.low = self.high = begin
        self._rows: deque[Told] = deque()
        self._bytes = 0
        self._bounds = (rows_max, bytes_max)

    def add(self, rows: Sequence[Told]) -> None:
        for row in rows:
            self._rows.append(row)
            self._bytes += len(row.row["content"])
            self.high = row.place
        while len(self._rows) > self._bounds[0] or self._bytes > self._bounds[1]:
            gone = self._rows.popleft()
            self._bytes -= len(gone.row["content"])
            self.low = gone.place

    def after(self, place: Place, limit: int) -> list[Told] | None:
        """The next rows; None when some that came after the place are gone."""
        if place < self.low:
            return None
        start = bisect_right(self._rows, place, key=lambda t: t.place)
        return list(islice(self._rows, start, start + limit))


class Feed:
    """One per process. Reads while anybody follows, and not otherwise."""

    def __init__(
        self,
        read: Callable[[Cursor], Awaitable[Sequence[Record]]],
        end: Callable[[], Awaitable[Cursor]],
        hub: Hub,
        fabric_epoch: int,
        rows_max: int = ROWS_MAX,
    ):
        """`read` gives the next rows after a cursor, at most a batch; `end` where the log ends."""
        self._read, self._end, self._hub, self._epoch, self._rows_max = read, end, hub, fabric_epoch, rows_max
        self.ring: Ring | None = None  # None while nobody follows
        self._followers = 0
        self._some = asyncio.Event()
        self._news: asyncio.Future[None] | None = None

    async def run(self) -> None:
        while True:
            await self._some.wait()
            try:
                await self._follow()
            except NubilaError:
                await asyncio.sleep(PAUSE_S)
            finally:
                self.ring = None
                self._tell()

    async def _follow(self) -> None:
        self.ring = Ring((await self._end()).place, self._rows_max)
        self._tell()
        while self._followers:
            expected = self._hub.expect(CHANGED)
            rows = await self._read(Cursor.at(self._epoch, *self.ring.high))
            if rows:
                expected.close()
                self.ring.add([told(r) for r in rows])
                self._tell()
            else:
                await expected.wait(CLOCK_S)
            await asyncio.sleep(0 if len(rows) == BATCH else SPACING_S)

    def join(self) -> None:
        self._followers += 1
        self._some.set()

    def leave(self) -> None:
        self._followers -= 1
        if not self._followers:
            self._some.clear()

    def expect(self) -> asyncio.Future[None]:
        """Done when there may be something new. Asked for before looking, so that nothing is missed."""
        if self._news is None or self._news.done():
            self._news = asyncio.get_running_loop().create_future()
        return self._news

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
