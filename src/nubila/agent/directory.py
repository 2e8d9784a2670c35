"""A directory and an OS user id for each vm on this node. Called by the hands, garbage and console.

`vms/` is 0711 and `vms/<vm_id>` is 0700 and owned by the vm's uid: the owner is the record of which uid is whose, and
nothing else is kept. Uids are the lowest free ones in a range that no system account uses, apart for each
installation by its name. Invariant: two vms of one node never have one uid. Paths are made from parsed ids only.
"""

from __future__ import annotations

import os
import shutil
import stat
import threading
from pathlib import Path
from typing import NamedTuple

from nubila.config import UIDS, first_uid
from nubila.model import ids

HELPERS = 2  # of an installation's numbers: see Settings


class Room(NamedTuple):
    path: Path
    uid: int
    gid: int


class Rooms:
    def __init__(self, directory: Path, installation: str, *, real: bool = True):
        """`real` False, for drivers that run nothing: no directory is made, and uids are numbers of this process."""
        self.real = real
        self._root = directory / "vms"
        self._first_uid = first_uid(installation)
        self._own = os.geteuid() == 0
        self._lock = threading.Lock()
        self._uids: dict[str, int] = {}
        self._taken: set[int] = set()
        self._rooms: dict[str, Room] = {}  # made by this process: nothing is left to do
        self._next = 0  # no uid below it is free
        if not real:
            return
        self._root.mkdir(parents=True, exist_ok=True, mode=0o711)
        self._root.chmod(0o711)
        for vm_id in self.found():
            uid = (self._root / vm_id).lstat().st_uid
            if self._is_ours(uid):  # otherwise `ensure` was interrupted, and repeats it
                self._uids[vm_id] = uid
                self._taken.add(uid)

    def ensure(self, vm_id: str) -> Room:
        """The vm's room; made at the first call."""
        known = self._rooms.get(vm_id)
        if known is not None:
            return known
        path = self._path(vm_id)
        with self._lock:
            uid = self._uids.get(vm_id)
            if uid is None:
                uid = self._uids[vm_id] = self._free()
        if self.real:
            self._make(path, uid)
        room = self._rooms[vm_id] = Room(path, uid, uid)
        return room

    def remove(self, vm_id: str) -> None:
        path = self._path(vm_id)
        if self.real and path.exists():
            shutil.rmtree(path)
        with self._lock:
            self._rooms.pop(vm_id, None)
            uid = self._uids.pop(vm_id, None)
            if uid is not None:
                self._taken.discard(uid)
                self._next = min(self._next, uid - self._first_uid)

    def _make(self, path: Path, uid: int) -> None:
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            if not stat.S_ISDIR(path.lstat().st_mode):
                raise
        if self._own:
            os.chown(path, uid, uid, follow_symlinks=False)

    def _path(self, vm_id: str) -> Path:
        if ids.parse("vm", vm_id) is None:
            raise ValueError("not the id of a vm")
        return self._root / vm_id

    def found(self) -> list[str]:
        """The vms that have a directory here."""
        if not self.real:
            return []
        with os.scandir(self._root) as entries:
            names = [e.name for e in entries if e.is_dir(follow_symlinks=False)]
        return [n for n in names if ids.parse("vm", n) is not None]

    def _is_ours(self, uid: int) -> bool:
        return self._first_uid <= uid < self._first_uid + UIDS

    def _free(self) -> int:
        slot = self._next
        while self._first_uid + slot in self._taken:
            slot += 1
        if slot >= UIDS - HELPERS:
            raise OSError("no OS user id is free for another vm on this node")
        self._next = slot + 1
        self._taken.add(self._first_uid + slot)
        return self._first_uid + slot
