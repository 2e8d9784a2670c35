"""The conformance suite of image stores, and what the file store promises about its files."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import itertools
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.rgw import Gateway, gateway

from nubila.drivers import DriverError, Occupied, WrongOffset
from nubila.drivers.image_store import DRIVERS
from nubila.drivers.image_store import file as file_module
from nubila.drivers.image_store.base import ImageStore, Options, Stored
from nubila.drivers.image_store.file import FileImageStore
from nubila.drivers.registry import load


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


NUMBER = itertools.count()


@pytest.fixture(scope="session")
def rgw() -> Iterator[Gateway]:
    with gateway() as made:
        yield made


@pytest.fixture(params=["fake", "file", pytest.param("s3", marks=pytest.mark.real)])
def again(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], ImageStore]:
    make = load(DRIVERS, request.param)
    options = Options(directory=str(tmp_path / "images"), max_bytes=8 << 20)
    if request.param == "s3":
        bucket: Gateway = request.getfixturevalue("rgw")
        options = Options(
            endpoint=bucket.endpoint,
            bucket=bucket.bucket,
            prefix=f"t{next(NUMBER)}/",
            credentials_file=bucket.credentials_file,
            max_bytes=8 << 20,
        )
    if request.param == "fake":
        store = make(options)
        return lambda: store
    return lambda: make(options)


@pytest.fixture
def store(again: Callable[[], ImageStore]) -> ImageStore:
    return again()


async def read(store: ImageStore, sha256: str) -> bytes:
    return b"".join([block async for block in store.get(sha256)])


async def names(store: ImageStore) -> list[str]:
    return [c.sha256 for c in await store.list()]


async def test_what_was_put_is_got(again: Callable[[], ImageStore]) -> None:
    data = os.urandom(3 << 20)
    stored = await again().put(chunks(data[:10], data[10:2000], data[2000:]))
    assert stored.sha256 == hashlib.sha256(data).hexdigest()
    assert stored.size_bytes == len(data)
    assert stored.head == data[: 64 << 10]
    store = again()
    assert await read(store, stored.sha256) == data
    assert await store.size(stored.sha256) == len(data)
    assert await names(store) == [stored.sha256]
    assert (await store.put(chunks(data))).sha256 == stored.sha256
    assert await names(store) == [stored.sha256]
    for _ in range(2):
        await store.remove(stored.sha256)
    assert await names(store) == []
    assert await store.size(stored.sha256) is None


async def test_what_is_not_there_is_told(store: ImageStore) -> None:
    with pytest.raises(DriverError):
        await read(store, "0" * 64)


async def test_too_much_is_refused_and_leaves_nothing(store: ImageStore) -> None:
    with pytest.raises(DriverError, match="larger"):
        await store.put(chunks(bytes(5 << 20), bytes(5 << 20)))
    assert await names(store) == []


async def test_a_stream_that_breaks_leaves_nothing(store: ImageStore) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield bytes(2 << 20)
        raise ConnectionResetError

    with pytest.raises((ConnectionResetError, DriverError)):
        await store.put(broken())
    assert await names(store) == []


def test_every_driver_is_tested() -> None:
    assert set(DRIVERS) == {"fake", "file", "s3"}


# --- uploads

UPLOAD = "img-" + "0" * 26


async def accept(_: Stored) -> None:
    pass


async def test_an_upload_grows_at_its_end_and_becomes_content(again: Callable[[], ImageStore]) -> None:
    data = os.urandom(3 << 20)
    assert await again().received(UPLOAD) == 0
    assert await again().append(UPLOAD, 0, chunks(data[:1000], data[1000 : 2 << 20]), 1) == 2 << 20
    store = again()  # another process goes on
    assert await store.received(UPLOAD) == 2 << 20
    for wrong in (0, 1000, (2 << 20) + 1):
        with pytest.raises(WrongOffset) as e:
            await store.append(UPLOAD, wrong, chunks(b"no"), 2)
        assert e.value.received == 2 << 20
    assert await names(store) == []
    assert await store.append(UPLOAD, 2 << 20, chunks(data[2 << 20 :]), 2) == len(data)
    assert [(u.upload_id, u.received_bytes) for u in await store.uploads()] == [(UPLOAD, len(data))]
    seen: list[Stored] = []

    async def look(stored: Stored) -> None:
        seen.append(stored)
        assert await names(store) == []  # nothing is visible before it was judged

    stored = await store.finish(UPLOAD, look)
    assert seen == [stored]
    assert stored.sha256 == hashlib.sha256(data).hexdigest()
    assert (stored.size_bytes, stored.head) == (len(data), data[: 64 << 10])
    assert await read(again(), stored.sha256) == data
    assert await store.uploads() == ()
    assert await store.received(UPLOAD) == 0


async def test_an_upload_that_breaks_keeps_what_came(again: Callable[[], ImageStore]) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield bytes(1 << 20)
        yield bytes(1 << 20)
        raise ConnectionResetError

    with pytest.raises((ConnectionResetError, DriverError)):
        await again().append(UPLOAD, 0, broken(), 1)
    store = again()
    received = await store.received(UPLOAD)
    assert 0 <= received <= 2 << 20
    await store.append(UPLOAD, received, chunks(bytes((2 << 20) - received), b"end"), 2)
    stored = await store.finish(UPLOAD, accept)
    assert stored.sha256 == hashlib.sha256(bytes(2 << 20) + b"end").hexdigest()


async def test_a_refused_upload_is_gone(store: ImageStore) -> None:
    async def refuse(_: Stored) -> None:
        raise ValueError("judged evil")

    await store.append(UPLOAD, 0, chunks(b"evil"), 1)
    with pytest.raises(ValueError, match="judged evil"):
        await store.finish(UPLOAD, refuse)
    assert await names(store) == []
    assert await store.received(UPLOAD) == 0
    with pytest.raises(ValueError, match="judged evil"):
        await store.put(chunks(b"evil"), refuse)
    assert await names(store) == []


async def test_an_upload_over_the_limit_is_refused(store: ImageStore) -> None:
    await store.append(UPLOAD, 0, chunks(bytes(5 << 20)), 1)
    with pytest.raises(DriverError, match="larger"):
        await store.append(UPLOAD, 5 << 20, chunks(bytes(5 << 20)), 1)


async def test_a_discarded_upload_begins_anew(store: ImageStore) -> None:
    await store.append(UPLOAD, 0, chunks(b"old bytes"), 1)
    for _ in range(2):
        await store.discard(UPLOAD)
    assert await store.received(UPLOAD) == 0
    await store.append(UPLOAD, 0, chunks(b"new"), 2)
    assert (await store.finish(UPLOAD, accept)).sha256 == hashlib.sha256(b"new").hexdigest()


async def test_two_writers_never_mix_their_bytes(again: Callable[[], ImageStore]) -> None:
    """The slow one goes on after the other began: what is published is what one of them sent, whole."""
    began, go = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"a" * (1 << 20)
        began.set()
        await go.wait()
        yield b"a" * (1 << 20)

    store = again()
    first = asyncio.create_task(store.append(UPLOAD, 0, slow(), 1))
    await began.wait()
    other = again()
    got: list[int] = []
    with contextlib.suppress(Occupied, WrongOffset):
        got.append(await other.append(UPLOAD, 0, chunks(b"b" * (2 << 20)), 2))
    go.set()
    with contextlib.suppress(DriverError):
        got.append(await first)
    assert got
    stored = await other.finish(UPLOAD, accept)
    assert await read(other, stored.sha256) in (b"a" * (2 << 20), b"b" * (2 << 20))


@pytest.mark.parametrize(
    "evil", ["../x", "", "/etc/passwd", "img-" + "A" * 26, "img-" + "0" * 25, "img-" + "0" * 26 + "\n"]
)
async def test_a31_no_upload_leads_out_of_the_store(store: ImageStore, evil: str) -> None:
    for call in (
        store.received(evil),
        store.append(evil, 0, chunks(b"x"), 1),
        store.finish(evil, accept),
        store.discard(evil),
    ):
        with pytest.raises(DriverError):
            await call
    assert await store.uploads() == ()


async def test_a31_mutant_that_takes_any_id_writes_beside_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileImageStore(Options(directory=str(tmp_path / "images")))
    monkeypatch.setattr(file_module, "check_upload_id", lambda upload_id: upload_id)
    await store.append("../../beside", 0, chunks(b"x"), 1)
    assert (tmp_path / "beside").read_bytes() == b"x"


async def test_a31_a_link_in_the_place_of_an_upload_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant, which follows it, writes into the victim."""
    store = FileImageStore(Options(directory=str(tmp_path / "images")))
    victim = tmp_path / "victim"
    victim.write_bytes(b"")
    (tmp_path / "images" / "uploads" / UPLOAD).symlink_to(victim)
    with pytest.raises(DriverError):
        await store.append(UPLOAD, 0, chunks(b"x"), 1)
    assert victim.read_bytes() == b""
    monkeypatch.setattr(os, "O_NOFOLLOW", 0)
    monkeypatch.setattr(os.path, "samestat", lambda *_: True)
    await store.append(UPLOAD, 0, chunks(b"x"), 1)
    assert victim.read_bytes() == b"x"


