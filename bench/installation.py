"""An installation for measuring: PostgreSQL with fsync on, the supervisor's two control-plane processes, one agent."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests import postgres

from nubila.bootstrap import world
from nubila.config import Settings, load

ROOT = Path(__file__).parents[1]


def free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class Installation:
    def __init__(self, top: Path, name: str, drivers: str, nodes: int):
        self.top, self.name, self.drivers, self.nodes = top, name, drivers, nodes
        self.ports = free_ports(3)
        self.cidr = f"10.{64 + os.getpid() % 128}.0.0/16"  # of its own: others may measure on this machine too
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.tokens: dict[str, str] = {}
        self.server: postgres.Server | None = None
        for d in ("var/control", "var/public", "var/node", "run/node"):
            (top / d).mkdir(parents=True)
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("NUBILA_")},
            "NUBILA_NAME": name,
            "NUBILA_VAR": str(top / "var"),
            "NUBILA_RUN": str(top / "run"),
            "NUBILA_DRIVERS": drivers,
            "NUBILA_USER_PORT": str(self.ports[0]),
            "NUBILA_OPERATOR_PORT": str(self.ports[1]),
            "NUBILA_INTERNAL_PORT": str(self.ports[2]),
            "NUBILA_LOG_LEVEL": "warning",
        }

    def start(self, word: str, *words: str) -> None:
        log = (self.top / f"{word}.log").open("ab")
        self.processes[word] = subprocess.Popen(
            [sys.executable, "-m", "nubila", *words],
            env=self.environment,
            stdout=log,
            stderr=log,
            cwd=ROOT,
            start_new_session=True,
        )

    def stop(self) -> None:
        for p in reversed(list(self.processes.values())):
            if p.poll() is None:
                p.send_signal(signal.SIGTERM)
            try:
                p.wait(10)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()

    @property
    def ca(self) -> Path:
        return self.top / "var/public/ca.pem"

    def call(
        self, plane: int, method: str, path: str, body: Any = None, token: str | None = None, raw: bytes | None = None
    ) -> Any:
        context = ssl.create_default_context(cafile=str(self.ca))
        c = http.client.HTTPSConnection("127.0.0.1", self.ports[plane], context=context, timeout=60)
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

    def ready(self, plane: int) -> None:
        for _ in range(300):
            with contextlib.suppress(OSError, RuntimeError, ssl.SSLError):
                self.call(plane, "GET", "/readyz")
                return
            time.sleep(0.05)
        raise RuntimeError(f"plane {plane} did not start: see {self.top}")

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
        lines = [self.call(1, "POST", "/v1/join-tokens", {}, op)["token"] for _ in range(self.nodes)]
        file = self.top / "join"
        file.write_text("\n".join(lines) + "\n")
        file.chmod(0o600)
        more = ("--nodes", str(self.nodes)) if self.nodes > 1 else ()
        self.start("agent", "agent", "--join-token-file", str(file), *more)
        for _ in range(400):
            found = self.call(1, "GET", "/v1/nodes", token=op)["items"]
            if sum(n["state"] == "running" for n in found) >= self.nodes:
                break
            time.sleep(0.1)
        else:
            raise RuntimeError(f"the nodes did not come: see {self.top}/agent.log")
        if self.drivers == "fake":
            # the machine has two cores; what is measured is the control plane, not how soon it is full
            for n in found:
                self.call(
                    1,
                    "PATCH",
                    f"/v1/nodes/{n['id']}",
                    {"cpu_overcommit": 64.0, "reserved_memory_mib": 0, "reserved_disk_gib": 0},
                    op,
                )


@contextmanager
def installation(
    name: str, drivers: str, nodes: int, image: bytes, format_: str, more: Mapping[str, str] | None = None
) -> Iterator[Installation]:
    """`more`: settings, as environment variables."""
    top = Path(tempfile.mkdtemp(prefix=f"{name}-", dir="/var/tmp"))
    top.chmod(0o711)  # each QEMU has a user of its own, who must get through
    with postgres.server() as server:
        socket_directory = str(server.top)
        made = Installation(top, name, drivers, nodes)
        made.server = server
        made.environment.update(more or {})
        try:
            (top / "run/postgresql").symlink_to(socket_directory)
            subprocess.run(["createdb", "-h", socket_directory, "-U", "nubila", "nubila"], check=True)
            subprocess.run(
                [sys.executable, "-m", "nubila", "migrate"], env=made.environment, check=True, stdout=subprocess.DEVNULL
            )
            made.start("public", "serve", "user", "operator")
            made.ready(0)
            made.start("internal", "serve", "internal", "reconcile")
            made.ready(2)
            made.fill(image, format_)
            yield made
        finally:
            made.stop()
            if drivers == "real":
                erase(load(environ=made.environment))
            shutil.rmtree(top, ignore_errors=True)


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
