"""Who may write an image, and who may touch the bytes of a hash: leases of the database, kept up while the work goes on.

`image:ID` is held by whoever brings an image's content. `content:SHA256` is held from before bytes become visible until
an image has them, and by whoever removes bytes that no image has: so bytes never vanish under an image in the making.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from nubila import errors
from nubila.store.image import ImageRows
from nubila.store.work import WorkStore

LEASE_S = 30.0
RENEW_S = 8.0
PATIENCE_S = 20.0


class Bytes(Protocol):
    """What of an image store is used here."""

    async def remove(self, sha256: str) -> None: ...


class Writer:
    """The one who brings an image's content."""

    def __init__(self, work: WorkStore, upload_id: str):
        self.fence = 0
        self._work = work
        self._holder = os.urandom(12).hex()
        self._names = [f"image:{upload_id}"]

    async def begin(self) -> bool:
        fence = await self._work.lead(self._names[0], self._holder, LEASE_S)
        self.fence = fence or 0
        return fence is not None

    async def holds(self, sha256: str) -> None:
        """Nobody removes these bytes until the writer ends. Raises Transient when others hold them for long."""
        await _take(self._work, f"content:{sha256}", self._holder)
        self._names.append(f"content:{sha256}")

    async def renew_forever(self) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            for name in self._names:
                with contextlib.suppress(errors.NubilaError):
                    await self._work.lead(name, self._holder, LEASE_S)

    async def end(self) -> None:
        for name in self._names:
            with contextlib.suppress(errors.NubilaError):  # it lapses by itself
                await self._work.release(name, self._holder)


@asynccontextmanager
async def writing(work: WorkStore, upload_id: str) -> AsyncIterator[Writer | None]:
    """Be the image's one writer; None while somebody else is."""
    writer = Writer(work, upload_id)
    if not await writer.begin():
        yield None
        return
    task = asyncio.create_task(writer.renew_forever())
    try:
        yield writer
    finally:
        task.cancel()
        await asyncio.shield(writer.end())


async def collect(work: WorkStore, rows: ImageRows, store: Bytes, sha256: str) -> bool:
    """Remove bytes when it is proven, under their lease, that no image has them; whether they are removed."""
    if await rows.referring(sha256):
        return False
    holder = os.urandom(12).hex()
    if await work.lead(f"content:{sha256}", holder, LEASE_S) is None:
        return False  # somebody makes an image of them, or removes them
    try:
        if await rows.referring(sha256):
            return False
        await store.remove(sha256)
        return True
    finally:
        await work.release(f"content:{sha256}", holder)


async def _take(work: WorkStore, name: str, holder: str) -> None:
    for _ in range(int(PATIENCE_S / 0.25)):
        if await work.lead(name, holder, LEASE_S) is not None:
            return
        await asyncio.sleep(0.25)
    raise errors.Transient("The same content is being stored or removed by somebody else.", fix="Try again.")
