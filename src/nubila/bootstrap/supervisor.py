"""Keeps the processes of one installation running: started in order, restarted with growing pauses, stopped in order.

Run as root by `make up`, in the background; at most one for an installation, by a file lock. What an earlier supervisor
left running is stopped first. libvirtd, QEMU and dnsmasq are the agent's and go on without it.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from types import FrameType

from nubila.bootstrap import children, postgres, processes
from nubila.bootstrap.addresses import reached
from nubila.bootstrap.children import Child, kinds
from nubila.bootstrap.install import ensure_directories
from nubila.config import Settings, load

TICK_S = 0.25
ROTATE_S = 10.0
STATUS_FILE = "supervisor.json"
MARK_FILE = "supervisor.process"


class Supervisor:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.children = [Child(kind, settings) for kind in kinds(settings)]
        self.by_name = {c.kind.name: c for c in self.children}
        self.stopping = False
        self._status = ""
        self._rotated = 0.0

    def run(self) -> None:
        """Until SIGTERM or SIGINT; then stops the children and returns."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._asked)
        me = processes.read(os.getpid())
        assert me is not None
        processes.mark(self.settings.run_dir / MARK_FILE, me)
        self._clear()
        _say("supervising", name=self.settings.name)
        while not self.stopping:
            self.turn(time.monotonic())
            time.sleep(TICK_S)
        self._stop()

    def turn(self, now: float) -> None:
        """One look at everything: reap, start what is due, tell."""
        for child in self.children:
            if child.reap(now):
                again = {} if child.done else {"again_in_s": round(child.due - now, 1)}
                _say("ended", child=child.kind.name, how=child.last_exit, **again)
        for child in self.children:
            if child.popen is None and not child.done and now >= child.due and self._may_start(child):
                self._start(child, now)
            self._probe(child)
        if now - self._rotated > ROTATE_S:
            self._rotated = now
            for log in (self.settings.var_dir / "log").glob("*.log"):
                children.rotate(log)
        self.tell()

    def tell(self) -> None:
        """Write the status file, for `make up` and people, when it changed."""
        status = json.dumps({c.kind.name: c.status() for c in self.children}, indent=1)
        if status != self._status:
            new = self.settings.run_dir / f".{STATUS_FILE}.new"
            new.write_text(status + "\n")
            new.rename(self.settings.run_dir / STATUS_FILE)
            self._status = status

    def _may_start(self, child: Child) -> bool:
        return child.kind.after is None or self.by_name[child.kind.after].ready

    def _probe(self, child: Child) -> None:
        try:
            child.probe()
        except postgres.DatabaseFailure as e:
            _say("not ready", child=child.kind.name, why=str(e))

    def _start(self, child: Child, now: float) -> None:
        try:
            child.start(now)
            _say("started", child=child.kind.name, pid=child.popen.pid if child.popen else None)
        except (OSError, postgres.DatabaseFailure) as e:
            child.last_exit = str(e)
            child.due = now + child.wait_s
            child.wait_s = min(children.BACKOFF_MAX_S, child.wait_s * 2)
            _say("not started", child=child.kind.name, why=str(e))

    def _clear(self) -> None:
        for process in children.leftovers(self.settings):
            database = not process.runs()
            first = signal.SIGINT if database else signal.SIGTERM
            _say("stopping a leftover", pid=process.pid, program=process.program)
            processes.stop([process], first, patience_s=30.0 if database else 10.0)

    def _stop(self) -> None:
        for child in reversed(self.children):
            if child.popen is not None:
                clean = child.stop()
                _say("stopped", child=child.kind.name, clean=clean)
        for name in (STATUS_FILE, MARK_FILE):
            (self.settings.run_dir / name).unlink(missing_ok=True)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        self.stopping = True


def supervise(argv: list[str], environ: Mapping[str, str] = os.environ) -> int:
    """`nubila supervise`: its settings come from the environment that `make up` gives it."""
    settings = load(environ=environ)
    ensure_directories(settings)  # a reboot of the host empties /run
    lock = os.open(settings.run_dir / "supervisor.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"installation {settings.name} has a supervisor already", file=sys.stderr)
        return 1
    Supervisor(reached(settings)).run()
    return 0


def _say(event: str, **fields: object) -> None:
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    print(json.dumps({"at": at, "event": event, **fields}), flush=True)
