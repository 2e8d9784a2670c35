"""Images as objects of an S3 bucket, by obstore: any number of control-plane machines share them.

    PREFIXimages/<sha256>                                  whole content; a multipart upload is seen when it is complete
    PREFIXuploads/<image id>/<offset>-<fence>-<random>     the parts of an upload, each written once

What has come of an upload is the chain of parts from 0 on, in which fences never fall: a writer that lost its lease may
still write a part, and it does not count. Content is put together from the very parts that were hashed and checked, and
hashed again on the way: if the two differ, nothing becomes visible.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from nubila.drivers import DriverError, Full, Occupied, WrongOffset
from nubila.drivers.image_store.base import Capabilities, Check, Content, Options, Partial, Stored
from nubila.drivers.image_store.header import HEAD_BYTES
from nubila.drivers.image_store.names import SHA256, UPLOAD_ID, check_sha256, check_upload_id

PART_BYTES = 8 << 20
_NAME = re.compile(r"(\d{14})-(\d{10})-[0-9a-f]{16}")
# how servers say that there is no room
_FULL = ("QuotaExceeded", "InsufficientStorage", "507", "EntityTooLarge: quota", "no space")


class Part(msgspec.Struct, frozen=True):
    path: str
    offset: int
    fence: int
    size: int


Chain = list[Part]
Paths = list[str]


class Credentials(msgspec.Struct, frozen=True):
    access_key_id: str
    secret_access_key: str


class S3ImageStore:
    """The driver. The bucket, or the prefix within it, belongs to this installation alone."""

    def __init__(self, options: Options):
        self._options = options
        keys = msgspec.json.decode(Path(options.credentials_file).read_bytes(), type=Credentials)
        self._store = S3Store(
            options.bucket,
            config={
                "endpoint": options.endpoint,
                "region": options.request_region,
                "access_key_id": keys.access_key_id,
                "secret_access_key": keys.secret_access_key,
                "virtual_hosted_style_request": False,
            },
            client_options={"allow_http": True, "connect_timeout": "5s", "timeout": "1h"},
            retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=20)},
        )
        self._images = f"{options.prefix}images/"
        self._uploads = f"{options.prefix}uploads/"

    def capabilities(self) -> Capabilities:
        return Capabilities(shared=True)

    async def put(self, chunks: AsyncIterator[bytes], check: Check | None = None) -> Stored:
        place = f"{self._uploads}put-{os.urandom(12).hex()}/"
        try:
            await self._take(place, 0, 0, chunks)
            return await self._seal(await self._chain(place), check)
        finally:
            await asyncio.shield(self._clear(place))

    # --- uploads

    async def received(self, upload_id: str) -> int:
        return _end(await self._chain(self._upload(upload_id)))

    async def append(self, upload_id: str, offset: int, chunks: AsyncIterator[bytes], fence: int = 0) -> int:
        place = self._upload(upload_id)
        received = _end(await self._chain(place))
        if received != offset:
            raise WrongOffset(received)
        mine = await self._take(place, offset, fence, chunks)
        chain = await self._chain(place)
        if not set(mine) <= {p.path for p in chain}:
            raise Occupied("another writer is at work")
        return _end(chain)

    async def finish(self, upload_id: str, check: Check) -> Stored:
        place = self._upload(upload_id)
        chain = await self._chain(place)
        if not chain:
            raise DriverError("there is no such upload", again=False)
        try:
            stored = await self._seal(chain, check)
        except DriverError:
            raise
        except Exception:  # the check's: these bytes become no image
            await self._clear(place)
            raise
        await self._clear(place)
        return stored

    async def discard(self, upload_id: str) -> None:
        await self._clear(self._upload(upload_id))

    async def uploads(self) -> tuple[Partial, ...]:
        newest: dict[str, datetime] = {}
        for found in await self._list(self._uploads):
            upload_id = found["path"].removeprefix(self._uploads).partition("/")[0]
            if UPLOAD_ID.fullmatch(upload_id):
                newest[upload_id] = max(newest.get(upload_id, found["last_modified"]), found["last_modified"])
        return tuple(
            [
                Partial(upload_id=u, received_bytes=await self.received(u), age_s=_age(at))
                for u, at in sorted(newest.items())
            ]
        )

    # --- content

    async def get(self, sha256: str) -> AsyncIterator[bytes]:
        path = self._path(sha256)
        with _told():
            got = await obstore.get_async(self._store, path)
            async for piece in got.stream(min_chunk_size=1 << 20):
                yield bytes(piece)

    async def size(self, sha256: str) -> int | None:
        path = self._path(sha256)
        try:
            with _told():
                return int((await obstore.head_async(self._store, path))["size"])
        except _Missing:
            return None

    async def remove(self, sha256: str) -> None:
        await self._delete([self._path(sha256)])

    async def list(self) -> tuple[Content, ...]:
        found = [(f["path"].removeprefix(self._images), f) for f in await self._list(self._images)]
        return tuple(
            Content(sha256=name, size_bytes=f["size"], age_s=_age(f["last_modified"]))
            for name, f in sorted(found, key=lambda pair: pair[0])
            if SHA256.fullmatch(name)
        )

    # --- within

    def _path(self, sha256: str) -> str:
        return self._images + check_sha256(sha256)

    def _upload(self, upload_id: str) -> str:
        return f"{self._uploads}{check_upload_id(upload_id)}/"

    async def _list(self, prefix: str) -> Any:
        with _told():
            return await obstore.list(self._store, prefix).collect_async()

    async def _chain(self, place: str) -> Chain:
        """The parts that count: without a gap from 0 on, the newest writer's at each offset, and fences never falling."""
        parts: dict[int, Chain] = {}
        for found in await self._list(place):
            m = _NAME.fullmatch(found["path"].removeprefix(place))
            if m is not None and found["size"]:
                parts.setdefault(int(m[1]), []).append(Part(found["path"], int(m[1]), int(m[2]), found["size"]))
        chain: Chain = []
        while here := [p for p in parts.get(_end(chain), []) if not chain or p.fence >= chain[-1].fence]:
            chain.append(max(here, key=lambda p: (p.fence, p.path)))
        return chain

    async def _take(self, place: str, offset: int, fence: int, chunks: AsyncIterator[bytes]) -> Paths:
        """Store the stream in parts; when it breaks off, what came of the last one too."""
        written: Paths = []
        block = bytearray()

        async def write() -> None:
            nonlocal block, offset
            if block:
                path = f"{place}{offset:014d}-{fence:010d}-{os.urandom(8).hex()}"
                with _told():
                    await obstore.put_async(self._store, path, bytes(block), use_multipart=False)
                written.append(path)
                offset, block = offset + len(block), bytearray()

        try:
            async for chunk in chunks:
                if offset + len(block) + len(chunk) > self._options.max_bytes:
                    raise DriverError(f"the image is larger than {self._options.max_bytes} bytes", again=False)
                block += chunk
                if len(block) >= PART_BYTES:
                    await write()
        except DriverError:
            raise
        except Exception:
            await write()
            raise
        await write()
        return written

    async def _read(self, chain: Chain) -> AsyncIterator[bytes]:
        for part in chain:
            with _told():
                got = await obstore.get_async(self._store, part.path)
                yield bytes(await got.bytes_async())

    async def _seal(self, chain: Chain, check: Check | None) -> Stored:
        """Hash these parts, have them judged, and make content of them, hashed again."""
        digest, head = hashlib.sha256(), b""
        async for block in self._read(chain):
            head += block[: HEAD_BYTES - len(head)]
            await asyncio.to_thread(digest.update, block)
        stored = Stored(sha256=digest.hexdigest(), size_bytes=_end(chain), head=head)
        if check is not None:
            await check(stored)

        async def again() -> AsyncIterator[bytes]:
            second = hashlib.sha256()
            async for block in self._read(chain):
                await asyncio.to_thread(second.update, block)
                yield block
            if second.hexdigest() != stored.sha256:
                raise DriverError("the stored bytes changed while they were checked", again=False)

        with _told():
            await obstore.put_async(
                self._store, self._path(stored.sha256), again(), chunk_size=PART_BYTES, max_concurrency=2
            )
        return stored

    async def _clear(self, place: str) -> None:
        await self._delete([f["path"] for f in await self._list(place)])

    async def _delete(self, paths: Paths) -> None:
        try:
            with _told():
                for path in paths:
                    await obstore.delete_async(self._store, path)
        except _Missing:
            pass


class _Missing(DriverError):
    """There is no such object."""


@contextmanager
def _told() -> Iterator[None]:
    """The library's errors in the words of a driver. Its own text names addresses and keys: it stays inside."""
    try:
        yield
    except (FileNotFoundError, obstore.exceptions.NotFoundError) as e:
        raise _Missing("the image's bytes are not in this store", again=False) from e
    except (BaseError, OSError) as e:
        text = str(e)
        if any(word in text for word in _FULL):
            raise Full("the image store is full") from e
        raise DriverError("the object store cannot be reached or refuses") from e


def _end(chain: Chain) -> int:
    return chain[-1].offset + chain[-1].size if chain else 0


def _age(at: datetime) -> float:
    return (datetime.now(UTC) - at).total_seconds()
