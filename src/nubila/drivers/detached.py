"""A process that outlives the one that started it, and is found again by pid, start time and boot.

A pid alone proves nothing: it may belong to a stranger by now. The record is written by the process itself before it
becomes the program, so that a parent killed in between leaves no process that no one knows.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from nubila.drivers import DriverError

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# $1 the record, $2 the boot id, then the program. `read` splits /proc/self/stat; the name in it is '(sh)'.
# A program that takes SIGHUP as "read your files again" would die of one that comes before it is ready to.
_RECORD_AND_RUN = """
set -e
trap '' HUP
read -r _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ started _ < /proc/$$/stat
printf '%s %s %s\\n' "$$" "$started" "$2" > "$1.new"
mv "$1.new" "$1"
shift 2
exec "$@"
"""


class Detached:
    """One such process. `record` is the file that remembers it."""

    def __init__(self, record: Path):
        self._record = record
        self._child: subprocess.Popen[bytes] | None = None

    def pid(self) -> int | None:
        """Its pid while it runs."""
        if self._child is not None:
            self._child.poll()  # reaps it, if it was ours and is dead
        try:
            pid, started, boot = self._record.read_text().split()
        except (FileNotFoundError, ValueError):
            return None
        if boot != boot_id() or started != start_time(int(pid)):
            return None
        return int(pid)

    def start(self, argv: Sequence[str], output: Path) -> None:
        """Run the program in a session of its own; its output is appended to a file that only root reads."""
        self._record.parent.mkdir(parents=True, exist_ok=True)
        self._record.unlink(missing_ok=True)
        log = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self._child = subprocess.Popen(
                ["/bin/sh", "-c", _RECORD_AND_RUN, "sh", str(self._record), boot_id(), *argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
            )
        finally:
            os.close(log)

    def failed(self) -> int | None:
        """The exit code, when it was started here and has ended."""
        return self._child.poll() if self._child is not None else None

    def signal(self, number: int) -> bool:
        pid = self.pid()
        return pid is not None and signalled(pid, number)

    def stop(self, patience_s: float = 5.0) -> None:
        """End it: SIGTERM, and SIGKILL when it takes too long."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not self.signal(number):
                break
            limit = time.monotonic() + patience_s
            while self.pid() is not None and time.monotonic() < limit:
                time.sleep(0.005)
        if self.pid() is not None:
            raise DriverError(f"a process recorded in {self._record} does not end")
        self._record.unlink(missing_ok=True)


def signalled(pid: int, number: int) -> bool:
    """Send the signal. False: there is no such process."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def boot_id() -> str:
    return _BOOT_ID.read_text().strip()


def start_time(pid: int) -> str | None:
    """In clock ticks since boot, or None when there is no such process or only its remains."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else fields[19]
