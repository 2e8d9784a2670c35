"""A network namespace for the calling thread, and for all threads and processes that it starts from then on."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def own_netns() -> Iterator[None]:
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.unshare(_CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        # A new namespace starts with what the machine happens to have.
        Path("/proc/sys/net/ipv4/ip_forward").write_text("0")
        yield
    finally:
        _libc.setns(before, _CLONE_NEWNET)
        os.close(before)
