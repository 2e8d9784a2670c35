"""Fetching an image's content from an address, by a helper process that may do little (see fetch_child.py).

The control plane never opens such a connection itself: what a stranger's server sends is parsed over there, with limits
on memory and processor, without files, and without the environment of this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec

from nubila.drivers import DriverError

CHILD = Path(__file__).with_name("fetch_child.py")
PIECE_BYTES = 1 << 20
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


async def fetch(task: Task, size: Callable[[int], None]) -> AsyncIterator[bytes]:
    """The bytes behind an address; `size` is told how many there will be. Raises DriverError, also in the middle."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        str(CHILD),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
        cwd="/",
        limit=PIECE_BYTES,
        start_new_session=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    last = _Word(error="the helper ended without a word")
    words = asyncio.create_task(_listen(child.stderr, size))
    try:
        child.stdin.write(msgspec.json.encode(task) + b"\n")
        await child.stdin.drain()
        child.stdin.close()
        while True:
            async with asyncio.timeout(SILENCE_S):
                piece = await child.stdout.read(PIECE_BYTES)
            if not piece:
                break
            yield piece
        last = await words or last
        if not last.done:
            raise DriverError((last.error or "the helper failed")[:_WORDS_MAX], again=last.again)
    except TimeoutError as e:
        raise DriverError(f"nothing came for {SILENCE_S:g} s") from e
    except (BrokenPipeError, ConnectionResetError) as e:
        raise DriverError("the helper ended too soon") from e
    finally:
        words.cancel()
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await asyncio.shield(child.wait())


async def _listen(stream: Any, size: Callable[[int], None]) -> _Word | None:
    """The helper's last word. What is no word of its protocol is dropped: a stranger may have a hand in it."""
    last = None
    while line := await stream.readline():
        try:
            word = msgspec.json.decode(line, type=_Word)
        except msgspec.DecodeError:
            continue
        if word.size_bytes is not None:
            size(word.size_bytes)
        if word.error is not None or word.done:
            last = word
    return last