async def test_a21_what_was_checked_is_what_is_published(tmp_path: Path) -> None:
    """While the check looks at the bytes, another process of ours tries to write, to finish and to swap the file."""
    store, other = (FileImageStore(Options(directory=str(tmp_path / "images"))) for _ in range(2))
    good = b"good" * 1000
    await store.append(UPLOAD, 0, chunks(good), 1)

    async def meanwhile(_: Stored) -> None:
        with pytest.raises(Occupied):
            await other.append(UPLOAD, len(good), chunks(b"evil"), 2)
        with pytest.raises(Occupied):
            await other.finish(UPLOAD, accept)

    stored = await store.finish(UPLOAD, meanwhile)
    assert await read(store, stored.sha256) == good
    assert hashlib.sha256(await read(store, stored.sha256)).hexdigest() == stored.sha256


async def test_a21_mutant_without_the_lock_what_is_published_is_not_what_was_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = (FileImageStore(Options(directory=str(tmp_path / "images"))) for _ in range(2))
    await store.append(UPLOAD, 0, chunks(b"good"), 1)
    monkeypatch.setattr(file_module.fcntl, "flock", lambda *_: None)

    async def meanwhile(_: Stored) -> None:
        await other.append(UPLOAD, 4, chunks(b"evil"), 2)

    stored = await store.finish(UPLOAD, meanwhile)
    assert hashlib.sha256(await read(store, stored.sha256)).hexdigest() != stored.sha256


