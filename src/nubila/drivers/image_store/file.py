"""Images as files named by their hash, in one directory of the control plane.

A stream goes to a temporary file, is hashed while it passes, synced, and only then renamed to its hash: what can be
seen is complete and durable, and the same bytes put twice are one file. Disk work runs in threads, since an event loop
calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import re
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

from nubila.drivers import DriverError
from nubila.drivers.image_store.base import Capabilities, Options, Stored
from nubila.drivers.image_store.header import HEAD_BYTES

_SHA256 = re.compile(r"[0-9a-f]{64}")
_BLOCK_BYTES = 1 << 20
_TEMPORARY = ".partial-"


class FileImageStore:
    """The driver. Options.directory belongs to this installation's control plane alone."""

    def __init__(self, options: Options):
        self._options = options
        self._directory = Path(options.directory)
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def capabilities(self) -> Capabilities:
        return Capabilities()

    async def put(self, chunks: AsyncIterator[bytes]) -> Stored:
        file = await asyncio.to_thread(self._open_temporary)
        try:
            digest, size, head, block = hashlib.sha256(), 0, b"", bytearray()
            async for chunk in chunks:
                size += len(chunk)
                if size > self._options.max_bytes:
                    raise DriverError(f"the image is larger than {self._options.max_bytes} bytes", again=False)
                if len(head) < HEAD_BYTES:
                    head = (head + chunk)[:HEAD_BYTES]
                block += chunk
                if len(block) >= _BLOCK_BYTES:  # a thread for each small chunk would cost more than the writing
                    await asyncio.to_thread(_take, file, digest, block)
                    block = bytearray()
            await asyncio.to_thread(_take, file, digest, block)
            sha256 = digest.hexdigest()
            await asyncio.to_thread(self._publish, file, sha256)
            return Stored(sha256=sha256, size_bytes=size, head=head)
        except OSError as e:
            raise DriverError(_why(e)) from e
        finally:
            await asyncio.to_thread(_drop, file)

    async def get(self, sha256: str) -> AsyncIterator[bytes]:
        try:
            file = await asyncio.to_thread(self._path(sha256).open, "rb")
        except FileNotFoundError as e:
            raise DriverError("the image's bytes are not in this store", again=False) from e
        with file:
            while block := await asyncio.to_thread(file.read, _BLOCK_BYTES):
                yield block

    async def size(self, sha256: str) -> int | None:
        try:
            return (await asyncio.to_thread(self._path(sha256).stat)).st_size
        except FileNotFoundError:
            return None

    async def remove(self, sha256: str) -> None:
        await asyncio.to_thread(self._path(sha256).unlink, True)

    async def list(self) -> tuple[str, ...]:
        names = await asyncio.to_thread(os.listdir, self._directory)
        return tuple(sorted([n for n in names if _SHA256.fullmatch(n)]))

    def sweep(self, older_than_s: float = 86400.0) -> int:
        """Remove what killed processes left half-written, and say how many; younger ones may still be in the making."""
        before = time.time() - older_than_s
        partial = [p for p in self._directory.glob(_TEMPORARY + "*") if p.stat().st_mtime < before]
        for path in partial:
            path.unlink(missing_ok=True)
        return len(partial)

    def _path(self, sha256: str) -> Path:
        if not _SHA256.fullmatch(sha256):
            raise DriverError("this is not a SHA-256 in lower-case hexadecimal", again=False)
        return self._directory / sha256

    def _open_temporary(self) -> BinaryIO:
        handle, name = tempfile.mkstemp(prefix=_TEMPORARY, dir=self._directory)
        os.close(handle)
        return open(name, "wb", buffering=_BLOCK_BYTES)

    def _publish(self, file: BinaryIO, sha256: str) -> None:
        file.flush()
        os.fchmod(file.fileno(), 0o400)
        os.fsync(file.fileno())
        os.replace(file.name, self._path(sha256))
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _take(file: BinaryIO, digest: hashlib._Hash, block: bytearray) -> None:
    digest.update(block)
    file.write(block)


def _drop(file: BinaryIO) -> None:
    with contextlib.suppress(OSError):  # of the last flush on a full disk; the error that matters is on its way
        file.close()
    Path(file.name).unlink(missing_ok=True)


def _why(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the image store is full"
    return f"the image store cannot write: {error.strerror}"
