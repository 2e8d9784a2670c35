"""What the directory driver does to bytes over time: snapshots, copies, growth; and what it leaves alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from driver_images import make_qcow2, patched, qemu_img, sha256
from driver_volumes import UID, volume
from test_driver_directory import files, pool

from nubila.drivers import DriverError
from nubila.drivers.image_store.header import HEAD_BYTES, inspect
from nubila.drivers.storage import directory, qcow2
from nubila.drivers.storage.directory import DirectoryStorage

__all__ = ["pool"]
real = pytest.mark.real


def put(pool: DirectoryStorage, path: str, text: str) -> None:
    format_ = path.rpartition(".")[2]
    qemu_io(format_, path, f"write -P {ord(text)} 1M 64k")


def holds(path: str, text: str) -> bool:
    return "Pattern verification failed" not in qemu_io(path.rpartition(".")[2], path, f"read -P {ord(text)} 1M 64k")


def qemu_io(format_: str, path: str, command: str) -> str:
    words = ["qemu-io", "-f", format_, "-c", command, path]
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout


@real
def test_a_roll_back_brings_the_bytes_and_the_size_of_then(pool: DirectoryStorage) -> None:
    path = pool.ensure_volume(volume())
    put(pool, path, "a")
    pool.make_snapshot(volume().volume_id, "snap-1")
    put(pool, path, "b")
    pool.grow_volume(volume().volume_id, 2)
    pool.make_snapshot(volume().volume_id, "snap-2")
    pool.roll_back(volume().volume_id, "snap-1")
    found = pool.find(volume().volume_id)
    assert found is not None
    assert (found.size_gib, found.snapshots) == (1, ("snap-1", "snap-2"))
    assert holds(path, "a")
    pool.roll_back(volume().volume_id, "snap-2")
    assert holds(path, "b")
    qemu_img("check", "-f", "qcow2", path)


@real
@pytest.mark.parametrize(("source", "target"), [("qcow2", "qcow2"), ("raw", "qcow2"), ("qcow2", "raw"), ("raw", "raw")])
def test_a_copy_has_the_bytes_of_its_source(pool: DirectoryStorage, source: str, target: str) -> None:
    first, second = volume(1, format=source), volume(2, format=target, size_gib=2)
    put(pool, pool.ensure_volume(first), "a")
    path = pool.copy_volume(first.volume_id, second)
    assert holds(path, "a")
    assert (os.stat(path).st_uid, os.stat(path).st_mode & 0o777) == (UID, 0o600)


@real
@pytest.mark.parametrize("format_", ["qcow2", "raw"])
def test_what_a_qemu_has_open_is_left_alone(pool: DirectoryStorage, format_: str) -> None:
    """The test fails without the look at QEMU's locks: raw files would grow under a running machine."""
    path = pool.ensure_volume(volume(format=format_))
    node = f"driver={format_},node-name=n,file.driver=file,file.filename={path}"
    words = ["qemu-system-x86_64", "-nodefaults", "-nographic", "-S", "-machine", "none", "-blockdev", node]
    words += ["-device", "virtio-blk-pci,drive=n"]
    words[words.index("none")] = "q35"
    qemu = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 30
        while pool.is_free(volume().volume_id):
            assert time.monotonic() < deadline, "QEMU took no lock"
            assert qemu.poll() is None, qemu.stderr.read() if qemu.stderr else ""
            time.sleep(0.1)
        v = volume().volume_id
        for call in (
            lambda: pool.grow_volume(v, 2), lambda: pool.copy_volume(v, volume(2)),
            lambda: pool.export_volume(v, "img-1", "raw"),
            *([lambda: pool.make_snapshot(v, "snap-1"), lambda: pool.roll_back(v, "snap-1")] if format_ == "qcow2" else []),
        ):  # fmt: skip
            with pytest.raises(DriverError, match="open elsewhere"):
                call()
        found = pool.find(v)
        assert found is not None
        assert (found.size_gib, found.snapshots) == (1, ())
        assert pool.find(volume(2).volume_id) is None
    finally:
        qemu.kill()
        qemu.wait()
    assert pool.is_free(volume().volume_id)


def saved(pool: DirectoryStorage, export_id: str, format_: str, to: Path) -> Path:
    """The export as it would come out of the image store."""
    file = pool.open_export(export_id)
    assert file is not None
    path = to / f"{export_id}.{format_}"
    with file:
        path.write_bytes(file.read())
    return path


