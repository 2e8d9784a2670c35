"""The contract of an image store: immutable bytes known by their SHA-256, and uploads that are not whole yet.

An upload is known by its image's id, grows only at its end and by one writer at a time, and is seen by nobody. `finish`
turns it into content: what was hashed and checked is what becomes visible, and not a byte of it can change in between.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

import msgspec


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    ranges: bool = True
    shared: bool = False  # other control-plane machines see the same bytes


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """`directory` is for stores of files, `endpoint` and what follows for object stores."""

    directory: str = ""
    max_bytes: int = 64 << 30
    reserve_bytes: int = 0  # of the file system, below which nothing more is taken
    endpoint: str = ""
    bucket: str = ""
    prefix: str = ""  # within the bucket, ending in '/' or empty
    credentials_file: str = ""  # JSON: access_key_id, secret_access_key
    request_region: str = "us-east-1"


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    sha256: str
    size_bytes: int
    head: bytes  # the first 64 KiB, for the header check


class Content(msgspec.Struct, frozen=True, kw_only=True):
    sha256: str
    size_bytes: int
    age_s: float  # since it was stored last


class Partial(msgspec.Struct, frozen=True, kw_only=True):
    upload_id: str
    received_bytes: int
    age_s: float  # since the last byte came


Check = Callable[[Stored], Awaitable[None]]  # raises to refuse the bytes: then they are gone


class ImageStore(Protocol):
    def capabilities(self) -> Capabilities: ...

    async def put(self, chunks: AsyncIterator[bytes], check: Check | None = None) -> Stored:
        """Store a stream; nothing is visible before all of it is durable and checked. DriverError over max_bytes, Full."""

    async def received(self, upload_id: str) -> int:
        """How many bytes of an upload have come; 0 for one that never began."""

    async def append(self, upload_id: str, offset: int, chunks: AsyncIterator[bytes], fence: int = 0) -> int:
        """Go on with an upload; returns what has come then. A stream that breaks off keeps what came.

        `fence`: of the writer's lease; where two writers could meet all the same, the lower one's bytes do not count.
        Raises WrongOffset, Occupied, Full, and DriverError over max_bytes.
        """

    async def finish(self, upload_id: str, check: Check) -> Stored:
        """Hash an upload, let `check` judge it and make it content; a refused one is gone."""

    async def discard(self, upload_id: str) -> None: ...

    async def uploads(self) -> tuple[Partial, ...]: ...

    def get(self, sha256: str) -> AsyncIterator[bytes]:
        """The bytes; DriverError when they are not here."""

    async def size(self, sha256: str) -> int | None: ...

    async def remove(self, sha256: str) -> None: ...

    async def list(self) -> tuple[Content, ...]: ...
