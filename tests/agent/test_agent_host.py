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


@pytest.mark.parametrize(
    ("total", "said", "reserved"), [(79, None, 10), (12, None, 2), (3, None, 0), (79, 30, 30), (20, 30, 20), (79, 0, 0)]
)
def test_of_the_disk_some_is_kept_back(total: int, said: int | None, reserved: int) -> None:
    """On a small one less, so that it can hold a VM at all."""
    offered = node.inventory(node.Spec(reserved_disk_gib=said), node.Status(disk_gib=total))
    assert offered[node.InventoryClass.DISK_GIB] == (total, reserved)
