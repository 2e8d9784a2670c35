"""What a machine has, as lists that can be compared: processes, links, nft tables, mounts, users, files, settings."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

from nubila.bootstrap import processes
from nubila.bootstrap.facts import SYSCTLS

# Where files are compared. Caches and logs of package managers, and what the kernel makes, are nobody's traces.
TREES = ("/etc", "/var", "/run", "/usr", "/opt", "/root", "/home", "/srv")
PASSED_OVER = (
    "/root/.cache", "/root/.local/share/uv", "/var/cache/apt", "/var/lib/apt", "/var/cache/ldconfig", "/var/tmp",
)  # fmt: skip
BACKUPS = (
    "/etc/passwd-",
    "/etc/shadow-",
    "/etc/group-",
    "/etc/gshadow-",
    "/etc/.pwd.lock",
    "/etc/subuid-",
    "/etc/subgid-",
)


def take(name: str, clones: Path) -> dict[str, list[str]]:
    """Everything, sorted. `clones` is where the test's clones lie, `name` the installation's."""
    return {
        "processes": _processes(name),
        "links": sorted(f"{x['ifname']} {x.get('ifalias', '')}" for x in _json("ip", "-j", "link")),
        "addresses": sorted(f"{x['ifname']} {a['local']}" for x in _json("ip", "-j", "addr") for a in x["addr_info"]),
        "nft": sorted(json.dumps(x, sort_keys=True) for x in _json("nft", "-j", "list", "ruleset")["nftables"]),
        "mounts": sorted(line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()),
        "users": [*_lines("/etc/passwd"), *_lines("/etc/group"), *_lines("/etc/shadow")],
        "settings": [Path("/proc/sys", *key.split(".")).read_text().strip() for key in SYSCTLS],
        "files": _files(clones),
    }


def differences(before: dict[str, list[str]], after: dict[str, list[str]]) -> dict[str, dict[str, list[str]]]:
    """What is gone and what is new, of each list."""
    found = {}
    for name in before:
        old, new = Counter(before[name]), Counter(after[name])
        if old != new:
            found[name] = {"gone": sorted((old - new).elements()), "new": sorted((new - old).elements())}
    return found


def _processes(name: str) -> list[str]:
    """All that have to do with the installation: other processes of a machine come and go by themselves."""
    found = [p for p in processes.all_of() if any(name in word for word in (*p.argv, *p.environ))]
    return sorted(f"{p.pid} {' '.join(p.argv)[:200]}" for p in found if p.pid != os.getpid())


def _files(clones: Path) -> list[str]:
    """Paths; in /etc with sizes. Nothing is opened, so nothing is disturbed."""
    found = []
    for tree in TREES:
        for directory, names, files in os.walk(tree):
            names[:] = [n for n in names if not _skipped(os.path.join(directory, n), clones)]
            for name in files + names:
                path = os.path.join(directory, name)
                if path in BACKUPS or path.endswith(".pyc"):
                    continue
                size = f" {os.lstat(path).st_size}" if tree == "/etc" and name in files else ""
                found.append(path + size)
    return sorted(found)


def _skipped(path: str, clones: Path) -> bool:
    return path.startswith(PASSED_OVER) or Path(path) == clones or os.path.basename(path) == "__pycache__"


def _lines(file: str) -> list[str]:
    return sorted(f"{file} {line}" for line in Path(file).read_text().splitlines())


def _json(*argv: str) -> Any:
    run = subprocess.run(argv, capture_output=True, text=True, check=True)
    return json.loads(run.stdout or "[]")
