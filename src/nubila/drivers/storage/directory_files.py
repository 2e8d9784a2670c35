"""What the directory driver does with single files: look at, fill, own and publish them."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from pathlib import Path

from nubila.drivers import DriverError
from nubila.drivers.image_store.header import HEAD_BYTES
from nubila.drivers.storage import qcow2, qemu_img
from nubila.drivers.storage.base import Found, Volume

GIB = 1 << 30
_FICLONE = 0x40049409


def look(path: Path, volume_id: str, format_: str) -> Found | None:
    """Size and snapshots of a qcow2 file stand in its own part of it; of a raw one nothing is read."""
    try:
        with path.open("rb") as file:
            at = os.fstat(file.fileno())
            inside = qcow2.inside(file) if format_ == "qcow2" else qcow2.Inside(at.st_size, ())
    except FileNotFoundError:
        return None
    return Found(
        volume_id=volume_id,
        path=str(path),
        format=format_,
        allocated_bytes=at.st_blocks * 512,
        size_gib=0 if inside is None else inside.virtual_bytes // GIB,
        snapshots=() if inside is None else inside.snapshots,
    )


def write_empty(new: Path, format_: str, size: int) -> None:
    if format_ == "qcow2":
        new.write_bytes(qcow2.empty(size))
    else:
        os.truncate(new, size)


def copy_raw(image: Path, image_format: str, new: Path, size: int, uid: int | None) -> None:
    """The image's disk as raw bytes, sparse; by sharing blocks where the file system can, else by qemu-img."""
    if image_format != "raw" or not _cloned(image, new):
        qemu_img.convert(image, image_format, new, "raw", "converting the image", size, uid)
    os.truncate(new, size)


def _cloned(source: Path, target: Path) -> bool:
    with source.open("rb") as a, target.open("r+b") as b:
        try:
            fcntl.ioctl(b.fileno(), _FICLONE, a.fileno())
        except OSError:
            return False
    return True


def publish(new: Path, path: Path) -> None:
    os.rename(new, path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def owned(new: Path, volume: Volume) -> None:
    with new.open("rb") as file:
        os.fchown(file.fileno(), volume.uid, volume.gid)
        os.fchmod(file.fileno(), 0o600)
        os.fsync(file.fileno())


def sealed(new: Path) -> None:
    """No vm's user opens it any more. A link put in its place would lead root elsewhere: it is refused."""
    try:
        file = os.open(new, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as e:
        raise DriverError(f"the copy cannot be taken over: {e.strerror}") from e
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode) or os.fstat(file).st_nlink != 1:
            raise DriverError("the copy is no file of its own", again=False)
        os.fchown(file, os.geteuid(), os.getegid())
        os.fchmod(file, 0o600)
        os.fsync(file)
    finally:
        os.close(file)


def stands_on(path: Path, images: Path) -> bool:
    """Whether a qcow2 volume names nothing but an image of this pool. Its header is the host's, but the file is the vm's
    user's: whoever broke out of a QEMU could name any file there, and root would read it for them."""
    with open(path, "rb", opener=lambda p, _: os.open(p, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)) as file:
        head = file.read(HEAD_BYTES)
    return qcow2.names_only(head, f"../{images.name}/")


def own(path: Path, volume: Volume) -> None:
    """An existing volume belongs to whoever may write it now; its bytes are not looked at."""
    at = path.lstat()
    if (at.st_uid, at.st_gid) != (volume.uid, volume.gid):
        os.chown(path, volume.uid, volume.gid, follow_symlinks=False)


def held(path: Path) -> bool:
    """Whether a process has the file open. Making one keeps it open or hands its name to a program that does; between
    the two it is as young as the grace that garbage is given."""
    target = str(path)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(fd.path) == target for fd in os.scandir(process / "fd")):
                return True
        except OSError:
            continue
    return False


def discard(path: Path) -> None:
    """A file, or the tree of a root file system that was being made."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def based_on(path: str, sha256: str) -> bool:
    try:
        with open(path, "rb") as file:
            backing = qcow2.backing_of(file.read(4096))
    except FileNotFoundError:
        return False
    return backing is not None and backing.endswith(sha256)
