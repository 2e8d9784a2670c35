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
import zlib
from pathlib import Path
from typing import NamedTuple

from nubila.model import ids

FIRST_UID = 1_100_000_000
UIDS = 65536  # of one installation
INSTALLATIONS = 4096


class Room(NamedTuple):
    path: Path
    uid: int
    gid: int


class Rooms:
    def __init__(self, directory: Path, installation: str, *, own: bool | None = None):
        """`own` False: no change of owner (not root, or drivers that run nothing); uids are then only of this
        process."""
        self._root = directory / "vms"
        slot = 0 if installation == "nubila" else zlib.crc32(installation.encode()) % (INSTALLATIONS - 1) + 1
        self._first_uid = FIRST_UID + slot * UIDS
        self._own = os.geteuid() == 0 if own is None else own
        self._lock = threading.Lock()
        self._uids: dict[str, int] = {}
        self._taken: set[int] = set()
        self._made: set[str] = set()  # by this process: nothing is left to do
        self._next = 0  # no uid below it is free
        self._root.mkdir(parents=True, exist_ok=True, mode=0o711)
        self._root.chmod(0o711)
        for vm_id in self.found():
            uid = (self._root / vm_id).lstat().st_uid
            if self._own and self._is_ours(uid):  # otherwise `ensure` was interrupted, and repeats it
                self._uids[vm_id] = uid
                self._taken.add(uid)

    def path(self, vm_id: str) -> Path:
        if ids.parse("vm", vm_id) is None:
            raise ValueError("not the id of a vm")
        return self._root / vm_id

    def get(self, vm_id: str) -> Room | None:
        uid = self._uids.get(vm_id)
        return None if uid is None else Room(self.path(vm_id), uid, uid)

    def ensure(self, vm_id: str) -> Room:
        path = self.path(vm_id)
        with self._lock:
            uid = self._uids.get(vm_id)
            if uid is None:
                uid = self._uids[vm_id] = self._free()
            if vm_id in self._made:
                return Room(path, uid, uid)
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            if not stat.S_ISDIR(path.lstat().st_mode):
                raise
        if self._own:
            os.chown(path, uid, uid, follow_symlinks=False)
        self._made.add(vm_id)
        return Room(path, uid, uid)

    def remove(self, vm_id: str) -> None:
        path = self.path(vm_id)
        if path.exists():
            shutil.rmtree(path)
        with self._lock:
            self._made.discard(vm_id)
            uid = self._uids.pop(vm_id, None)
            if uid is not None:
                self._taken.discard(uid)
                self._next = min(self._next, uid - self._first_uid)

    def found(self) -> list[str]:
        """The vms that have a directory here."""
        with os.scandir(self._root) as entries:
            names = [e.name for e in entries if e.is_dir(follow_symlinks=False)]
        return [n for n in names if ids.parse("vm", n) is not None]

    def _is_ours(self, uid: int) -> bool:
        return self._first_uid <= uid < self._first_uid + UIDS

    def _free(self) -> int:
        slot = self._next
        while self._first_uid + slot in self._taken:
            slot += 1
        if slot >= UIDS:
            raise OSError("no OS user id is free for another vm on this node")
        self._next = slot + 1
        self._taken.add(self._first_uid + slot)
        return self._first_uid + slot
