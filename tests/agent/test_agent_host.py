"""What a machine says that it has: of its disk, only what volumes can really get."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nubila.agent import host
from nubila.drivers.storage.base import Options
from nubila.drivers.storage.directory import DirectoryStorage
from nubila.model import node

GIB = 1 << 30


def taken(path: Path, gib: int) -> Path:
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, gib * GIB)
    return path


@pytest.fixture
def place() -> Iterator[Path]:
    """Searchable by all, as a pool must be."""
    with tempfile.TemporaryDirectory(prefix="nbhost-", dir="/var/tmp") as directory:
        Path(directory).chmod(0o711)
        yield Path(directory)


def test_what_others_hold_is_not_offered_and_what_volumes_hold_is(place: Path) -> None:
    """Others on this machine write too meanwhile: a GiB either way is theirs."""
    storage = DirectoryStorage(Options(directory=str(place / "pool")))
    empty = host.disk_gib(storage)
    if empty < 8:
        pytest.skip("this needs 8 GiB of free disk")
    size = os.statvfs(place)
    assert empty <= size.f_bavail * size.f_frsize // GIB + 1
    theirs = taken(place / "theirs", 3)
    assert empty - host.disk_gib(storage) in (2, 3, 4)
    theirs.unlink()
    taken(place / "pool" / "volumes" / f"vol-{'0' * 26}.raw", 3)
    assert abs(empty - host.disk_gib(storage)) <= 1


def test_disks_are_those_with_a_device_of_their_own(tmp_path: Path) -> None:
    for name in ("loop0", "sda"):
        (tmp_path / name / "queue").mkdir(parents=True)
        (tmp_path / name / "size").write_text(f"{200 * GIB // 512}\n")
        (tmp_path / name / "queue" / "rotational").write_text("1\n")
    (tmp_path / "sda" / "device").mkdir()
    (tmp_path / "sda" / "device" / "model").write_text("Spinning  \n")
    (disk,) = host.disks(tmp_path)
    assert (disk.name, disk.size_gib, disk.model, disk.rotational) == ("sda", 200, "Spinning", True)
    assert host.disks(tmp_path / "nowhere") == ()


def test_a_copy_of_a_disk_is_not_the_machine(tmp_path: Path) -> None:
    for name, system, hardware in (("a", "s1", "h1"), ("copy", "s1", "h2"), ("anew", "s2", "h1")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "machine-id").write_text(f"{system}\n")
        (tmp_path / name / "product_uuid").write_text(f"{hardware}\n")
    said = {n: host.machine_id(tmp_path / n, tmp_path / n) for n in ("a", "copy", "anew")}
    assert len(set(said.values())) == 3
    assert said["a"] == host.machine_id(tmp_path / "a", tmp_path / "a")
    assert not any(known in said["a"] for known in ("s1", "h1"))
    assert host.machine_id(tmp_path, tmp_path) == ""


def test_the_address_is_the_one_on_the_way_to_the_control_plane() -> None:
    assert host.address_towards("https://127.0.0.1:8442") == "127.0.0.1"
    assert host.address_towards("https://nowhere.invalid:8442") == ""


@pytest.mark.parametrize(
    ("total", "said", "reserved"), [(79, None, 10), (12, None, 2), (3, None, 0), (79, 30, 30), (20, 30, 20), (79, 0, 0)]
)
def test_of_the_disk_some_is_kept_back(total: int, said: int | None, reserved: int) -> None:
    """On a small one less, so that it can hold a VM at all."""
    offered = node.inventory(node.Spec(reserved_disk_gib=said), node.Status(disk_gib=total))
    assert offered[node.InventoryClass.DISK_GIB] == (total, reserved)
