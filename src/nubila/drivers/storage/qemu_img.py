"""qemu-img as the directory pool uses it: on files whose format is stated, within limits, and never while QEMU has them.

Formats are never probed: a guest decides what its disk's first bytes say. qemu-img takes QEMU's own image locks, so
that it fails where one of them still writes.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nubila.drivers import DriverError

# It reads what strangers made: it has no network, gains no privileges, and may use that much and no more.
ISOLATED: tuple[str, ...] = ("unshare", "--net", "--", "setpriv", "--no-new-privs", "--")
MEMORY_BYTES = 1 << 30
CPU_S = 1800
TIMEOUT_S = 3600.0
_OFD_GETLK = 36
_LOCK_FIRST, _LOCK_BYTES = 100, 200  # where QEMU's locks lie: block/file-posix.c


def run(
    words: Sequence[str],
    doing: str,
    *,
    file_bytes: int | None = None,
    uid: int | None = None,
    files: Sequence[Path] = (),
) -> None:
    """Raises DriverError in words. `uid`: as whom it runs; `files` are that user's meanwhile."""
    with _lent(uid, files):
        _run(words, doing, file_bytes, uid)


@contextmanager
def _lent(uid: int | None, files: Sequence[Path]) -> Iterator[None]:
    """What everybody may read, as images, is not lent: its owner could write it. Should this process die in between, the
    next who gets the volume becomes its owner as ever."""
    was: list[tuple[Path, os.stat_result]] = []
    try:
        for path in files if uid is not None else ():
            at = path.lstat()
            if not at.st_mode & stat.S_IROTH:
                was.append((path, at))
                os.chown(path, uid, uid, follow_symlinks=False)  # type: ignore[arg-type]
        yield
    finally:
        for path, at in was:
            os.chown(path, at.st_uid, at.st_gid, follow_symlinks=False)


def _run(words: Sequence[str], doing: str, file_bytes: int | None, uid: int | None) -> None:
    limits = [f"--as={MEMORY_BYTES}", f"--cpu={CPU_S}", "--core=0"]
    limits += [f"--fsize={file_bytes}"] if file_bytes is not None else []
    who = [] if uid is None else ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--"]
    argv = [*ISOLATED, *who, "prlimit", *limits, "qemu-img", *words]
    try:
        done = subprocess.run(argv, capture_output=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as e:
        raise DriverError(f"{doing} took too long") from e
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        if any("No space left" in w for w in said):
            raise DriverError("the pool is full")
        if any("lock" in w for w in said):
            raise DriverError(f"{doing} is not possible: the volume is open elsewhere")
        raise DriverError(f"{doing} failed: {said[-1] if said else 'qemu-img says nothing'}")


def convert(
    source: Path,
    source_format: str,
    target: Path,
    target_format: str,
    doing: str,
    file_bytes: int,
    uid: int | None = None,
) -> None:
    sparse = ["-S", "4k"]
    words = ["convert", "-f", source_format, "-O", target_format, *sparse, str(source), str(target)]
    run(words, doing, file_bytes=file_bytes, uid=uid, files=(source, target))


def snapshot(action: str, snapshot_id: str, path: Path, doing: str, uid: int | None = None) -> None:
    """-c, -a or -d of a snapshot inside a qcow2 file. This command takes the format as an option of the image only."""
    image = "driver=qcow2,file.driver=file,file.filename=" + str(path).replace(",", ",,")
    run(["snapshot", action, snapshot_id, "--image-opts", image], doing, uid=uid, files=(path,))


def is_free(path: Path) -> bool:
    """Whether no QEMU holds any lock on the image; asked of the kernel, without taking one."""
    try:
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    try:
        asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, _LOCK_FIRST, _LOCK_BYTES, 0)
        answer = fcntl.fcntl(file, _OFD_GETLK, asked)
        return bool(struct.unpack("hhqqi4x", answer)[0] == fcntl.F_UNLCK)
    finally:
        os.close(file)
