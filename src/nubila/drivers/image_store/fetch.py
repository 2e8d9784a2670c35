"""Fetching an image's content from an address, by the process that may do little else (see fetcher.py).

The control plane never opens such a connection itself: what a stranger's server sends is parsed over there, under
another user, with limits on memory and processor, and without files.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec

from nubila.drivers import DriverError
from nubila.drivers.image_store.fetch_child import DATA, FRAME

FRAME_MAX_BYTES = 1 << 20
SILENCE_S = 60.0
_WORDS_MAX = 200


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """`allow`: prefixes that may be reached although they are not public. `own_ports` are never reached on this machine."""

    url: str
    max_bytes: int
    allow: tuple[str, ...] = ()
    own_ports: tuple[int, ...] = ()
    ca_file: str | None = None


class _Word(msgspec.Struct):
    size_bytes: int | None = None
    error: str | None = None
    again: bool = True
    done: bool = False


async def fetch(socket: Path, task: Task, size: Callable[[int], None]) -> AsyncIterator[bytes]:
    """The bytes behind an address; `size` is told how many there will be. Raises DriverError, also in the middle."""
    try:
        reader, writer = await asyncio.open_unix_connection(str(socket))
    except OSError as e:
        raise DriverError("the process that fetches images is away") from e
    try:
        writer.write(msgspec.json.encode(task) + b"\n")
        await writer.drain()
        while True:
            async with asyncio.timeout(SILENCE_S):
                kind, length = FRAME.unpack(await reader.readexactly(FRAME.size))
                if length > FRAME_MAX_BYTES:
                    raise DriverError("the helper sent what is no part of a content")
                piece = await reader.readexactly(length)
            if kind == DATA:
                yield piece
            elif _heard(piece, size):
                return
    except TimeoutError as e:
        raise DriverError(f"nothing came for {SILENCE_S:g} s") from e
    except (asyncio.IncompleteReadError, OSError) as e:
        raise DriverError("the helper ended too soon") from e
    finally:
        writer.close()


def _heard(line: bytes, size: Callable[[int], None]) -> bool:
    """Whether that was all. What is no word of the protocol is dropped: a stranger may have a hand in it."""
    try:
        word = msgspec.json.decode(line, type=_Word)
    except msgspec.DecodeError:
        return False
    if word.size_bytes is not None:
        size(word.size_bytes)
    if word.error is not None:
        raise DriverError(word.error[:_WORDS_MAX], again=word.again)
    return word.done
