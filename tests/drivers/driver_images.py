"""Images made for the tests, good and evil."""

from __future__ import annotations

import hashlib
import struct
import subprocess
from pathlib import Path


def qemu_img(*argv: str | Path) -> str:
    return subprocess.run(["qemu-img", *map(str, argv)], capture_output=True, text=True, check=True).stdout


def make_qcow2(path: Path, size: str = "8M", *options: str) -> Path:
    """With some data in it."""
    raw = path.with_suffix(".data")
    raw.write_bytes(b"nubila" * 1000)
    qemu_img("create", "-q", "-f", "qcow2", *options, path, size)
    subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", f"write -s {raw} 0 4096", str(path)], capture_output=True, check=True
    )
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def patched(image: bytes, offset: int, layout: str, *values: int) -> bytes:
    data = bytearray(image)
    struct.pack_into(layout, data, offset, *values)
    return bytes(data)


def with_extension(image: bytes, kind: int, body: bytes) -> bytes:
    """Another header extension, before those that are there."""
    at = int.from_bytes(image[100:104], "big")
    extension = struct.pack(">II", kind, len(body)) + body + bytes(-len(body) % 8)
    cluster = 1 << int.from_bytes(image[20:24], "big")
    head = image[:at] + extension + image[at:cluster]
    return head[:cluster] + image[cluster:]