async def test_f31_an_error_of_the_disk_is_told_leaves_nothing_and_the_upload_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EIO while bytes are taken, and again when the whole is made durable: no content appears, nothing that came is lost."""
    store = FileImageStore(Options(directory=str(tmp_path / "images")))
    content = os.urandom(3 << 20)

    def broken(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    await store.append(UPLOAD, 0, chunks(content[: 1 << 20]), 1)
    with monkeypatch.context() as m:
        m.setattr(FileImageStore, "_write", broken)
        for call in (store.append(UPLOAD, 1 << 20, chunks(content[1 << 20 :]), 2), store.put(chunks(content))):
            with pytest.raises(DriverError, match="Input/output") as error:
                await call
            assert error.value.again
    here = await store.received(UPLOAD)
    assert here == 1 << 20
    await store.append(UPLOAD, here, chunks(content[here:]), 3)
    with monkeypatch.context() as m:
        m.setattr(os, "fsync", broken)
        with pytest.raises(DriverError, match="Input/output"):
            await store.finish(UPLOAD, accept)
    assert await store.list() == ()
    stored = await store.finish(UPLOAD, accept)
    assert await read(store, stored.sha256) == content


async def test_files_are_read_only_and_no_partial_one_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileImageStore(Options(directory=str(tmp_path / "images")))
    stored = await store.put(chunks(b"x" * 100))
    assert (tmp_path / "images" / stored.sha256).stat().st_mode & 0o777 == 0o400

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DriverError, match="full"):
        await store.put(chunks(b"y" * 100))
    assert sorted(p.name for p in (tmp_path / "images").iterdir()) == sorted([stored.sha256, "uploads"])


async def test_only_old_leftovers_are_swept(tmp_path: Path) -> None:
    store = FileImageStore(Options(directory=str(tmp_path)))
    for name, age_s in (("old", 100_000), ("young", 10)):
        path = tmp_path / f".partial-{name}"
        path.touch()
        os.utime(path, (path.stat().st_mtime - age_s,) * 2)
    assert store.sweep() == 1
    assert [p.name for p in tmp_path.glob(".partial-*")] == [".partial-young"]


@pytest.mark.parametrize("evil", ["../x", "", "A" * 64, "0" * 63])
async def test_no_name_leads_out_of_the_store(tmp_path: Path, evil: str) -> None:
    store = FileImageStore(Options(directory=str(tmp_path)))
    with pytest.raises(DriverError):
        await store.remove(evil)
