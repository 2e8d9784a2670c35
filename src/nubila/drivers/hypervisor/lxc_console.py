"""Reads a container's console as long as the container lives, into a log of bounded size, and sees how it ends.

A program of its own beside each container, as virtlogd is beside QEMU: it outlives the agent, since a console that
nobody reads makes the guest wait. libvirt does not say how a container's first process ended; the kernel tells it to
whoever holds a handle of it. Standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
import sys
from pathlib import Path

_BLOCK = 65536
_INFO = struct.Struct("QQ11Ii")
_GET_INFO, _WITH_EXIT = 0xC040FF0B, 1 << 3  # since Linux 6.15
_WAIT_MS = 5000
_OWN_WISH = (signal.SIGKILL, signal.SIGINT, signal.SIGHUP)


def main(argv: list[str]) -> int:
    """Terminal, log, its largest size in bytes, the first process's pid, and where its end is noted."""
    terminal, log, most, pid, end = argv[1], Path(argv[2]), int(argv[3]), int(argv[4]), Path(argv[5])
    watched = None
    with contextlib.suppress(OSError):
        watched = os.pidfd_open(pid)
    with contextlib.suppress(OSError):
        _keep(os.open(terminal, os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC), log, most)
    reason = None if watched is None else _ended(watched)
    if reason is not None:
        new = end.with_name(end.name + ".new")
        new.write_text(reason)
        os.replace(new, end)
    return 0


def _keep(terminal: int, log: Path, most: int) -> None:
    """Until the terminal is hung up."""
    file = _open(log)
    while block := os.read(terminal, _BLOCK):
        for at in range(0, len(block), most):
            part = block[at : at + most]
            if os.fstat(file).st_size + len(part) > most:
                os.replace(log, log.with_name(log.name + ".0"))
                os.close(file)
                file = _open(log)
            os.write(file, part)


def _open(log: Path) -> int:
    return os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _ended(watched: int) -> str | None:
    """By the kernel's word, or None when it says nothing."""
    waiting = select.poll()
    waiting.register(watched, select.POLLIN)
    if not waiting.poll(_WAIT_MS):
        return None
    for _ in range(50):  # it is told once its parent took notice
        try:
            told = _INFO.unpack(fcntl.ioctl(watched, _GET_INFO, _INFO.pack(_WITH_EXIT, *[0] * 13)))
        except OSError:
            told = None
        if told is not None and told[0] & _WITH_EXIT:
            return _reason(told[-1])
        select.poll().poll(20)
    return None


def _reason(status: int) -> str:
    """A guest that powers itself off or reboots ends its first process without an error, or by SIGKILL where another
    process than the first asked for it: see reboot(2). Who else killed it so is not told."""
    if os.WIFSIGNALED(status):
        return "guest-shutdown" if os.WTERMSIG(status) in _OWN_WISH else "crashed"
    return "guest-shutdown" if os.WEXITSTATUS(status) == 0 else "crashed"


def tells_ends() -> bool:
    """Whether this kernel says how a process ended."""
    child = os.posix_spawn("/bin/true", ["true"], {})
    watched = os.pidfd_open(child)
    try:
        os.waitpid(child, 0)
        return _ended(watched) == "guest-shutdown"
    finally:
        os.close(watched)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
