"""The conformance suite of image stores, and what the file store promises about its files."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from nubila.drivers import DriverError
from nubila.drivers.image_store import DRIVERS
from nubila.drivers.image_store.base import ImageStore, Options
from nubila.drivers.image_store.file import FileImageStore
from nubila.drivers.registry import load


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


@pytest.fixture(params=sorted(DRIVERS))
def again(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], ImageStore]:
    make = load(DRIVERS, request.param)
    options = Options(directory=str(tmp_path / "images"), max_bytes=8 << 20)
    if request.param == "fake":
        store = make(options)
        return lambda: store
    return lambda: make(options)


@pytest.fixture
def store(again: Callable[[], ImageStore]) -> ImageStore:
    return again()


async def read(store: ImageStore, sha256: str) -> bytes:
    return b"".join([block async for block in store.get(sha256)])


async def test_what_was_put_is_got(again: Callable[[], ImageStore]) -> None:
    data = os.urandom(3 << 20)
    stored = await again().put(chunks(data[:10], data[10:2000], data[2000:]))
    assert stored.sha256 == hashlib.sha256(data).hexdigest()
    assert stored.size_bytes == len(data)
    assert stored.head == data[: 64 << 10]
    store = again()
    assert await read(store, stored.sha256) == data
    assert await store.size(stored.sha256) == len(data)
    assert await store.list() == (stored.sha256,)
    assert (await store.put(chunks(data))).sha256 == stored.sha256
    assert await store.list() == (stored.sha256,)
    for _ in range(2):
        await store.remove(stored.sha256)
    assert await store.list() == ()
    assert await store.size(stored.sha256) is None


async def test_what_is_not_there_is_told(store: ImageStore) -> None:
    with pytest.raises(DriverError):
        await read(store, "0" * 64)


async def test_too_much_is_refused_and_leaves_nothing(store: ImageStore) -> None:
    with pytest.raises(DriverError, match="larger"):
        await store.put(chunks(bytes(5 << 20), bytes(5 << 20)))
    assert await store.list() == ()


async def test_a_stream_that_breaks_leaves_nothing(store: ImageStore) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield bytes(2 << 20)
        raise ConnectionResetError

    with pytest.raises((ConnectionResetError, DriverError)):
        await store.put(broken())
    assert await store.list() == ()


async def test_files_are_read_only_and_no_partial_one_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileImageStore(Options(directory=str(tmp_path / "images")))
    stored = await store.put(chunks(b"x" * 100))
    assert (tmp_path / "images" / stored.sha256).stat().st_mode & 0o777 == 0o400

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DriverError, match="full"):
        await store.put(chunks(b"y" * 100))
    assert [p.name for p in (tmp_path / "images").iterdir()] == [stored.sha256]


async def test_only_old_leftovers_are_swept(tmp_path: Path) -> None:
    store = FileImageStore(Options(directory=str(tmp_path)))
    for name, age_s in (("old", 100_000), ("young", 10)):
        path = tmp_path / f".partial-{name}"
        path.touch()
        os.utime(path, (path.stat().st_mtime - age_s,) * 2)
    assert store.sweep() == 1
    assert [p.name for p in tmp_path.iterdir()] == [".partial-young"]


@pytest.mark.parametrize("evil", ["../x", "", "A" * 64, "0" * 63])
async def test_no_name_leads_out_of_the_store(tmp_path: Path, evil: str) -> None:
    store = FileImageStore(Options(directory=str(tmp_path)))
    with pytest.raises(DriverError):
        await store.remove(evil)