@real
@pytest.mark.parametrize(("source", "target"), [("qcow2", "qcow2"), ("raw", "qcow2"), ("qcow2", "raw"), ("raw", "raw")])
def test_an_export_stands_alone_with_the_bytes_of_its_volume(
    pool: DirectoryStorage, tmp_path: Path, source: str, target: str
) -> None:
    """Of a volume over an image, with snapshots inside where it can: all of the disk's bytes, nothing else, nobody's file."""
    image = make_qcow2(tmp_path / "image.qcow2")
    pool.ensure_image(sha256(image), lambda path: shutil.copyfile(image, path) and None)
    wish = volume(format=source, image_sha256=sha256(image), image_format="qcow2")
    path = pool.ensure_volume(wish)
    if source == "qcow2":
        put(pool, path, "o")
        pool.make_snapshot(wish.volume_id, "snap-1")
    put(pool, path, "n")
    pool.export_volume(wish.volume_id, "img-1", target)
    stored = saved(pool, "img-1", target, tmp_path)
    with stored.open("rb") as file:
        found = inspect(file.read(HEAD_BYTES), target, stored.stat().st_size)
    assert found.virtual_bytes == 1 << 30
    assert "Images are identical" in qemu_img("compare", "-f", target, "-F", source, stored, path)
    assert holds(str(stored), "n")
    at = os.stat(pool._layout.exports / "img-1")
    assert (at.st_uid, at.st_mode & 0o777) == (0, 0o600)
    # what it is made of may go, and a volume made from it has the same bytes
    pool.remove_volume(wish.volume_id)
    pool.ensure_image(sha256(stored), lambda path: shutil.copyfile(stored, path) and None)
    again = pool.ensure_volume(volume(2, image_sha256=sha256(stored), image_format=target))
    assert holds(again, "n")
    assert "Images are identical" in qemu_img("compare", "-f", "qcow2", "-F", target, again, stored)


CANARY = b"canary-of-before" * 4096


def with_a_past(pool: DirectoryStorage) -> str:
    """A volume whose snapshot has a canary that the disk of now has not."""
    path = pool.ensure_volume(volume())
    canary = pool._layout.tmp / "canary"
    canary.write_bytes(CANARY)
    qemu_io("qcow2", path, f"write -s {canary} 1M {len(CANARY)}")
    canary.unlink()
    pool.make_snapshot(volume().volume_id, "snap-1")
    put(pool, path, "n")
    return path


@real
@pytest.mark.parametrize("format_", ["qcow2", "raw"])
@pytest.mark.parametrize("verb", ["export", "copy"])
def test_a22_nothing_of_a_snapshot_is_in_what_is_made_of_its_volume(
    pool: DirectoryStorage, tmp_path: Path, verb: str, format_: str
) -> None:
    """An image is given to others, and a copy may be: they get the disk of now. The file itself, the mutant, has more."""
    path = with_a_past(pool)
    if verb == "export":
        pool.export_volume(volume().volume_id, "img-1", format_)
        made = saved(pool, "img-1", format_, tmp_path)
    else:
        made = Path(pool.copy_volume(volume().volume_id, volume(2, format=format_)))
    assert holds(str(made), "n")
    assert b"canary" not in made.read_bytes()[: 64 << 20]
    assert b"canary" in Path(path).read_bytes()


@real
def test_a22_nothing_of_after_it_is_in_a_volume_that_was_rolled_back(pool: DirectoryStorage) -> None:
    """Also not where the volume had grown since, when it grows again."""
    path = pool.ensure_volume(volume())
    pool.make_snapshot(volume().volume_id, "snap-1")
    pool.grow_volume(volume().volume_id, 2)
    put(pool, path, "n")
    qemu_io("qcow2", path, "write -P 110 1536M 64k")
    pool.roll_back(volume().volume_id, "snap-1")
    pool.grow_volume(volume().volume_id, 2)
    for at in ("1M", "1536M"):
        assert "verification failed" not in qemu_io("qcow2", path, f"read -P 0 {at} 64k"), at


