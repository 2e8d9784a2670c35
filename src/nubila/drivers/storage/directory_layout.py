"""Where things lie in a pool that is a directory: the names of its files, from ids that were checked, and its directories,
made before the first use.

    volumes/<volume id>.<format>    0600, owned by the vm's uid
    images/<sha256>                 0444, the bytes as they were uploaded; never written again
    copies/<volume id>.<format>     what a hypervisor writes for us, until it is whole; emptied at start
    exports/<image id>              a volume's bytes on their way to the image store; 0600, root's
    tmp/                            what is not finished; emptied at start

Invariant: no id leads out of the pool.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path

from nubila.drivers import DriverError
from nubila.drivers.places import require_searchable
from nubila.drivers.storage.base import Volume
from nubila.drivers.storage.directory_files import discard

FORMATS = ("qcow2", "raw")
VOLUME_ID = re.compile(r"[a-z]{2,5}-[0-9a-z]{1,40}")
SHA256 = re.compile(r"[0-9a-f]{64}")


class Layout:
    """Its methods may be called from several threads at once."""

    def __init__(self, root: Path):
        self.root = root
        self.volumes = root / "volumes"
        self.images = root / "images"
        self.copies = root / "copies"
        self.exports = root / "exports"
        self.tmp = root / "tmp"
        self.directories = (self.volumes, self.images, self.copies, self.exports, self.tmp)
        self._prepared = False
        self._lock = threading.Lock()  # of the preparing

    def prepare(self) -> None:
        if not self._prepared:
            with self._lock:
                if not self._prepared:
                    self._make_directories()
                    self._prepared = True

    def _make_directories(self) -> None:
        for directory in (self.root, self.volumes, self.images, self.copies):
            directory.mkdir(parents=True, exist_ok=True, mode=0o711)
        self.exports.mkdir(exist_ok=True, mode=0o700)
        self.tmp.mkdir(exist_ok=True)
        self.tmp.chmod(0o711)  # the helper opens what it is told to, and lists nothing
        require_searchable(self.volumes)
        for directory in (self.tmp, self.copies):
            for left in directory.iterdir():
                discard(left)

    def image(self, sha256: str) -> Path:
        if not SHA256.fullmatch(sha256):
            raise DriverError("this is not a SHA-256 in lower-case hexadecimal", again=False)
        return self.images / sha256

    def volume(self, volume: Volume) -> Path:
        check_volume_id(volume.volume_id)
        if volume.format not in FORMATS:
            raise DriverError(f"this pool has no format {volume.format!r}", again=False)
        return self.volumes / f"{volume.volume_id}.{volume.format}"

    def copy(self, volume: Volume) -> Path:
        return self.copies / self.volume(volume).name

    def export(self, export_id: str) -> Path:
        check_volume_id(export_id)
        return self.exports / export_id

    def file(self, volume_id: str) -> Path | None:
        """Where the volume is; its name says its format, whatever a guest wrote inside."""
        self.prepare()
        check_volume_id(volume_id)
        files = [self.volumes / f"{volume_id}.{format_}" for format_ in FORMATS]
        return next((f for f in files if f.is_file() and not f.is_symlink()), None)


def check_volume_id(volume_id: str) -> None:
    if not VOLUME_ID.fullmatch(volume_id):
        raise DriverError("the volume's id is not well formed", again=False)
