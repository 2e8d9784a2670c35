"""An installation for measuring: PostgreSQL with fsync on, the supervisor's two control-plane processes, one agent."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from tests import postgres
from tests.fleet.caller import Caller
from tests.processes import ROOT, Processes, free_ports, until

from nubila.bootstrap import world
from nubila.config import Settings, load

_NUMBER = itertools.count()


class Installation(Processes):
    def __init__(self, server: postgres.Server, name: str, drivers: str, nodes: int, more: Mapping[str, str]):
        top = Path(tempfile.mkdtemp(prefix=f"{name}-", dir="/var/tmp"))
        top.chmod(0o711)  # each QEMU has a user of its own, who must get through
        super().__init__(server, top, nodes)
        for path in (self.var / "node", self.run / "node"):
            path.mkdir()
        self.drivers = drivers
        self.ports = free_ports(3)
        # of its own: others may measure on this machine too, and a process may have several
        self.cidr = f"10.{64 + (os.getpid() + next(_NUMBER)) % 128}.0.0/16"
        self.tokens: dict[str, str] = {}
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("NUBILA_")},
            "NUBILA_NAME": name,
            "NUBILA_VAR": str(self.var),
            "NUBILA_RUN": str(self.run),
            "NUBILA_DRIVERS": drivers,
            "NUBILA_USER_PORT": str(self.ports[0]),
            "NUBILA_OPERATOR_PORT": str(self.ports[1]),
            "NUBILA_INTERNAL_PORT": str(self.ports[2]),
            "NUBILA_LOG_LEVEL": "warning",
            **more,
        }

    def create(self) -> None:
        """The supervisor's two processes, over an empty database."""
        self._make_database()
        self.start("public", "serve", "user", "operator")
        self.ready(0)
        self.start("internal", "serve", "internal", "reconcile")
        self.ready(2)

    def start(self, word: str, *words: str) -> None:
        self._spawn(word, *words)

    def start_agent(self) -> None:
        more = ("--nodes", str(self.nodes)) if self.nodes > 1 else ()
        self.start("agent", "agent", "--join-token-file", str(self.join_file), *more)

    def ready(self, plane: int) -> None:
        until(lambda: self._ready(self.ports[plane]), 30, why=f"plane {plane} did not start: see {self.logs}")

    def _environment(self, name: str) -> dict[str, str]:
        return self.environment

    @classmethod
    def elsewhere(cls, config: dict[str, Any]) -> Self:
        """In a process that `apart` runs: its APIs can be called, and nothing else."""
        made = cls.__new__(cls)
        made.top, made.ports, made.tokens = Path(config["top"]), config["ports"], config["tokens"]
        return made

    def apart(self, module: str, **config: Any) -> Any:
        """What a module of ours finds in a process of its own: what that costs is not counted."""
        file = self.top / f"{module}.json"
        file.write_text(json.dumps({"top": str(self.top), "ports": self.ports, "tokens": self.tokens, **config}))
        words = [sys.executable, "-m", module, str(file)]
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=600, check=False, env=self.environment, cwd=ROOT
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        return json.loads(done.stdout)

    def call(
        self, plane: int, method: str, path: str, body: Any = None, token: str | None = None, raw: bytes | None = None
    ) -> Any:
        context = ssl.create_default_context(cafile=str(self.ca))
        c = http.client.HTTPSConnection(
            "127.0.0.1", self.ports[plane], context=context, timeout=150
        )  # over the longest wait asked for
        headers = {"content-type": "application/octet-stream" if raw is not None else "application/json"}
        if token:
            headers["authorization"] = f"Bearer {token}"
        c.request(
            method, path, raw if raw is not None else None if body is None else json.dumps(body).encode(), headers
        )
        response = c.getresponse()
        content = response.read()
        c.close()
        if response.status >= 400:
            raise RuntimeError(f"{method} {path}: {response.status} {content.decode()}")
        return json.loads(content) if content[:1] in (b"{", b"[") else content.decode()

    def fill(self, image: bytes, format_: str, quota: int = 1_000_000) -> None:
        secret = (self.top / "var/control/first-operator").read_text().strip()
        op = self.call(1, "POST", "/v1/first-operator", {"secret": secret})["token"]
        self.call(1, "POST", "/v1/projects", {"name": "bench"}, op)
        classes = ("vms", "cores", "memory_mib", "volumes", "disk_gib")
        self.call(1, "PUT", "/v1/projects/bench/quota", {"quota": dict.fromkeys(classes, quota)}, op)
        self.call(1, "POST", "/v1/users", {"name": "bench"}, op)
        self.call(1, "PUT", "/v1/projects/bench/members/bench", {"role": "owner"}, op)
        user = self.call(1, "POST", "/v1/users/bench/tokens", {"name": "t", "project": "bench"}, op)["secret"]
        self.call(1, "POST", "/v1/flavors", {"name": "tiny", "cores": 1, "memory_mib": 256, "disk_gib": 1}, op)
        self.call(1, "POST", "/v1/images", {"name": "mini", "format": format_}, op)
        self.call(1, "PUT", "/v1/images/mini/content", token=op, raw=image)
        self.call(0, "POST", "/v1/networks", {"name": "default", "subnets": [{"cidr": self.cidr}]}, user)
        self.tokens = {"operator": op, "user": user}
        operator = Caller(self.ports[1], self.ca, token=op)
        self._join(operator)
        if self.drivers == "fake":
            # the machine has two cores; what is measured is the control plane, not how soon it is full
            most = {"cpu_overcommit": 64.0, "reserved_memory_mib": 0, "reserved_disk_gib": 0}
            for n in operator.list("/v1/nodes"):
                operator.patch(f"/v1/nodes/{n['id']}", most).ok()


@contextmanager
def installation(
    name: str, drivers: str, nodes: int, image: bytes, format_: str, more: Mapping[str, str] | None = None
) -> Iterator[Installation]:
    """`more`: settings, as environment variables."""
    with postgres.server() as server:
        made = Installation(server, name, drivers, nodes, more or {})
        try:
            made.create()
            made.fill(image, format_)
            yield made
        finally:
            made.end()
            if drivers == "real":
                erase(load(environ=made.environment))
            made.destroy()


def erase(settings: Settings) -> None:
    """What the node's drivers left on this machine for the agent to come back to: here it does not come back."""
    for process in world.running(settings):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    time.sleep(0.3)
    for link in world.links(settings):
        world.remove_link(link)
    for family, name in world.tables(settings):
        world.remove_table(family, name)
    for point in world.mounts(settings):
        world.unmount(point)
    for path in [p for p in world.mount_points(settings) if p.is_dir() and not any(p.iterdir())]:
        path.rmdir()
    for path, before in world.changed_settings(settings).items():
        path.write_text(before)
