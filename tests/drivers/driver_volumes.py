"""Volumes as the tests of storage drivers wish them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from nubila.drivers.storage.base import Volume

UID = 1_900_001
HELPER = 1_900_099


def volume(number: int = 1, **change: Any) -> Volume:
    wish = Volume(volume_id=f"vol-01{number:024d}", format="qcow2", size_gib=1, uid=UID, gid=UID)
    return msgspec.structs.replace(wish, **change)


def copy_of(image: Path) -> Callable[[Path], None]:
    """A fetch of this file."""
    return lambda path: shutil.copyfile(image, path) and None
