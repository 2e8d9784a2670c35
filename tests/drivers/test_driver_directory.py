"""What only the directory driver promises about its files: what they hold, whose they are, and what never becomes one."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import msgspec
import pytest
from driver_images import make_qcow2, patched, qemu_img, sha256
from driver_volumes import HELPER, UID, copy_of, volume

from nubila.drivers import DriverError
from nubila.drivers.storage import qcow2
from nubila.drivers.storage.base import Options
from nubila.drivers.storage.directory import DirectoryStorage

real = pytest.mark.real


@pytest.fixture
def pool(spot: Path) -> DirectoryStorage:
    return DirectoryStorage(Options(directory=str(spot / "pool"), helper_uid=HELPER))


def files(pool: DirectoryStorage) -> list[str]:
    return sorted(str(p.relative_to(pool._layout.root)) for p in pool._layout.root.rglob("*") if p.is_file())


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
    beside = pool._layout.root.parent / "beside.raw"
    with pytest.raises(DriverError):
        pool.ensure_volume(volume(volume_id="../../beside", format="raw"))
    assert not beside.exists()
    monkeypatch.setattr("nubila.drivers.storage.directory_layout.check_volume_id", lambda volume_id: None)
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
