"""A lab of the product's own, as tests use it: `nubila lab` in a clone of its own, its API, its machines."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
KEPT_OUT = {".git", ".venv", "build", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"}
NAME, NETWORK = "nbl", "10.98.9.0/24"
HOSTS = ("h1", "h2", "h3")


class Lab:
    def __init__(self, clone: Path):
        self.clone = clone

    def make(self) -> None:
        """The clone, with what it needs to be used."""
        shutil.copytree(ROOT, self.clone, symlinks=True, ignore=lambda _, names: KEPT_OUT & set(names))
        subprocess.run((self.clone / "tools" / "setup",), check=True, capture_output=True)

    def word(self, *words: str, check: bool = True, timeout_s: float = 600) -> str:
        """`nubila lab WORDS`: what it said."""
        more = ("--network", NETWORK) if words == ("up",) else ()
        argv = (self.clone / ".venv/bin/python", "-m", "nubila", "lab", "--lab", NAME, "--clone", self.clone)
        run = subprocess.run(
            (*argv, *words, *more), capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
            timeout=timeout_s, cwd=self.clone,
        )  # fmt: skip
        assert not check or run.returncode == 0, f"{words}: {run.stdout[-3000:]}\n{run.stderr[-3000:]}"
        return run.stdout + run.stderr

    def nubila(self, *words: str, check: bool = True) -> Any:
        """A command of the client, as its JSON."""
        argv = (self.clone / "nubila", *words, "--context", f"{NAME}cp", "-o", "json")
        run = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=300)
        assert not check or run.returncode == 0, f"{words}: {run.stdout[-3000:]}\n{run.stderr[-3000:]}"
        return json.loads(run.stdout or "{}")

    def states(self) -> dict[str, str]:
        """Of the nodes, by the short name."""
        found = self.nubila("node", "list")["items"]
        return {n["name"].removeprefix(NAME): n["state"] for n in found}

    def vm(self, name: str, node: str = "") -> dict[str, Any]:
        """A running vm."""
        self.nubila("vm", "create", name, "--flavor", "tiny", "--image", "nubila-mini", "--key", "first")
        shown: dict[str, Any] = self.shown(name)
        return shown

    def shown(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.nubila("vm", "show", name, "--as", "operator")
        return found

    def in_guest(self, host: str, vm: dict[str, Any], command: str) -> str | None:
        """What the guest answered; None: it did not. From its host: nothing else reaches it."""
        address = next(a for a in vm["addresses"] if ":" not in a)
        known = ("-o", "UserKnownHostsFile=/dev/null", "-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR")
        limits = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=5")
        key = ("-i", str(self.clone / "build/ssh/id_ed25519"))
        said = self.word("run", host, "ssh", *key, *known, *limits, f"root@{address}", command, check=False)
        return None if "ssh:" in said else said.strip()

    def on(self, host: str, command: str) -> str:
        return self.word("run", host, *shlex.split(command))


def until(what: Callable[[], Any], within_s: float, why: str) -> Any:
    deadline = time.monotonic() + within_s
    while not (found := what()):
        assert time.monotonic() < deadline, why
        time.sleep(0.5)
    return found
