"""A PostgreSQL of the tests' own: the distribution's binaries, a data directory in a temporary place, socket only, fsync on.

Started once per test process, as an unprivileged user since PostgreSQL refuses root.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SETTINGS = {
    "listen_addresses": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "jit": "off",
    "logging_collector": "off",
    "log_min_messages": "panic",
    "log_min_error_statement": "panic",
}


def binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name))
    if not found:
        raise RuntimeError("PostgreSQL's server is not installed; 'make setup' installs the Debian package postgresql")
    return found[-1]


def _as_user() -> list[str]:
    return ["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups", "--"] if os.getuid() == 0 else []


@contextmanager
def running() -> Iterator[str]:
    """Yields the socket directory; the superuser role is `nubila`, without a password."""
    # Short, since a socket's path may have 107 characters only.
    top = Path(tempfile.mkdtemp(prefix="nbpg-", dir="/tmp"))
    if os.getuid() == 0:
        shutil.chown(top, pwd.getpwnam("nobody").pw_uid, pwd.getpwnam("nobody").pw_gid)
    data, bins = top / "data", binaries()
    start = [*_as_user(), str(bins / "initdb"), "-D", str(data), "-U", "nubila", "-A", "trust", "-E", "UTF8", "--locale", "C.UTF-8"]
    server = None
    try:
        subprocess.run(start, check=True, stdout=subprocess.DEVNULL, timeout=60)
        options = [word for k, v in SETTINGS.items() for word in ("-c", f"{k}={v}")]
        server = subprocess.Popen(
            [*_as_user(), str(bins / "postgres"), "-D", str(data), "-k", str(top), *options],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        subprocess.run(
            ["sh", "-c", f"for i in $(seq 100); do {bins}/pg_isready -q -h {top} && exit 0; sleep 0.1; done; exit 1"], check=True, timeout=30
        )
        yield str(top)
    finally:
        if server is not None:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
        shutil.rmtree(top, ignore_errors=True)
