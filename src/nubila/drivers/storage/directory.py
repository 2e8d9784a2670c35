"""Volumes and image copies as files in a directory of this node, which `directory_layout` describes.

A volume from an image is a qcow2 file over it (no copying), except raw ones, which are converted. The backing path is
relative ('../images/<sha256>'), so that the pool may move. Formats are always stated and never probed: a guest decides
what its disk's first bytes say. A file becomes visible by a rename after a sync, so whatever can be seen is whole.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from nubila.drivers import CapabilityMissing, DriverError, Leftover, Scan
from nubila.drivers.image_store.header import HEAD_BYTES, BadImage, inspect
from nubila.drivers.storage import qcow2, qemu_img, tree
from nubila.drivers.storage.base import Capabilities, Fetch, Found, Observed, Options, Volume
from nubila.drivers.storage.directory_files import (
    GIB,
    based_on,
    copy_raw,
    discard,
    held,
    look,
    own,
    owned,
    publish,
    sealed,
    stands_on,
    write_empty,
)
from nubila.drivers.storage.directory_layout import FORMATS, SHA256, VOLUME_ID, Layout, check_volume_id

_SNAPSHOT_ID = re.compile(r"snap-[0-9a-z]{1,40}")
_MAX_GIB = 64 << 10


class DirectoryStorage:
    """The driver. Its methods may be called from several threads at once."""

    def __init__(self, options: Options):
        self._options = options
        self._layout = Layout(Path(options.directory))
        self._uid = options.helper_uid if os.geteuid() == 0 else None

    def capabilities(self) -> Capabilities:
        return Capabilities(
            formats=FORMATS,
            cache_modes=("default", "none", "writethrough", "writeback", "directsync", "unsafe"),
            snapshot_formats=("qcow2",),
            resize=True,
        )

    def observe(self) -> Observed:
        self._layout.prepare()
        volumes: list[Found] = []
        foreign: list[str] = []
        with os.scandir(self._layout.volumes) as entries:
            for entry in entries:
                volume_id, _, format_ = entry.name.rpartition(".")
                if not VOLUME_ID.fullmatch(volume_id) or format_ not in FORMATS or entry.is_symlink():
                    foreign.append(f"volumes/{entry.name}")
                    continue
                found = look(Path(entry.path), volume_id, format_)
                if found is not None:  # otherwise removed in between
                    volumes.append(found)
        images = os.listdir(self._layout.images)
        foreign += [f"images/{name}" for name in images if not SHA256.fullmatch(name)]
        ours = tuple(sorted([name for name in images if SHA256.fullmatch(name)]))
        exports = sorted(os.listdir(self._layout.exports))
        foreign += [f"exports/{name}" for name in exports if not VOLUME_ID.fullmatch(name)]
        whole = tuple([name for name in exports if VOLUME_ID.fullmatch(name)])
        return Observed(volumes=tuple(volumes), images=ours, exports=whole, foreign=tuple(foreign))

    def scan(self) -> Scan:
        """Unfinished files that no process has open any more, and what else lies about."""
        self._layout.prepare()
        found = [Leftover(kind="temporary", name=p.name, owner="") for p in self._layout.tmp.iterdir() if not held(p)]
        ours = {d.name for d in self._layout.directories}
        foreign = [("file", p.name) for p in sorted(self._layout.root.iterdir()) if p.name not in ours]
        return Scan(leftovers=tuple(found), foreign=tuple(foreign))

    def remove_leftover(self, leftover: Leftover) -> None:
        path = self._layout.tmp / leftover.name
        if path.parent == self._layout.tmp and path.exists() and not held(path):
            discard(path)

    def ensure_image(self, sha256: str, fetch: Fetch) -> None:
        self._layout.prepare()
        path = self._layout.image(sha256)
        if path.exists():
            return
        self._require_space(0)
        with self._making() as new:
            fetch(new)
            with new.open("rb") as file:
                got = hashlib.file_digest(file, "sha256").hexdigest()
                if got != sha256:
                    raise DriverError(f"the image's bytes have the hash {got}, not {sha256}")
                os.fchmod(file.fileno(), 0o444)
                os.fsync(file.fileno())
            publish(new, path)

    def image_path(self, sha256: str) -> str:
        return str(self._layout.image(sha256))

    def ensure_volume(self, volume: Volume) -> str:
        self._layout.prepare()
        path = self._layout.volume(volume)
        if not path.exists():
            with self._making() as new:
                self._fill(new, volume)
                owned(new, volume)
                publish(new, path)
        else:
            own(path, volume)
        return str(path)

    def find(self, volume_id: str) -> Found | None:
        at = self._layout.file(volume_id)
        return None if at is None else look(at, volume_id, at.suffix[1:])

    def grow_volume(self, volume_id: str, size_gib: int) -> None:
        found, path = self._closed(volume_id)
        if size_gib <= found.size_gib:
            return
        if size_gib > _MAX_GIB:
            raise DriverError(f"a volume of {size_gib} GiB is not possible here", again=False)
        self._require_space(0)
        if found.format == "raw":
            os.truncate(path, size_gib * GIB)
        else:
            words = ["resize", "-f", "qcow2", str(path), str(size_gib * GIB)]
            qemu_img.run(words, "enlarging the volume", uid=self._uid, files=(path,))

    def make_snapshot(self, volume_id: str, snapshot_id: str) -> None:
        found, path = self._keeping(volume_id, snapshot_id)
        if snapshot_id not in found.snapshots:
            self._require_space(0)
            qemu_img.snapshot("-c", snapshot_id, path, "taking the snapshot", self._uid)

    def remove_snapshot(self, volume_id: str, snapshot_id: str) -> None:
        found, path = self._keeping(volume_id, snapshot_id)
        if snapshot_id in found.snapshots:
            qemu_img.snapshot("-d", snapshot_id, path, "removing the snapshot", self._uid)

    def roll_back(self, volume_id: str, snapshot_id: str) -> None:
        found, path = self._keeping(volume_id, snapshot_id)
        if snapshot_id not in found.snapshots:
            raise DriverError("the volume has no such snapshot", again=False)
        qemu_img.snapshot("-a", snapshot_id, path, "rolling the volume back", self._uid)

    def copy_volume(self, source_id: str, volume: Volume) -> str:
        path = self._layout.volume(volume)
        if path.exists():
            return str(path)
        found, source = self._closed(source_id)
        if found.size_gib > volume.size_gib:
            raise DriverError(f"the source has {found.size_gib} GiB, the copy only {volume.size_gib}", again=False)
        self._require_space(found.allocated_bytes)
        with self._making() as new:
            most = 2 * volume.size_gib * GIB  # a qcow2 file may be a little larger than its disk
            qemu_img.convert(source, found.format, new, volume.format, "copying the volume", most, self._uid)
            owned(new, volume)
            publish(new, path)
        self.grow_volume(volume.volume_id, volume.size_gib)
        return str(path)

    def begin_copy(self, volume: Volume) -> str:
        self._layout.prepare()
        path = self._layout.copy(volume)
        path.unlink(missing_ok=True)
        with self._making() as new:
            write_empty(new, volume.format, volume.size_gib * GIB)
            owned(new, volume)
            os.rename(new, path)
        return str(path)

    def end_copy(self, volume: Volume) -> str:
        path = self._layout.volume(volume)
        if not path.exists():
            new = self._layout.copy(volume)
            with new.open("rb") as file:
                os.fsync(file.fileno())
            publish(new, path)
            self.disown_volume(volume.volume_id)
        return str(path)

    def export_volume(self, source_id: str, export_id: str, format_: str) -> None:
        path = self._layout.export(export_id)
        if path.exists():
            return
        found, source = self._closed(source_id)
        if format_ not in FORMATS:
            raise DriverError(f"this pool has no format {format_!r}", again=False)
        self._require_space(found.allocated_bytes)
        with self._making() as new:
            most = 2 * max(found.size_gib, 1) * GIB
            qemu_img.convert(source, found.format, new, format_, "copying the volume", most, self._uid)
            sealed(new)
            publish(new, path)

    def end_export(self, export_id: str, format_: str) -> None:
        path = self._layout.export(export_id)
        if not path.exists():
            new = self._layout.copies / f"{export_id}.{format_}"
            sealed(new)
            publish(new, path)

    def open_export(self, export_id: str) -> BinaryIO | None:
        self._layout.prepare()
        try:
            return os.fdopen(os.open(self._layout.export(export_id), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
        except FileNotFoundError:
            return None

    def remove_export(self, export_id: str) -> None:
        self._layout.export(export_id).unlink(missing_ok=True)
        for format_ in FORMATS:
            (self._layout.copies / f"{export_id}.{format_}").unlink(missing_ok=True)

    def is_free(self, volume_id: str) -> bool:
        at = self._layout.file(volume_id)
        return at is None or qemu_img.is_free(at)

    def disown_volume(self, volume_id: str) -> None:
        at = self._layout.file(volume_id)
        if at is not None:
            os.chown(at, os.geteuid(), os.getegid(), follow_symlinks=False)

    def remove_volume(self, volume_id: str) -> None:
        check_volume_id(volume_id)
        for format_ in FORMATS:
            for directory in (self._layout.volumes, self._layout.copies):
                (directory / f"{volume_id}.{format_}").unlink(missing_ok=True)

    def remove_image(self, sha256: str) -> None:
        self._layout.prepare()
        path = self._layout.image(sha256)
        for entry in os.scandir(self._layout.volumes):
            if entry.name.endswith(".qcow2") and based_on(entry.path, sha256):
                raise DriverError(f"the volume {entry.name} is based on this image")
        path.unlink(missing_ok=True)

    def free_gib(self) -> int:
        self._layout.prepare()
        return int(shutil.disk_usage(self._layout.root).free // GIB)

    def _fill(self, new: Path, volume: Volume) -> None:
        if volume.format not in FORMATS:
            raise DriverError(f"this pool has no format {volume.format!r}", again=False)
        if not 0 < volume.size_gib <= _MAX_GIB:
            raise DriverError(f"a volume of {volume.size_gib} GiB is not possible here", again=False)
        size = volume.size_gib * GIB
        image = self._usable_image(volume, size)
        if image is None:
            self._require_space(0)
            write_empty(new, volume.format, size)
        elif volume.image_format == "tar":
            if volume.format != "raw":
                raise DriverError("a root file system is kept in raw volumes only", again=False)
            self._require_space(2 * image.stat().st_size)
            tree.fill(image, new, size, new.with_name(new.name + ".tree"))
        elif volume.format == "qcow2":
            self._require_space(0)
            name = f"../images/{image.name}"
            new.write_bytes(qcow2.empty(size, name, volume.image_format))
        else:
            self._require_space(image.stat().st_blocks * 512)
            copy_raw(image, volume.image_format or "raw", new, size, self._uid)

    def _usable_image(self, volume: Volume, size: int) -> Path | None:
        """The image's file, judged by our own reader before any other program opens it."""
        if volume.image_sha256 is None:
            return None
        path = self._layout.image(volume.image_sha256)
        try:
            with path.open("rb") as file:
                head = file.read(HEAD_BYTES)
                header = inspect(head, volume.image_format or "", os.fstat(file.fileno()).st_size)
        except FileNotFoundError as e:
            raise DriverError("the volume's image is not on this node") from e
        except BadImage as e:
            raise DriverError(f"the image cannot be used: {e}", again=False) from e
        if header.virtual_bytes > size:
            raise DriverError(
                f"the image's disk has {-(-header.virtual_bytes // GIB)} GiB, the volume only {volume.size_gib}",
                again=False,
            )
        return path

    def _require_space(self, more_bytes: int) -> None:
        free = shutil.disk_usage(self._layout.root).free
        if free - more_bytes < self._options.reserve_gib * GIB:
            kept = f"{self._options.reserve_gib} GiB are kept in reserve"
            raise DriverError(f"the pool is full: {free // (1 << 20)} MiB are free, {kept}")

    @contextmanager
    def _making(self) -> Iterator[Path]:
        """A temporary file that is gone afterwards, unless it was published; a full disk is told as what it is."""
        handle, name = tempfile.mkstemp(dir=self._layout.tmp)
        os.close(handle)
        path = Path(name)
        try:
            yield path
        except OSError as e:
            if e.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DriverError("the pool is full") from e
            raise DriverError(f"the pool cannot be written: {e.strerror or e}") from e
        finally:
            path.unlink(missing_ok=True)

    def _closed(self, volume_id: str) -> tuple[Found, Path]:
        """A volume that is here and that nobody has open."""
        at = self._layout.file(volume_id)
        found = None if at is None else look(at, volume_id, at.suffix[1:])
        if at is None or found is None:
            raise DriverError("the volume is not here")
        if not qemu_img.is_free(at):
            raise DriverError("the volume is open elsewhere")
        if found.format == "qcow2" and not stands_on(at, self._layout.images):
            raise DriverError("the volume's header names a file that is not its image: nothing opens it", again=False)
        return found, at

    def _keeping(self, volume_id: str, snapshot_id: str) -> tuple[Found, Path]:
        if not _SNAPSHOT_ID.fullmatch(snapshot_id):
            raise DriverError("the snapshot's id is not well formed", again=False)
        found, path = self._closed(volume_id)
        if found.format != "qcow2":
            raise CapabilityMissing(f"a {found.format} volume cannot keep snapshots")
        return found, path
