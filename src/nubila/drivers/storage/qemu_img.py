"""qemu-img as the directory pool uses it: on files whose format is stated, within limits, and never while QEMU has them.

Formats are never probed: a guest decides what its disk's first bytes say. qemu-img takes QEMU's own image locks, so
that it fails where one of them still writes.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

from nubila.drivers import DriverError

# It reads what strangers made: it has no network, gains no privileges, and may use that much and no more.
ISOLATED: tuple[str, ...] = ("unshare", "--net", "--", "setpriv", "--no-new-privs", "--")
MEMORY_BYTES = 1 << 30
CPU_S = 1800
TIMEOUT_S = 3600.0
_OFD_GETLK = 36
_LOCK_FIRST, _LOCK_BYTES = 100, 200  # where QEMU's locks lie: block/file-posix.c


def run(words: Sequence[str], doing: str, *, file_bytes: int | None = None) -> None:
    """Raises DriverError in words."""
    limits = [f"--as={MEMORY_BYTES}", f"--cpu={CPU_S}", "--core=0"]
    limits += [f"--fsize={file_bytes}"] if file_bytes is not None else []
    argv = [*ISOLATED, "prlimit", *limits, "qemu-img", *words]
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


def convert(source: Path, source_format: str, target: Path, target_format: str, doing: str, file_bytes: int) -> None:
    sparse = ["-S", "4k"]
    words = ["convert", "-f", source_format, "-O", target_format, *sparse, str(source), str(target)]
    run(words, doing, file_bytes=file_bytes)


def snapshot(action: str, snapshot_id: str, path: Path, doing: str) -> None:
    """-c, -a or -d of a snapshot inside a qcow2 file. This command takes the format as an option of the image only."""
    image = "driver=qcow2,file.driver=file,file.filename=" + str(path).replace(",", ",,")
    run(["snapshot", action, snapshot_id, "--image-opts", image], doing)


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
