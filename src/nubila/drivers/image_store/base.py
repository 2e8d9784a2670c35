"""The contract of an image store: immutable bytes known by their SHA-256."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

import msgspec


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    ranges: bool = True
    shared: bool = False  # other control-plane machines see the same bytes


class Options(msgspec.Struct, frozen=True, kw_only=True):
    directory: str
    max_bytes: int = 64 << 30


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    sha256: str
    size_bytes: int
    head: bytes  # the first 64 KiB, for the header check


class ImageStore(Protocol):
    def capabilities(self) -> Capabilities: ...

    async def put(self, chunks: AsyncIterator[bytes]) -> Stored:
        """Store a stream; nothing is visible before all of it is durable. Raises DriverError over max_bytes."""

    def get(self, sha256: str) -> AsyncIterator[bytes]:
        """The bytes; DriverError when they are not here."""

    async def size(self, sha256: str) -> int | None: ...

    async def remove(self, sha256: str) -> None: ...

    async def list(self) -> tuple[str, ...]: ...
