"""A PostgreSQL of the tests' own: the distribution's binaries, a data directory in a temporary place, socket only, fsync on.

Started once per test process, as an unprivileged user since PostgreSQL refuses root.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

SETTINGS = {
    "listen_addresses": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "jit": "off",
    "track_commit_timestamp": "on",
    # as in an installation: plans made while tables were small are made anew soon
    "autovacuum_naptime": "5s",
    "logging_collector": "off",
    "log_min_messages": "panic",
    "log_min_error_statement": "panic",
}


def binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name))
    if not found:
        raise RuntimeError("PostgreSQL's server is not installed; 'tools/packages' installs it")
    return found[-1]


def _as_user() -> list[str]:
    return ["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups", "--"] if os.getuid() == 0 else []


class Server:
    """One server over one data directory. `kill` is a crash: nothing is flushed, no one is told."""

    within: tuple[str, ...] = ()  # what its programs are run by

    def __init__(self, top: Path, more: Mapping[str, str] | None = None):
        """`more`: settings beside the usual ones."""
        self.top, self.data, self._bins, self._settings = top, top / "data", binaries(), SETTINGS | dict(more or {})
        self._process: subprocess.Popen[bytes] | None = None

    def create(self) -> None:
        words = ["-D", str(self.data), "-U", "nubila", "-A", "trust", "-E", "UTF8", "--locale", "C.UTF-8"]
        subprocess.run(
            [*self.within, *_as_user(), str(self._bins / "initdb"), *words],
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=60,
        )

    def start(self) -> None:
        """Returns when it answers; after a crash it recovers first."""
        options = [word for k, v in self._settings.items() for word in ("-c", f"{k}={v}")]
        program = [*self.within, *_as_user(), str(self._bins / "postgres")]
        command = [*program, "-D", str(self.data), "-k", str(self.top), *options]
        for _ in range(300):
            if (
                self._process is None or self._process.poll() is not None
            ):  # orphans of a crash may still hold its memory
                self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if subprocess.run([self._bins / "pg_isready", "-q", "-h", self.top], timeout=10).returncode == 0:
                return
            time.sleep(0.1)
        raise RuntimeError("PostgreSQL does not answer")

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()


@contextmanager
def server(more: Callable[[Path], Mapping[str, str]] | None = None) -> Iterator[Server]:
    """`more`: settings beside the usual ones, made from the server's own directory."""
    # Short, since a socket's path may have 107 characters only.
    top = Path(tempfile.mkdtemp(prefix="nbpg-", dir="/tmp"))
    if os.getuid() == 0:
        shutil.chown(top, pwd.getpwnam("nobody").pw_uid, pwd.getpwnam("nobody").pw_gid)
    made = Server(top, more(top) if more else None)
    try:
        made.create()
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(top, ignore_errors=True)


@contextmanager
def running() -> Iterator[str]:
    """Yields the socket directory; the superuser role is `nubila`, without a password."""
    with server() as made:
        yield str(made.top)