@real
@pytest.mark.parametrize("verb", ["export", "copy", "snapshot", "grow"])
@pytest.mark.parametrize("evil", ["backing", "data file"])
def test_a18_a_header_that_a_broken_qemu_rewrites_is_opened_by_nobody(
    pool: DirectoryStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evil: str, verb: str
) -> None:
    """Whoever breaks out of a QEMU owns its disk's file, header and all: root must not read for them what that names."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret of the host" * 4096)
    wish = volume()
    path = Path(pool.ensure_volume(wish))
    if evil == "backing":
        path.write_bytes(qcow2.empty(1 << 30, str(secret), "raw"))
    else:
        path.write_bytes(patched(qcow2.empty(1 << 30), 72, ">Q", 1 << 2))
    calls = {
        "export": lambda: pool.export_volume(wish.volume_id, "img-1", "raw"),
        "copy": lambda: pool.copy_volume(wish.volume_id, volume(2, format="raw")),
        "snapshot": lambda: pool.make_snapshot(wish.volume_id, "snap-1"),
        "grow": lambda: pool.grow_volume(wish.volume_id, 2),
    }
    with pytest.raises(DriverError, match="names a file") as error:
        calls[verb]()
    assert not error.value.again
    assert not [f for f in files(pool) if f.startswith(("tmp/", "exports/"))]
    if (evil, verb) == ("backing", "export"):  # the mutant: both guards away, the secret is in the image
        monkeypatch.setattr(directory, "stands_on", lambda *_: True)
        with pytest.raises(DriverError, match="Permission denied"):  # the second guard: as whom qemu-img runs
            calls[verb]()
        pool._uid = None
        calls[verb]()
        assert b"secret of the host" in saved(pool, "img-1", "raw", tmp_path).read_bytes()[: 1 << 20]


@real
@pytest.mark.parametrize("what", ["link", "hard link"])
def test_a31_a_link_in_the_place_of_a_copy_is_not_taken_over(
    pool: DirectoryStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The place is the vm's user's for a while. Without the guard a file of the host's becomes the image, and changes owner."""
    place = Path(pool.begin_copy(volume(volume_id="img-1")))
    secret = pool._layout.root / "secret"
    secret.write_bytes(b"secret")
    os.chown(secret, 12345, 12345)
    place.unlink()
    (os.symlink if what == "link" else os.link)(secret, place)
    with pytest.raises(DriverError, match="cannot be taken over|no file of its own"):
        pool.end_export("img-1", "qcow2")
    assert pool.open_export("img-1") is None
    assert os.stat(secret).st_uid == 12345
    monkeypatch.setattr(directory, "sealed", lambda path: os.chown(path, 0, 0))
    pool.end_export("img-1", "qcow2")
    assert os.stat(secret).st_uid == 0
    secret.unlink()


@real
def test_a18_a_header_inside_a_raw_volume_is_only_bytes(pool: DirectoryStorage) -> None:
    """Its name says raw, so nothing looks at what a guest wrote at its beginning."""
    path = Path(pool.ensure_volume(volume(format="raw")))
    secret = pool._layout.root / "secret"
    secret.write_bytes(b"secret of the host" * 100)
    liar = qcow2.empty(1 << 20, str(secret), "raw")
    with path.open("r+b") as file:
        file.write(liar)
    found = pool.find(volume().volume_id)
    assert found is not None
    assert (found.size_gib, found.snapshots) == (1, ())
    pool.grow_volume(volume().volume_id, 2)
    copies = [
        pool.copy_volume(volume().volume_id, volume(n, format=f, size_gib=2)) for n, f in ((2, "raw"), (3, "qcow2"))
    ]
    assert os.stat(path).st_size == 2 << 30
    assert Path(copies[0]).read_bytes()[: len(liar)] == liar
    for copy in copies:
        assert b"secret of the host" not in Path(copy).read_bytes()[: 4 << 20]
    secret.unlink()


@real
@pytest.mark.parametrize("format_", ["qcow2", "raw"])
def test_a22_a_new_volume_reads_as_zeros(pool: DirectoryStorage, format_: str) -> None:
    canary = b"canary-of-a-former-owner"
    path = pool.ensure_volume(volume(format=format_))
    put(pool, path, "c")
    with open(path, "r+b") as file:
        file.seek(0, 2)
        file.write(canary * 4096)
    pool.remove_volume(volume().volume_id)
    path = pool.ensure_volume(volume(2, format=format_))
    assert canary not in Path(path).read_bytes()[: 8 << 20]
    assert "verification failed" not in qemu_io(format_, path, "read -P 0 0 64M")
    assert not [f for f in files(pool) if volume().volume_id in f]
