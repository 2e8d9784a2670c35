"""An image store in memory, for tests and simulation; scriptable as the other fakes."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

from nubila.drivers import DriverError
from nubila.drivers.image_store.base import Capabilities, Options, Stored
from nubila.drivers.image_store.header import HEAD_BYTES
from nubila.drivers.script import Script


class FakeImageStore:
    """The driver; its `images` are its world."""

    def __init__(self, options: Options | None = None):
        self._options = options or Options(directory="")
        self.images: dict[str, bytes] = {}
        self.script = Script()

    def capabilities(self) -> Capabilities:
        return Capabilities()

    async def put(self, chunks: AsyncIterator[bytes]) -> Stored:
        self.script.enter("put")
        data = bytearray()
        async for chunk in chunks:
            data += chunk
            if len(data) > self._options.max_bytes:
                raise DriverError(f"the image is larger than {self._options.max_bytes} bytes", again=False)
        sha256 = hashlib.sha256(data).hexdigest()
        self.images[sha256] = bytes(data)
        self.script.leave("put")
        return Stored(sha256=sha256, size_bytes=len(data), head=bytes(data[:HEAD_BYTES]))

    async def get(self, sha256: str) -> AsyncIterator[bytes]:
        self.script.enter("get")
        if sha256 not in self.images:
            raise DriverError("the image's bytes are not in this store", again=False)
        data = self.images[sha256]
        for start in range(0, len(data), 1 << 20):
            yield data[start : start + (1 << 20)]

    async def size(self, sha256: str) -> int | None:
        data = self.images.get(sha256)
        return None if data is None else len(data)

    async def remove(self, sha256: str) -> None:
        self.images.pop(sha256, None)

    async def list(self) -> tuple[str, ...]:
        return tuple(sorted(self.images))
