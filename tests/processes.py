"""What the installations of tests and of measurements are made of: a database of their own, and the product's processes as an
operating system runs them.

Every process is started by this object and ended by its pid. Nothing here reaches into the product: settings go in by the
environment, and what comes out is HTTP and log lines.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests import postgres
from tests.fleet.caller import Caller

ROOT = Path(__file__).parents[1]


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on; all are held until all are found."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


def until(what: Callable[[], Any], timeout_s: float = 20.0, every_s: float = 0.05, why: str = "") -> Any:
    """The first true answer of `what`; fails when the time is over."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = what()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {why or what}"
        time.sleep(every_s)


class Processes:
    """`top` is theirs, and goes with them."""

    def __init__(self, server: postgres.Server, top: Path, nodes: int):
        self.server, self.top, self.nodes = server, top, nodes
        self.var, self.run, self.logs = top / "var", top / "run", top / "log"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        for path, mode in (
            (self.var, 0o755),
            (self.var / "control", 0o700),
            (self.var / "public", 0o755),
            (self.run, 0o755),
            (self.run / "fetch", 0o700),
            (self.logs, 0o755),
        ):
            path.mkdir(mode=mode)

    @property
    def ca(self) -> Path:
        return self.top / "var" / "public" / "ca.pem"

    @property
    def join_file(self) -> Path:
        return self.top / "join-tokens"

    def start_agent(self) -> None:
        """With the words that let it enrol, if it has not yet."""
        raise NotImplementedError

    def destroy(self) -> None:
        self.end()
        shutil.rmtree(self.top, ignore_errors=True)

    def end(self) -> None:
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in self.processes.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _environment(self, name: str) -> dict[str, str]:
        """Of one of the processes."""
        raise NotImplementedError

    def _spawn(self, name: str, *words: str) -> None:
        with (self.logs / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                self._command(*words),
                cwd=ROOT,
                env=self._environment(name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "nubila", *words]

    def _make_database(self) -> None:
        (self.run / "postgresql").symlink_to(self.server.top)
        createdb = [postgres.binaries() / "createdb", "-h", self.server.top, "-U", "nubila", "nubila"]
        subprocess.run(createdb, check=True, timeout=60)
        environment = self._environment("migrate")
        subprocess.run(self._command("migrate"), env=environment, check=True, timeout=60, stdout=subprocess.DEVNULL)

    def _ready(self, port: int) -> bool:
        if not self.ca.exists():
            return False
        try:
            return Caller(port, self.ca).get("/readyz").status == 200
        except OSError:
            return False

    def _join(self, operator: Caller) -> None:
        """Starts an agent of all nodes, and waits until they run."""
        tokens = [operator.post("/v1/join-tokens", {}).ok()["token"] for _ in range(self.nodes)]
        self.join_file.write_text("".join(f"{t}\n" for t in tokens))
        self.join_file.chmod(0o600)
        self.start_agent()
        until(
            lambda: len([n for n in operator.list("/v1/nodes") if n["state"] == "running"]) == self.nodes,
            40,
            why="nodes enrolled",
        )
