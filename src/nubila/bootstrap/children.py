"""The processes of one installation, as a literal table, and one such process while it is supervised.

Called by the supervisor. Invariant: a child writes into its log file itself, so that it outlives the supervisor
unharmed; it runs in a session of its own, without the right to gain privileges unless it is root's.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nubila.bootstrap import postgres, processes
from nubila.bootstrap.install import environment
from nubila.bootstrap.processes import Process
from nubila.config import Settings

BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 30.0
STEADY_S = 60.0  # ran that long: the next failure starts with the shortest wait again
LOG_MAX_BYTES = 10 << 20
LOGS_KEPT = 3
FAKE_NODES = 3  # with fake drivers, one agent is so many nodes


@dataclass(frozen=True)
class Kind:
    """`part`: of Nubila, see Settings.parts. `words`: of `python -m nubila`; empty: PostgreSQL. `after`: what must be up
    before it starts."""

    part: str
    name: str
    words: tuple[str, ...]
    user: Callable[[Settings], str]
    after: str | None
    stop_signal: signal.Signals
    patience_s: float
    once: bool = False  # runs to its end, and is then done


def _control(s: Settings) -> str:
    return s.control_user


def _database(s: Settings) -> str:
    return s.pg_user


def _fetch(s: Settings) -> str:
    return str(s.fetch_uid)


def _root(s: Settings) -> str:
    return "root"


# In the order of starting; stopped in the reverse order. The agent waits for nobody: it serves its VMs without them.
KINDS: tuple[Kind, ...] = (
    Kind("control", "database", (), _database, None, signal.SIGINT, 30.0),
    Kind("control", "migrate", ("migrate",), _control, "database", signal.SIGTERM, 60.0, once=True),
    Kind("control", "fetcher", ("fetcher",), _fetch, None, signal.SIGTERM, 5.0),
    Kind("control", "control-internal", ("serve", "internal", "reconcile"), _control, "migrate", signal.SIGTERM, 15.0),
    Kind("control", "control-public", ("serve", "user", "operator"), _control, "migrate", signal.SIGTERM, 15.0),
    Kind("node", "agent", ("agent",), _root, None, signal.SIGTERM, 15.0),
)


def kinds(settings: Settings) -> tuple[Kind, ...]:
    """Those that run on this machine."""
    return tuple(k for k in KINDS if k.part in settings.parts)


@dataclass
class Child:
    kind: Kind
    settings: Settings
    popen: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    due: float = 0.0
    wait_s: float = BACKOFF_FIRST_S
    restarts: int = 0
    last_exit: str = ""
    done: bool = False
    ready: bool = False  # what comes after it may start

    @property
    def log(self) -> Path:
        return self.settings.var_dir / "log" / f"{self.kind.name}.log"

    @property
    def mark_file(self) -> Path:
        return self.settings.run_dir / f"{self.kind.name}.process"

    def start(self, now: float) -> None:
        argv = [sys.executable, "-m", "nubila", *self.kind.words]
        if self.kind.name == "agent" and self.settings.drivers == "fake":
            token_file = self.settings.node_dir / "join-token"  # a token in each line
            argv += ["--nodes", str(FAKE_NODES), "--join-token-file", str(token_file)]
        if not self.kind.words:
            postgres.configure(self.settings)
            argv = postgres.command(self.settings)
        user = self.kind.user(self.settings)
        if user != "root":
            drop = ("--reuid", user, "--regid", user, "--clear-groups", "--no-new-privs", "--inh-caps=-all")
            argv = ["setpriv", *drop, "--", *argv]
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True,
                umask=0o077 if user != "root" else 0o022, env=environment(self.settings, self.kind.name),
            )  # fmt: skip
        self.began, self.ready = now, False
        if process := processes.read(self.popen.pid):
            processes.mark(self.mark_file, process)

    def reap(self, now: float) -> bool:
        """Notice its end, and say when it is due again. True: it ended since the last call."""
        if self.popen is None or self.popen.poll() is None:
            return False
        code = self.popen.returncode
        self.last_exit = f"signal {-code}" if code < 0 else f"exit code {code}"
        self.popen, self.ready = None, False
        self.mark_file.unlink(missing_ok=True)
        if self.kind.once and code == 0:
            self.done = self.ready = True
            return True
        if now - self.began >= STEADY_S:
            self.wait_s = BACKOFF_FIRST_S
        self.due = now + self.wait_s
        self.wait_s = min(BACKOFF_MAX_S, self.wait_s * 2)
        self.restarts += 1
        return True

    def probe(self) -> None:
        """See whether it is ready by now. DatabaseFailure: the database refuses its role or its database."""
        if self.popen is None or self.ready or self.kind.once:
            return
        if not self.kind.words:
            if not postgres.ready(self.settings):
                return
            postgres.ensure_database(self.settings)
        self.ready = True

    def stop(self) -> bool:
        """Ask it to end, wait, and kill it in the end. True: it ended by itself."""
        if self.popen is None:
            return True
        if process := processes.read(self.popen.pid):
            processes.send(process, self.kind.stop_signal)
        try:
            self.popen.wait(self.kind.patience_s)
            return True
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
            return False
        finally:
            self.popen = None
            self.mark_file.unlink(missing_ok=True)

    def status(self) -> dict[str, object]:
        pid = self.popen.pid if self.popen else None
        return {"pid": pid, "ready": self.ready, "restarts": self.restarts, "last_exit": self.last_exit}


def rotate(log: Path) -> None:
    """Keep a log bounded. Its writers append and have it open, so it is copied and cut, never moved."""
    try:
        if log.stat().st_size < LOG_MAX_BYTES:
            return
    except FileNotFoundError:
        return
    for n in range(LOGS_KEPT - 1, 0, -1):
        older = log.with_name(f"{log.name}.{n}")
        if older.exists():
            older.rename(log.with_name(f"{log.name}.{n + 1}"))
    shutil.copyfile(log, log.with_name(f"{log.name}.1"))
    os.truncate(log, 0)


def leftovers(settings: Settings) -> list[Process]:
    """Children of an earlier supervisor of this installation that still run, in the order in which to stop them."""
    found: list[Process] = []
    mine = [p for p in processes.all_of() if p.variable(processes.NAME_VARIABLE) == settings.name]
    for kind in reversed(KINDS):
        if kind.words:
            found += [p for p in mine if p.runs(*kind.words)]
        else:
            found += [p for p in processes.all_of() if _is_postmaster(p, settings)]
    return found


def _is_postmaster(process: Process, settings: Settings) -> bool:
    return process.program == "postgres" and process.argv[1:3] == ("-D", str(settings.pg_data))
