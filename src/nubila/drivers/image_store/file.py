"""Images as files named by their hash, in one directory of the control plane.

    <sha256>            0400, whole and durable: it got its name by a rename after a sync
    .partial-*          a stream that `put` takes in
    uploads/<image id>  what has come of an upload; its writer holds a lock on it

What is hashed and checked is the file that is then renamed, under the lock of its upload: nobody can change it between
check and use. Disk work runs in threads, since an event loop calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from nubila.drivers import DriverError, Full, Occupied, WrongOffset
from nubila.drivers.image_store.base import Capabilities, Check, Content, Options, Partial, Stored
from nubila.drivers.image_store.header import HEAD_BYTES
from nubila.drivers.image_store.names import SHA256, UPLOAD_ID, check_sha256, check_upload_id

_BLOCK_BYTES = 1 << 20
_TEMPORARY = ".partial-"


class FileImageStore:
    """The driver. Options.directory belongs to this installation's control plane alone."""

    def __init__(self, options: Options):
        self._options = options
        self._directory = Path(options.directory)
        self._uploads = self._directory / "uploads"
        self._uploads.mkdir(parents=True, exist_ok=True, mode=0o700)

    def capabilities(self) -> Capabilities:
        return Capabilities()

    async def put(self, chunks: AsyncIterator[bytes], check: Check | None = None) -> Stored:
        with _told():
            file = await asyncio.to_thread(self._open_temporary)
        try:
            with _told():
                await self._take(file, 0, chunks)
                return await self._seal(file, check)
        finally:
            await asyncio.to_thread(_drop, file)

    # --- uploads

    async def received(self, upload_id: str) -> int:
        try:
            return (await asyncio.to_thread(self._upload(upload_id).lstat)).st_size
        except FileNotFoundError:
            return 0

    async def append(self, upload_id: str, offset: int, chunks: AsyncIterator[bytes], fence: int = 0) -> int:
        path = self._upload(upload_id)
        with _told():
            file = await asyncio.to_thread(_locked, path, os.O_CREAT)
            try:
                size = os.fstat(file.fileno()).st_size
                if size != offset:
                    raise WrongOffset(size)
                await asyncio.to_thread(file.seek, offset)
                try:
                    await self._take(file, offset, chunks)
                finally:
                    await asyncio.to_thread(_flush, file)
                return os.fstat(file.fileno()).st_size
            finally:
                with contextlib.suppress(OSError):
                    file.close()

    async def finish(self, upload_id: str, check: Check) -> Stored:
        path = self._upload(upload_id)
        with _told():
            try:
                file = await asyncio.to_thread(_locked, path, 0)
            except FileNotFoundError as e:
                raise DriverError("there is no such upload", again=False) from e
            try:
                return await self._seal(file, check)
            except (DriverError, OSError):
                raise
            except Exception:  # the check's: these bytes become no image
                await asyncio.to_thread(path.unlink, True)
                raise
            finally:
                file.close()

    async def discard(self, upload_id: str) -> None:
        await asyncio.to_thread(self._upload(upload_id).unlink, True)

    async def uploads(self) -> tuple[Partial, ...]:
        found = await asyncio.to_thread(_entries, self._uploads)
        return tuple(
            Partial(upload_id=n, received_bytes=size, age_s=age) for n, size, age in found if UPLOAD_ID.fullmatch(n)
        )

    # --- content

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

    async def list(self) -> tuple[Content, ...]:
        found = await asyncio.to_thread(_entries, self._directory)
        return tuple(Content(sha256=n, size_bytes=size, age_s=age) for n, size, age in found if SHA256.fullmatch(n))

    def sweep(self, older_than_s: float = 86400.0) -> int:
        """Remove what killed processes left half-written, and say how many; younger ones may still be in the making."""
        before = time.time() - older_than_s
        partial = [p for p in self._directory.glob(_TEMPORARY + "*") if p.stat().st_mtime < before]
        for path in partial:
            path.unlink(missing_ok=True)
        return len(partial)

    # --- within

    def _path(self, sha256: str) -> Path:
        return self._directory / check_sha256(sha256)

    def _upload(self, upload_id: str) -> Path:
        return self._uploads / check_upload_id(upload_id)

    def _open_temporary(self) -> FileIO:
        handle, name = tempfile.mkstemp(prefix=_TEMPORARY, dir=self._directory)
        os.close(handle)
        return open(name, "r+b", buffering=0)

    async def _take(self, file: FileIO, size: int, chunks: AsyncIterator[bytes]) -> None:
        """Write the stream in blocks: a thread for each small chunk would cost more than the writing."""
        block = bytearray()
        async for chunk in chunks:
            size += len(chunk)
            if size > self._options.max_bytes:
                raise DriverError(f"the image is larger than {self._options.max_bytes} bytes", again=False)
            block += chunk
            if len(block) >= _BLOCK_BYTES:
                await asyncio.to_thread(self._write, file, block)
                block = bytearray()
        await asyncio.to_thread(self._write, file, block)

    def _write(self, file: FileIO, block: bytearray) -> None:
        reserve = self._options.reserve_bytes
        if reserve:
            at = os.fstatvfs(file.fileno())
            free = at.f_bavail * at.f_frsize
            if free - len(block) < reserve:
                raise Full(
                    f"the image store is full: {free >> 20} MiB are free, {reserve >> 20} MiB are kept in reserve"
                )
        rest = memoryview(block)
        while rest:
            rest = rest[file.write(rest) :]

    async def _seal(self, file: FileIO, check: Check | None) -> Stored:
        """Hash this very file, have it judged, and give it its name."""
        stored = await asyncio.to_thread(_hashed, file)
        if check is not None:
            await check(stored)
        await asyncio.to_thread(self._publish, file, stored.sha256)
        return stored

    def _publish(self, file: FileIO, sha256: str) -> None:
        os.fchmod(file.fileno(), 0o400)
        os.utime(file.fileno())
        os.fsync(file.fileno())
        os.replace(str(file.name), self._path(sha256))
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _locked(path: Path, flags: int) -> FileIO:
    """The upload's file, held by this writer alone. Raises Occupied."""

    def opener(name: str, _: int) -> int:
        return os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600)

    file = open(path, "r+b", buffering=0, opener=opener)  # noqa: SIM115 - the caller closes it
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(file.fileno()), os.lstat(path)):
            raise Occupied("another writer has just ended this upload")
    except (BlockingIOError, FileNotFoundError) as e:
        file.close()
        raise Occupied("another writer is at work") from e
    except BaseException:
        file.close()
        raise
    return file


