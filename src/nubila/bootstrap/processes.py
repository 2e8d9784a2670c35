"""Processes of this machine, as /proc shows them, and how to stop one without hitting another.

Used by the preflight, the supervisor, `down` and `destroy`. A process is known by pid and start time together, so a pid
that was given to another process since is never signalled. Standard library only.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# Set in the environment of every child of a supervisor, and inherited: whose it is, and what it was started as.
NAME_VARIABLE = "NUBILA_NAME"
ROLE_VARIABLE = "NUBILA_ROLE"


@dataclass(frozen=True)
class Process:
    pid: int
    started: int  # clock ticks since the host's boot
    argv: tuple[str, ...]
    environ: tuple[str, ...]  # empty when it may not be read

    @property
    def program(self) -> str:
        return os.path.basename(self.argv[0]) if self.argv else ""

    def variable(self, name: str) -> str | None:
        """The value of an environment variable that it was started with."""
        prefix = name + "="
        return next((e[len(prefix) :] for e in self.environ if e.startswith(prefix)), None)

    def runs(self, *words: str) -> bool:
        """It is `python -m nubila WORDS...`."""
        want = ("-m", "nubila", *words)
        return any(self.argv[i : i + len(want)] == want for i in range(len(self.argv)))


def all_of() -> Iterator[Process]:
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (found := read(int(entry))) and found.argv:
            yield found


def read(pid: int) -> Process | None:
    """None: there is no such process, or it is a zombie. In the middle of an exec, it has no argv yet."""
    try:
        state, started = _stat(pid)
        argv = _words(pid, "cmdline")
        environ: tuple[str, ...] = ()
        with suppress(PermissionError):
            environ = _words(pid, "environ")
    except (OSError, ValueError, IndexError):
        return None
    return Process(pid, started, argv, environ) if state != "Z" else None


def alive(process: Process) -> bool:
    try:
        state, started = _stat(process.pid)
    except (OSError, ValueError, IndexError):
        return False
    return started == process.started and state != "Z"


def stop(which: Iterable[Process], first: signal.Signals = signal.SIGTERM, patience_s: float = 10.0) -> list[Process]:
    """Signal each, wait, then kill those that are left. Returns those that had to be killed."""
    waiting = [p for p in which if send(p, first)]
    deadline = time.monotonic() + patience_s
    while (waiting := [p for p in waiting if alive(p)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    killed = [p for p in waiting if send(p, signal.SIGKILL)]
    end = time.monotonic() + 5
    while any(alive(p) for p in killed) and time.monotonic() < end:
        time.sleep(0.02)
    return killed


def send(process: Process, number: signal.Signals) -> bool:
    """False: it is gone. The pid is held by a pidfd, so the signal reaches this process or none."""
    try:
        fd = os.pidfd_open(process.pid)
    except (ProcessLookupError, OSError):
        return False
    try:
        if not alive(process):
            return False
        signal.pidfd_send_signal(fd, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    return True


def mark(file: Path, process: Process) -> None:
    """Into a file: pid, start time, and one word for people. It is no pid file: a pid alone may be another's by now."""
    new = file.with_suffix(".new")
    new.write_text(f"{process.pid} {process.started} {process.program}\n")
    new.rename(file)


def marked(file: Path) -> Process | None:
    """The process that such a file names, if it still is that one."""
    try:
        pid, started = file.read_text().split()[:2]
        found = read(int(pid))
    except (OSError, ValueError):
        return None
    return found if found and found.started == int(started) else None


def _stat(pid: int) -> tuple[str, int]:
    # The program's name is in brackets and may hold anything, blanks and brackets too.
    fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return fields[0], int(fields[19])


def _words(pid: int, file: str) -> tuple[str, ...]:
    data = Path(f"/proc/{pid}/{file}").read_bytes().decode("utf-8", "replace")
    return tuple(data.rstrip("\0").split("\0")) if data else ()
