"""The conformance suite of storage drivers: one text, run on every driver of the registry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from driver_images import sha256
from driver_volumes import HELPER, copy_of, volume

from nubila.drivers import DriverError
from nubila.drivers.storage import DRIVERS
from nubila.drivers.storage.base import Options, Storage
from nubila.drivers.storage.directory import DirectoryStorage


def _fake(place: Path) -> Callable[[], Storage]:
    from nubila.drivers.storage.fake import FakeStorage, StorageWorld

    return lambda: FakeStorage(StorageWorld(place / "world"))


def _directory(place: Path) -> Callable[[], Storage]:
    return lambda: DirectoryStorage(Options(directory=str(place / "pool"), helper_uid=HELPER))


MAKERS = {"fake": _fake, "directory": _directory}


def test_every_driver_is_tested() -> None:
    assert set(MAKERS) == set(DRIVERS)


@pytest.fixture(params=[pytest.param(n, marks=pytest.mark.real if n != "fake" else ()) for n in DRIVERS])
def again(request: pytest.FixtureRequest, spot: Path) -> Callable[[], Storage]:
    return MAKERS[request.param](spot)


@pytest.fixture
def storage(again: Callable[[], Storage]) -> Storage:
    return again()


def test_nothing_is_there_at_first(storage: Storage) -> None:
    observed = storage.observe()
    assert (observed.volumes, observed.images) == ((), ())
    assert storage.free_gib() > 0


@pytest.mark.parametrize("format_", ["qcow2", "raw"])
def test_a_volume_made_twice_is_there_once(again: Callable[[], Storage], format_: str) -> None:
    storage = again()
    if format_ not in storage.capabilities().formats:
        pytest.skip(f"capability formats has no {format_}")
    path = storage.ensure_volume(volume(format=format_))
    assert storage.ensure_volume(volume(format=format_)) == path
    for driver in (storage, again()):
        assert [(v.volume_id, v.path, v.format) for v in driver.observe().volumes] == [
            (volume().volume_id, path, format_)
        ]
    for _ in range(2):
        storage.remove_volume(volume().volume_id)
    assert storage.observe().volumes == ()


def test_an_image_serves_volumes_and_stays_while_it_does(again: Callable[[], Storage], image: Path) -> None:
    storage = again()
    if not storage.capabilities().copy_on_write:
        pytest.skip("capability copy_on_write")
    digest = sha256(image)
    wish = volume(image_sha256=digest, image_format="qcow2")
    with pytest.raises(DriverError):
        storage.ensure_volume(wish)
    for _ in range(2):
        storage.ensure_image(digest, copy_of(image))
    storage.ensure_volume(wish)
    assert again().observe().images == (digest,)
    with pytest.raises(DriverError) as error:
        storage.remove_image(digest)
    assert error.value.again
    storage.remove_volume(wish.volume_id)
    for _ in range(2):
        storage.remove_image(digest)
    assert storage.observe().images == ()


def test_wrong_bytes_are_no_image(storage: Storage, image: Path) -> None:
    with pytest.raises(DriverError, match="hash"):
        storage.ensure_image("0" * 64, copy_of(image))
    assert storage.observe().images == ()


def test_a_fetch_that_fails_leaves_nothing(storage: Storage, image: Path) -> None:
    def fetch(path: Path) -> None:
        path.write_bytes(b"half of it")
        raise DriverError("the connection was cut")

    with pytest.raises(DriverError, match="cut"):
        storage.ensure_image(sha256(image), fetch)
    assert storage.observe().images == ()
    storage.ensure_image(sha256(image), copy_of(image))


def test_an_unknown_format_is_refused_for_good(storage: Storage) -> None:
    with pytest.raises(DriverError) as error:
        storage.ensure_volume(volume(format="vmdk"))
    assert not error.value.again


def test_a_volume_grows_and_never_shrinks(again: Callable[[], Storage]) -> None:
    storage = again()
    if not storage.capabilities().resize:
        pytest.skip("capability resize")
    for format_ in storage.capabilities().formats:
        wish = volume(len(format_), format=format_)
        storage.ensure_volume(wish)
        for _ in range(2):
            storage.grow_volume(wish.volume_id, 3)
        storage.grow_volume(wish.volume_id, 2)
        for driver in (storage, again()):
            found = driver.find(wish.volume_id)
            assert found is not None
            assert found.size_gib == 3
    with pytest.raises(DriverError):
        storage.grow_volume("vol-absent", 3)


def test_snapshots_are_kept_and_dropped_and_only_where_the_format_can(again: Callable[[], Storage]) -> None:
    storage = again()
    for format_ in storage.capabilities().formats:
        wish = volume(len(format_), format=format_)
        storage.ensure_volume(wish)
        if format_ not in storage.capabilities().snapshot_formats:
            with pytest.raises(DriverError) as error:
                storage.make_snapshot(wish.volume_id, "snap-1")
            assert not error.value.again
            continue
        for name in ("snap-1", "snap-2", "snap-1"):
            storage.make_snapshot(wish.volume_id, name)
        for driver in (storage, again()):
            found = driver.find(wish.volume_id)
            assert found is not None
            assert found.snapshots == ("snap-1", "snap-2")
        storage.roll_back(wish.volume_id, "snap-1")
        for _ in range(2):
            storage.remove_snapshot(wish.volume_id, "snap-1")
        with pytest.raises(DriverError):
            storage.roll_back(wish.volume_id, "snap-1")
        found = storage.find(wish.volume_id)
        assert found is not None
        assert found.snapshots == ("snap-2",)


def test_a_copy_is_another_volume_made_once(again: Callable[[], Storage]) -> None:
    storage = again()
    source, copy = volume(1), volume(2, size_gib=2)
    storage.ensure_volume(source)
    path = storage.copy_volume(source.volume_id, copy)
    assert storage.copy_volume(source.volume_id, copy) == path
    storage.remove_volume(source.volume_id)
    for driver in (storage, again()):
        found = driver.find(copy.volume_id)
        assert found is not None
        assert (found.path, found.size_gib) == (path, 2)
    with pytest.raises(DriverError):
        storage.copy_volume(source.volume_id, volume(3))
    assert storage.find(volume(3).volume_id) is None


def test_what_a_hypervisor_copies_is_a_volume_only_when_it_is_whole(again: Callable[[], Storage]) -> None:
    storage = again()
    wish = volume(4)
    for _ in range(2):
        storage.begin_copy(wish)
    assert storage.find(wish.volume_id) is None
    assert storage.observe().volumes == ()
    path = storage.end_copy(wish)
    assert storage.end_copy(wish) == path
    found = storage.find(wish.volume_id)
    assert found is not None
    assert found.path == path


def exported(storage: Storage, export_id: str) -> bytes:
    file = storage.open_export(export_id)
    assert file is not None
    with file:
        return file.read()


def test_an_export_is_whole_stays_as_it_is_and_needs_its_volume_no_more(again: Callable[[], Storage]) -> None:
    storage = again()
    for format_ in storage.capabilities().formats:
        wish, name = volume(len(format_)), f"img-{format_}"
        storage.ensure_volume(wish)
        assert storage.open_export(name) is None
        storage.export_volume(wish.volume_id, name, format_)
        first = exported(storage, name)
        storage.export_volume(wish.volume_id, name, format_)
        storage.remove_volume(wish.volume_id)
        for driver in (storage, again()):
            assert exported(driver, name) == first
            assert name in driver.observe().exports
        storage.export_volume(wish.volume_id, name, format_)  # it is there: its source is not asked for
    with pytest.raises(DriverError):
        storage.export_volume("vol-absent", "img-absent", "raw")
    assert storage.open_export("img-absent") is None
    for name in storage.observe().exports:
        for _ in range(2):
            storage.remove_export(name)
    assert storage.observe().exports == ()
    storage.ensure_volume(volume())
    with pytest.raises(DriverError) as error:
        storage.export_volume(volume().volume_id, "img-1", "vmdk")
    assert not error.value.again


def test_what_a_hypervisor_copies_is_an_export_only_when_it_is_whole(again: Callable[[], Storage]) -> None:
    from nubila.drivers.storage.fake import FakeStorage

    storage = again()
    wish = volume(4, volume_id="img-4")
    for _ in range(2):
        place = storage.begin_copy(wish)
    if isinstance(storage, FakeStorage):
        storage.world.copied("vol-x", place)
    assert storage.open_export("img-4") is None
    assert storage.observe().exports == ()
    for _ in range(2):
        storage.end_export("img-4", wish.format)
    assert storage.observe().exports == ("img-4",)
    assert storage.observe().volumes == ()
    storage.remove_export("img-4")
    storage.begin_copy(wish)
    storage.remove_export("img-4")  # one that never became whole too
    with pytest.raises(DriverError):
        storage.end_export("img-4", wish.format)


def test_nobody_has_open_what_nobody_opened(storage: Storage) -> None:
    assert storage.is_free("vol-absent")
    storage.ensure_volume(volume())
    assert storage.is_free(volume().volume_id)
    storage.disown_volume(volume().volume_id)
    storage.disown_volume("vol-absent")
