"""An image store in memory, for tests and simulation; scriptable as the other fakes."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator

from nubila.drivers import DriverError, Occupied, WrongOffset
from nubila.drivers.image_store.base import Capabilities, Check, Content, Options, Partial, Stored
from nubila.drivers.image_store.header import HEAD_BYTES
from nubila.drivers.image_store.names import check_sha256, check_upload_id
from nubila.drivers.script import Script


class FakeImageStore:
    """The driver; its `images` and `partial` are its world."""

    def __init__(self, options: Options | None = None):
        self._options = options or Options(directory="")
        self.images: dict[str, bytes] = {}
        self.partial: dict[str, bytearray] = {}
        self.script = Script()
        self._writing: set[str] = set()
        self._times: dict[str, float] = {}

    def capabilities(self) -> Capabilities:
        return Capabilities()

    async def put(self, chunks: AsyncIterator[bytes], check: Check | None = None) -> Stored:
        self.script.enter("put")
        data = bytearray()
        async for chunk in chunks:
            data += chunk
            self._bounded(len(data))
        stored = await self._publish(data, check)
        self.script.leave("put")
        return stored

    async def received(self, upload_id: str) -> int:
        check_upload_id(upload_id)
        return len(self.partial.get(upload_id, b""))

    async def append(self, upload_id: str, offset: int, chunks: AsyncIterator[bytes], fence: int = 0) -> int:
        check_upload_id(upload_id)
        if upload_id in self._writing:
            raise Occupied("another writer is at work")
        data = self.partial.get(upload_id, bytearray())
        if offset != len(data):
            raise WrongOffset(len(data))
        self._writing.add(upload_id)
        try:
            async for chunk in chunks:
                self.script.enter("append")
                self._bounded(len(data) + len(chunk))
                data += chunk
                self.partial[upload_id] = data
                self._times[upload_id] = time.monotonic()
                self.script.leave("append")
        finally:
            self._writing.discard(upload_id)
        return len(data)

    async def finish(self, upload_id: str, check: Check) -> Stored:
        check_upload_id(upload_id)
        if upload_id in self._writing:
            raise Occupied("another writer is at work")
        data = self.partial.pop(upload_id, None)
        if data is None:
            raise DriverError("there is no such upload", again=False)
        return await self._publish(data, check)

    async def discard(self, upload_id: str) -> None:
        check_upload_id(upload_id)
        self.partial.pop(upload_id, None)

    async def uploads(self) -> tuple[Partial, ...]:
        return tuple(
            Partial(upload_id=u, received_bytes=len(d), age_s=time.monotonic() - self._times[u])
            for u, d in sorted(self.partial.items())
        )

    async def get(self, sha256: str) -> AsyncIterator[bytes]:
        self.script.enter("get")
        if sha256 not in self.images:
            raise DriverError("the image's bytes are not in this store", again=False)
        data = self.images[sha256]
        for start in range(0, len(data), 1 << 20):
            yield data[start : start + (1 << 20)]

    async def size(self, sha256: str) -> int | None:
        check_sha256(sha256)
        data = self.images.get(sha256)
        return None if data is None else len(data)

    async def remove(self, sha256: str) -> None:
        check_sha256(sha256)
        self.images.pop(sha256, None)

    async def list(self) -> tuple[Content, ...]:
        return tuple(
            Content(sha256=s, size_bytes=len(d), age_s=time.monotonic() - self._times[s])
            for s, d in sorted(self.images.items())
        )

    async def _publish(self, data: bytearray, check: Check | None) -> Stored:
        sha256 = hashlib.sha256(data).hexdigest()
        stored = Stored(sha256=sha256, size_bytes=len(data), head=bytes(data[:HEAD_BYTES]))
        if check is not None:
            await check(stored)
        self.images[sha256] = bytes(data)
        self._times[sha256] = time.monotonic()
        return stored

    def _bounded(self, size: int) -> None:
        if size > self._options.max_bytes:
            raise DriverError(f"the image is larger than {self._options.max_bytes} bytes", again=False)
