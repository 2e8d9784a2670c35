"""A container's root as a disk: an archive unpacked into a new ext4 file system inside of a file of a given size.

Called by the directory driver. So a container has no more room than its volume, and its files lie on no file system of
the host. The archive is unpacked below a private directory, each path walked from there component by component without
following a link; the file system is made from that by mke2fs: nothing is mounted, and no stranger's file system is read.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from nubila.drivers import DriverError
from nubila.drivers.image_store.tar import BadArchive, Member, members

_BLOCK = 1 << 20
_TIMEOUT_S = 1800.0
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def fill(archive: Path, new: Path, size: int, workplace: Path) -> None:
    """`new`, of that size, gets a file system with what is in the archive."""
    with _emptied(workplace) as tree, archive.open("rb") as file:
        try:
            _unpack(file, tree, size)
        except BadArchive as e:
            raise DriverError(f"the image cannot be used: {e}", again=False) from e
        if not os.path.lexists(tree / "sbin/init"):
            raise DriverError("the image cannot be used: it has no /sbin/init, which a container starts", again=False)
        os.truncate(new, size)
        _make(tree, new)


def _make(tree: Path, new: Path) -> None:
    argv = [
        "/sbin/mke2fs",
        "-q",
        "-F",
        "-t",
        "ext4",
        "-m",
        "0",
        "-E",
        "lazy_itable_init=1,nodiscard",
        "-d",
        str(tree),
        str(new),
    ]
    try:
        done = subprocess.run(argv, capture_output=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as e:
        raise DriverError("making the root file system took too long") from e
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        short = any("allocate block" in line or "space" in line for line in said)
        raise DriverError(
            "the image's files do not fit into the volume" if short else f"mke2fs failed: {said[-1] if said else ''}",
            again=False,
        )


@contextmanager
def _emptied(workplace: Path) -> Iterator[Path]:
    """What it holds open shows that somebody is at work there."""
    workplace.mkdir(mode=0o755)  # of the new root, when the archive says nothing of it
    handle = os.open(workplace, _DIRECTORY)
    try:
        yield workplace
    finally:
        os.close(handle)
        shutil.rmtree(workplace, ignore_errors=True)


def _unpack(file: BinaryIO, tree: Path, limit: int) -> None:
    root = os.open(tree, _DIRECTORY)
    late: list[Member] = []  # directories get their mode and time when all is in them
    try:
        written = 0
        for member in members(file):
            written += member.size
            if written > limit:
                raise BadArchive(f"its files have more than the {limit >> 30} GiB of the volume")
            with _parent(root, member.path) as (parent, name):
                _put(file, root, parent, name, member)
            if member.kind == "directory":
                late.append(member)
        for member in sorted(late, key=lambda m: m.path, reverse=True):
            with _walked(root, member.path) as handle:
                os.fchown(handle, member.uid, member.gid)
                os.fchmod(handle, member.mode)
                os.utime(handle, (member.mtime, member.mtime))
    finally:
        os.close(root)


def _put(file: BinaryIO, root: int, parent: int, name: str, member: Member) -> None:
    if member.kind == "directory":
        if name:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=parent)
            os.close(_open_directory(name, parent, member.path))
        return
    _clear(name, parent, member.path)
    if member.kind == "link":
        os.symlink(member.target, name, dir_fd=parent)
        os.chown(name, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
    elif member.kind == "hard":
        with _parent(root, member.target) as (beside, target):
            try:
                os.link(target, name, src_dir_fd=beside, dst_dir_fd=parent, follow_symlinks=False)
            except OSError as e:
                raise BadArchive(f"the hard link '{member.path}' has no file to link to") from e
    else:
        handle = os.open(name, _NEW, 0o600, dir_fd=parent)
        try:
            _copy(file, handle, member)
            os.fchown(handle, member.uid, member.gid)
            os.fchmod(handle, member.mode)  # after the owner: a change of that takes the set-user bit away
            os.utime(handle, (member.mtime, member.mtime))
        finally:
            os.close(handle)


def _copy(file: BinaryIO, handle: int, member: Member) -> None:
    left = member.size
    while left:
        block = file.read(min(left, _BLOCK))
        if not block:
            raise BadArchive("the archive is cut off")
        view = memoryview(block)
        while view:
            view = view[os.write(handle, view) :]
        left -= len(block)


def _clear(name: str, parent: int, path: str) -> None:
    """A later member replaces an earlier one, as archives have it; a directory stays."""
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return
    except OSError as e:
        raise BadArchive(f"'{path}' is a directory and something else") from e


@contextmanager
def _parent(root: int, path: str) -> Iterator[tuple[int, str]]:
    """An open directory and the name in it. Directories that the archive did not name are made."""
    above, _, name = path.rpartition("/")
    with _walked(root, above) as handle:
        yield handle, name


@contextmanager
def _walked(root: int, path: str) -> Iterator[int]:
    handle = os.dup(root)
    try:
        for part in path.split("/") if path else ():
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=handle)
            below = _open_directory(part, handle, path)
            os.close(handle)
            handle = below
        yield handle
    finally:
        os.close(handle)


def _open_directory(name: str, parent: int, path: str) -> int:
    try:
        return os.open(name, _DIRECTORY, dir_fd=parent)
    except OSError as e:
        if e.errno in (errno.ELOOP, errno.ENOTDIR):
            raise BadArchive(f"the way to '{path}' leads through a link or a file") from e
        raise