def _hashed(file: FileIO) -> Stored:
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256")
    size = file.tell()
    file.seek(0)
    return Stored(sha256=digest.hexdigest(), size_bytes=size, head=_head(file))


def _head(file: FileIO) -> bytes:
    head = b""
    while len(head) < HEAD_BYTES and (piece := file.read(HEAD_BYTES - len(head))):
        head += piece
    return head


def _flush(file: FileIO) -> None:
    """What came is to be there after a crash; if it cannot, the bytes are still the right ones."""
    with contextlib.suppress(OSError):
        os.fsync(file.fileno())


def _drop(file: FileIO) -> None:
    with contextlib.suppress(OSError):
        file.close()
    Path(str(file.name)).unlink(missing_ok=True)


def _entries(directory: Path) -> list[tuple[str, int, float]]:
    """Name, size and age of each file."""
    found, now = [], time.time()
    with os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                stat = entry.stat(follow_symlinks=False)
                if entry.is_file(follow_symlinks=False):
                    found.append((entry.name, stat.st_size, now - stat.st_mtime))
    return sorted(found)


@contextmanager
def _told() -> Iterator[None]:
    """The system's errors in the words of a driver; those that are ours already stay as they are."""
    try:
        yield
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Full("the image store is full") from e
        raise DriverError(f"the image store cannot be written: {e.strerror or e}") from e
