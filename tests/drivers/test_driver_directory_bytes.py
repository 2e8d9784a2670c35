"""What the directory driver does to bytes over time: snapshots, copies, growth; and what it leaves alone."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from driver_images import qemu_img
from test_driver_storage import UID, files, pool, spot, volume

from nubila.drivers import DriverError
from nubila.drivers.storage import qcow2
from nubila.drivers.storage.directory import DirectoryStorage

__all__ = ["pool", "spot"]
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


@real
def test_a18_a_header_inside_a_raw_volume_is_only_bytes(pool: DirectoryStorage) -> None:
    """Its name says raw, so nothing looks at what a guest wrote at its beginning."""
    path = Path(pool.ensure_volume(volume(format="raw")))
    secret = pool._directory / "secret"
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
