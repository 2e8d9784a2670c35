"""The Python environment that the installed product runs from: var_dir/venv, made from the lock file and the clone.

Called by `make up`. It is apart from the clone's .venv so that the unprivileged users can read it wherever the clone
lies, and so that editing the clone changes nothing that runs. Invariant: what is installed has the content of which
`installed` tells the hash, or no hash stands there.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

from nubila.bootstrap.install import Install

SYSTEM_PYTHON = "/usr/bin/python3"
HASH_FILE = "nubila-content"
LOCK_FILE = "nubila-lock"


class RuntimeFailure(Exception):
    """The environment could not be made; the text is the tool's."""


def content(clone: Path) -> str:
    """A hash over all that is installed from the clone."""
    h = hashlib.sha256()
    source = clone / "src" / "nubila"
    files = [p for p in source.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    for file in sorted([*files, clone / "pyproject.toml", clone / "requirements.lock"]):
        h.update(str(file.relative_to(clone)).encode() + b"\0")
        h.update(hashlib.sha256(file.read_bytes()).digest())
    return h.hexdigest()


def installed(install: Install) -> str:
    """The content hash of what is installed; '' for nothing or a half."""
    return _read(install.venv / HASH_FILE)


def ensure(install: Install) -> str:
    """Bring the environment to the clone's content; says what was done, '' for nothing."""
    wanted = content(install.clone)
    if installed(install) == wanted:
        return ""
    (install.venv / HASH_FILE).unlink(missing_ok=True)
    lock = hashlib.sha256((install.clone / "requirements.lock").read_bytes()).hexdigest()
    fresh = _read(install.venv / LOCK_FILE) != lock
    if fresh:
        _packages(install)
        (install.venv / LOCK_FILE).write_text(lock)
    again = ("--no-deps", "--reinstall-package", "nubila", "--compile-bytecode")
    _uv(install, "pip", "install", *again, str(install.clone))
    (install.venv / HASH_FILE).write_text(wanted)
    return "made" if fresh else "code refreshed"


def _packages(install: Install) -> None:
    """All packages of the lock file but those of the development group."""
    if not install.python.exists():
        _uv(install, "venv", "--quiet", "--python", SYSTEM_PYTHON, str(install.venv))
    lock = install.build / "runtime.lock"
    _uv(
        install, "pip", "compile", "--quiet", str(install.clone / "pyproject.toml"), "--all-extras",
        "--generate-hashes", "--no-header", "--no-annotate", "--no-emit-index-url",
        "--constraint", str(install.clone / "requirements.lock"), "--output-file", str(lock),
    )  # fmt: skip
    _uv(install, "pip", "sync", "--quiet", "--require-hashes", str(lock))


def _uv(install: Install, *arguments: str) -> None:
    uv = _read(install.build / "uv") or "uv"
    environ = dict(os.environ) | {"VIRTUAL_ENV": str(install.venv)}
    if (cache := install.build / "uv-cache").is_dir():  # made by tools/setup where uv had none before
        environ.setdefault("UV_CACHE_DIR", str(cache))
    run = subprocess.run(
        (uv, *arguments), capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, env=environ
    )
    if run.returncode != 0:
        raise RuntimeFailure(f"uv {' '.join(arguments[:2])} failed: {run.stderr.strip()[-1200:]}")


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except FileNotFoundError:
        return ""
