"""A whole installation for tests, with fake drivers: the control plane in three processes, two of which serve the same.

What comes out of it is, beside HTTP and log lines, the fake world's journal and, where a test says so, SQL.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import tempfile
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg

from nubila.config import Settings
from tests import counts, postgres
from tests.fleet.caller import Caller
from tests.processes import Processes, free_ports, until

FRONTS = ("front1", "front2")
# process -> the words after `python -m nubila`
PROCESSES: dict[str, tuple[str, ...]] = {
    "core": ("serve", "internal", "reconcile"),
    "front1": ("serve", "user", "operator"),
    "front2": ("serve", "user", "operator"),
}
IMAGE = b"x" * 4096
PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGVOCiDMiAIR4SXgkMmyPOYrrTTVYL3pK5sEgWFkAbAi me@here"


def rows_of(journal: Path) -> dict[str, dict[str, Any]]:
    """What a table of a fake world holds: what a person at the machine would see. Its last line may be under way."""
    found: dict[str, Any] = {}
    for line in journal.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            key, row = json.loads(line)
            found[key] = row
    return {k: v for k, v in found.items() if v is not None}


class Installation(Processes):
    def __init__(self, server: postgres.Server, nodes: int):
        top = Path(tempfile.mkdtemp(prefix="nbfl-", dir="/tmp"))
        top.chmod(0o755)
        super().__init__(server, top, nodes)
        ports = free_ports(5)
        self.ports = {"front1": ports[0:2], "front2": ports[2:4], "core": ports[4:5]}
        self.settings = Settings(
            name="fleet",
            var=str(self.var),
            run=str(self.run),
            user_port=ports[0],
            operator_port=ports[1],
            internal_port=ports[4],
        )
        self.operator_token = ""
        self.bus = True
        self.more: dict[str, str] = {}

    # --- life

    def create(self) -> None:
        """From nothing to an operator, an image, a flavor and running nodes, by the APIs."""
        self._make_database()
        self._spawn("fetcher", "fetcher")
        self.start(*PROCESSES)
        secret = self.settings.first_operator_file.read_text().strip()
        self.operator_token = (
            self.caller("operator").post("/v1/first-operator", {"secret": secret, "name": "root"}).ok()["token"]
        )
        operator = self.operator()
        operator.post("/v1/flavors", {"name": "tiny", "cores": 1, "memory_mib": 128, "disk_gib": 1}).ok()
        operator.post("/v1/images", {"name": "mini", "format": "raw"}).ok()
        operator.put_bytes("/v1/images/mini/content", IMAGE)
        self._join(operator)

    def start(self, *names: str) -> None:
        """Start control-plane processes and wait until each answers."""
        for name in names:
            self._spawn(name, *PROCESSES[name])
        for name in names:
            for port in self.ports[name]:
                until(partial(self._ready, port), 30, 0.1, f"{name} ready")

    def start_agent(self) -> None:
        self._spawn("agent", "agent", "--nodes", str(self.nodes), "--join-token-file", str(self.join_file))

    def kill(self, name: str) -> None:
        """As the kernel does it: no goodbye."""
        counts.add(counts.AGENT_KILLS if name == "agent" else counts.API_KILLS)
        self.processes[name].kill()
        self.processes[name].wait()

    def stop(self, name: str) -> None:
        self.processes[name].terminate()
        self.processes[name].wait(30)

    @contextlib.contextmanager
    def paused(self, name: str) -> Iterator[None]:
        """The process is there and does nothing."""
        self.processes[name].send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.processes[name].send_signal(signal.SIGCONT)

    def _environment(self, name: str) -> dict[str, str]:
        user, operator = self.ports[name if name in FRONTS else "front1"]
        return {
            "PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "NUBILA_NAME": self.settings.name, "NUBILA_VAR": str(self.var), "NUBILA_RUN": str(self.run), "NUBILA_DRIVERS": "fake",
            "NUBILA_USER_PORT": str(user), "NUBILA_OPERATOR_PORT": str(operator), "NUBILA_INTERNAL_PORT": str(self.settings.internal_port),
            "NUBILA_BUS": str(self.bus).lower(), **self.more,
        }  # fmt: skip

    # --- seen from outside

    def caller(self, plane: str, token: str | None = None, front: str = "front1") -> Caller:
        """A client of a plane; `front` says which of the two processes it talks to."""
        port = (
            self.settings.internal_port if plane == "internal" else self.ports[front][("user", "operator").index(plane)]
        )
        return Caller(port, self.ca, token=token)

    def operator(self, front: str = "front1") -> Caller:
        return self.caller("operator", self.operator_token, front)

    def domains(self) -> dict[str, dict[str, Any]]:
        """The fake hypervisors' domains by vm id."""
        return self.journal("domains")

    def journal(self, name: str) -> dict[str, dict[str, Any]]:
        """What the nodes' fake worlds have in the table of that name."""
        return {k: row for path in self.var.glob(f"node*/fake/{name}") for k, row in rows_of(path).items()}

    def log_lines(self, name: str) -> list[dict[str, Any]]:
        text = (self.logs / f"{name}.log").read_text(errors="replace")
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def faults(self, allowed: Iterable[str] = ()) -> list[str]:
        """Lines of any log that no caller may cause: stack traces, and what the product itself calls an error."""
        bad = []
        for file in sorted(self.logs.iterdir()):
            for line in file.read_text(errors="replace").splitlines():
                if "Traceback" in line or '"level":"error"' in line or not line.startswith("{"):
                    bad.append(f"{file.stem}: {line[:2000]}")
        return [line for line in bad if not any(word in line for word in allowed)]

    def sql(self, text: str, *args: Any, database: str = "nubila") -> list[dict[str, Any]]:
        """What no API can do: move the clock of a row, look at every table."""

        async def run() -> list[dict[str, Any]]:
            connection = await asyncpg.connect(host=str(self.server.top), user="nubila", database=database)
            try:
                return [dict(r) for r in await connection.fetch(text, *args)]
            finally:
                await connection.close()

        return asyncio.run(run())

    def quiet(self) -> str:
        """Waits until nothing changes any more; returns the change log's cursor there."""
        operator = self.operator()
        cursor: str = operator.get("/v1/changes?after=end").ok()["cursor"]
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            answer = operator.get(f"/v1/changes?after={cursor}&wait=0.8&limit=1000").ok()
            if not answer["items"]:
                return cursor
            cursor = answer["cursor"]
        raise AssertionError("the change log does not come to rest")

    def digest(self) -> dict[str, str]:
        """A hash of every table's content, but for those that say who called, was heard from or leads, and for the log's
        seals and who saw them: they follow what was written before."""
        skipped = ("call", "plan", "node_seen", "lease", "seal", "anchor", "alembic_version")
        names = [r["tablename"] for r in self.sql("select tablename from pg_tables where schemaname = 'public'")]
        kept = [n for n in sorted(names) if n not in skipped]
        query = " union all ".join(
            f"select '{n}' as name, coalesce(md5(string_agg(t::text, '|' order by t::text)), '') as hash from \"{n}\" t"
            for n in kept
        )
        return {r["name"]: r["hash"] for r in self.sql(query)}

    @contextlib.contextmanager
    def nothing_written(self, *but: str) -> Iterator[str]:
        """Inside, every table `but` those stays as it is; yields the change log's cursor. The agent rests meanwhile."""
        with self.paused("agent"):
            cursor, before = self.quiet(), self.digest()
            yield cursor
            changed = {name for name, hash_ in self.digest().items() if hash_ != before[name]} - {*but}
            if changed:
                items = self.operator().get(f"/v1/changes?after={cursor}").ok()["items"]
                late = {i["actor"] for i in items} == {
                    "system:operation"
                }  # the deadline of one that another test left open
                assert late and changed <= {"change", "operation"}, (changed, items)

    def cpu_s(self, name: str) -> float:
        """CPU seconds that a process has used."""
        fields = Path(f"/proc/{self.processes[name].pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def installed(nodes: int = 2, more: dict[str, str] | None = None) -> Iterator[Installation]:
    """`more`: settings of its own."""
    with postgres.server() as server:
        made = Installation(server, nodes)
        made.more = more or {}
        try:
            made.create()
            yield made
        finally:
            made.destroy()
