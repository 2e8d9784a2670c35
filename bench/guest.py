"""The small guest image, as `make up` would build it now: what benches and tests boot."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent


@functools.cache
def directory() -> Path:
    """Where vmlinuz, initrd.gz and nubila-mini.qcow2 are. One of an earlier version is built anew, a current one left."""
    made = ROOT / "build" / "guest"
    subprocess.run([str(ROOT / "guest" / "build.sh"), str(made)], check=True, stdout=subprocess.DEVNULL, timeout=300)
    return made


def image() -> bytes:
    return (directory() / "nubila-mini.qcow2").read_bytes()
