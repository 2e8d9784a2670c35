"""The conformance suite of storage drivers, and what the directory driver promises about its bytes."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from driver_images import make_qcow2, patched, qemu_img, sha256

from nubila.drivers import DriverError
from nubila.drivers.storage import DRIVERS, qcow2
from nubila.drivers.storage.base import Options, Storage, Volume
from nubila.drivers.storage.directory import DirectoryStorage


def _fake(place: Path) -> Callable[[], Storage]:
    from nubila.drivers.storage.fake import FakeStorage, StorageWorld

    return lambda: FakeStorage(StorageWorld(place / "world"))


def _directory(place: Path) -> Callable[[], Storage]:
    return lambda: DirectoryStorage(Options(directory=str(place / "pool"), helper_uid=HELPER))


MAKERS = {"fake": _fake, "directory": _directory}
UID = 1_900_001
HELPER = 1_900_099


def test_every_driver_is_tested() -> None:
    assert set(MAKERS) == set(DRIVERS)


@pytest.fixture
def spot(place: Path, tmp_path: Path) -> Path:
    path = place / tmp_path.name
    path.mkdir(mode=0o711)
    return path


@pytest.fixture(params=[pytest.param(n, marks=pytest.mark.real if n != "fake" else ()) for n in DRIVERS])
def again(request: pytest.FixtureRequest, spot: Path) -> Callable[[], Storage]:
    return MAKERS[request.param](spot)


@pytest.fixture
def storage(again: Callable[[], Storage]) -> Storage:
    return again()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qcow2(tmp_path_factory.mktemp("image") / "image.qcow2")


def volume(number: int = 1, **change: Any) -> Volume:
    wish = Volume(volume_id=f"vol-01{number:024d}", format="qcow2", size_gib=1, uid=UID, gid=UID)
    return msgspec.structs.replace(wish, **change)


def copy_of(image: Path) -> Callable[[Path], None]:
    return lambda path: shutil.copyfile(image, path) and None


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


# --- the directory driver's own promises


@pytest.fixture
def pool(spot: Path) -> DirectoryStorage:
    return DirectoryStorage(Options(directory=str(spot / "pool"), helper_uid=HELPER))


def files(pool: DirectoryStorage) -> list[str]:
    return sorted(str(p.relative_to(pool._layout.root)) for p in pool._layout.root.rglob("*") if p.is_file())


real = pytest.mark.real


@real
def test_an_overlay_is_what_qemu_img_would_make(pool: DirectoryStorage, image: Path) -> None:
    pool.ensure_image(sha256(image), copy_of(image))
    path = pool.ensure_volume(volume(image_sha256=sha256(image), image_format="qcow2"))
    qemu_img("check", "-f", "qcow2", path)
    info = msgspec.json.decode(qemu_img("info", "--output=json", "-f", "qcow2", path))
    assert info["virtual-size"] == 1 << 30
    assert info["backing-filename-format"] == "qcow2"
    assert os.path.realpath(info["full-backing-filename"]) == str(pool._layout.images.resolve() / sha256(image))
    assert "Images are identical" in qemu_img("compare", "-f", "qcow2", "-F", "qcow2", path, image)
    stat = os.stat(path)
    assert (stat.st_uid, stat.st_gid, stat.st_mode & 0o777) == (UID, UID, 0o600)
    assert os.stat(pool._layout.images / sha256(image)).st_mode & 0o777 == 0o444


@real
@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
def test_a_raw_volume_is_a_sparse_copy(pool: DirectoryStorage, image: Path, tmp_path: Path, image_format: str) -> None:
    source = image
    if image_format == "raw":
        source = tmp_path / "raw"
        qemu_img("convert", "-f", "qcow2", "-O", "raw", image, source)
    pool.ensure_image(sha256(source), copy_of(source))
    path = pool.ensure_volume(volume(format="raw", image_sha256=sha256(source), image_format=image_format))
    assert os.stat(path).st_size == 1 << 30
    assert os.stat(path).st_blocks * 512 < 1 << 20
    assert "Images are identical" in qemu_img("compare", "-f", "raw", "-F", image_format, path, source)


@real
@pytest.mark.parametrize("gib", [1, 100, 1024, 65536])
def test_empty_volumes_of_any_size_are_sound(pool: DirectoryStorage, gib: int) -> None:
    path = pool.ensure_volume(volume(size_gib=gib))
    qemu_img("check", "-f", "qcow2", path)
    assert msgspec.json.decode(qemu_img("info", "--output=json", "-f", "qcow2", path))["virtual-size"] == gib << 30


@real
def test_an_existing_volumes_bytes_are_never_touched(pool: DirectoryStorage) -> None:
    path = Path(pool.ensure_volume(volume()))
    path.write_bytes(b"what the guest wrote")
    pool.ensure_volume(volume(size_gib=5, uid=UID + 1, gid=UID + 1))
    assert path.read_bytes() == b"what the guest wrote"
    assert path.stat().st_uid == UID + 1


@real
def test_evil_images_never_become_volumes(pool: DirectoryStorage, image: Path, tmp_path: Path) -> None:
    evil = tmp_path / "evil"
    evil.write_bytes(patched(image.read_bytes(), 8, ">QI", 200, 11))
    pool.ensure_image(sha256(evil), copy_of(evil))
    for format_ in ("qcow2", "raw"):
        with pytest.raises(DriverError, match="backing file") as error:
            pool.ensure_volume(volume(format=format_, image_sha256=sha256(evil), image_format="qcow2"))
        assert not error.value.again
    path = pool.ensure_volume(volume(2, format="raw", image_sha256=sha256(evil), image_format="raw"))
    assert Path(path).read_bytes()[: evil.stat().st_size] == evil.read_bytes()
    assert not [f for f in files(pool) if f.startswith("tmp/")]


@real
def test_a_volume_smaller_than_its_image_is_refused(pool: DirectoryStorage, tmp_path: Path) -> None:
    large = make_qcow2(tmp_path / "large", "3G")
    pool.ensure_image(sha256(large), copy_of(large))
    with pytest.raises(DriverError, match="3 GiB") as error:
        pool.ensure_volume(volume(size_gib=2, image_sha256=sha256(large), image_format="qcow2"))
    assert not error.value.again


@real
def test_a_full_disk_is_told_and_leaves_nothing(
    pool: DirectoryStorage, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        path.write_bytes(b"some of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DriverError, match="full") as error:
        pool.ensure_image(sha256(image), full)
    assert error.value.again
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10 << 30, 10 << 30, 1 << 20))
    with pytest.raises(DriverError, match="reserve"):
        pool.ensure_volume(volume())
    assert files(pool) == []


@real
def test_what_a_killed_agent_left_is_swept_and_strangers_are_shown(pool: DirectoryStorage) -> None:
    pool.ensure_volume(volume())
    (pool._layout.tmp / "left").write_bytes(b"half")
    (pool._layout.volumes / "notes.txt").write_bytes(b"someone's")
    os.symlink("/etc/passwd", pool._layout.volumes / "vol-x.raw")
    fresh = DirectoryStorage(pool._options)
    assert [v.volume_id for v in fresh.observe().volumes] == [volume().volume_id]
    assert sorted(fresh.observe().foreign) == ["volumes/notes.txt", "volumes/vol-x.raw"]
    assert not (pool._layout.tmp / "left").exists()


@real
@pytest.mark.parametrize("evil", ["../../etc/x", "vol-1/../../x", "vol-1\n", "", "vol-" + "a" * 100])
def test_no_id_leads_out_of_the_pool(pool: DirectoryStorage, evil: str) -> None:
    for call in (lambda: pool.ensure_volume(volume(volume_id=evil)), lambda: pool.remove_volume(evil)):
        with pytest.raises(DriverError):
            call()
    with pytest.raises(DriverError):
        pool.remove_image(evil)


@real
def test_a31_mutant_that_takes_any_id_writes_beside_the_pool(
    pool: DirectoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = pool._directory.parent / "beside.raw"
    with pytest.raises(DriverError):
        pool.ensure_volume(volume(volume_id="../../beside", format="raw"))
    assert not beside.exists()
    monkeypatch.setattr("nubila.drivers.storage.directory._check_volume_id", lambda volume_id: None)
    pool.ensure_volume(volume(volume_id="../../beside", format="raw"))
    assert beside.exists()
    beside.unlink()


@real
def test_a_pool_that_qemu_could_not_reach_is_refused(spot: Path) -> None:
    (spot / "closed").mkdir(mode=0o700)
    with pytest.raises(DriverError, match="0711"):
        DirectoryStorage(Options(directory=str(spot / "closed" / "pool"))).observe()


def test_the_writer_refuses_what_it_cannot_write() -> None:
    for call in (
        lambda: qcow2.empty(1 << 30, "x"),
        lambda: qcow2.empty(1 << 30, "x" * 2000, "raw"),
        lambda: qcow2.empty(1 << 62),
    ):
        with pytest.raises(ValueError, match=r"format|path|large"):
            call()
    assert qcow2.backing_of(qcow2.empty(1 << 30, "../images/a", "raw")) == "../images/a"
    assert qcow2.backing_of(qcow2.empty(1 << 30)) is None
    assert qcow2.backing_of(b"") is None
