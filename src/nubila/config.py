"""Settings: one frozen struct, read once in main and passed down. Every path, port and OS name derives from `name`.

A file (TOML) and environment variables `NUBILA_*` override defaults.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    name: str = "nubila"  # of this installation: part of every OS name (users, directories, tables)
    listen: str = "127.0.0.1"
    user_port: int = 8440
    operator_port: int = 8441
    internal_port: int = 8442
    pool_size: int = 8  # database connections of one process
    long_poll_s: float = 25.0
    drivers: str = "real"  # 'fake': the agent runs the scriptable fakes
    agent_workers: int = 8  # libvirt calls in parallel
    log_level: str = "info"
    bus: bool = True  # False: no wake-ups between or inside processes, only the clock (fault tests)
    var: str = ""  # state; default /var/lib/NAME
    run: str = ""  # sockets and pid files; default /run/NAME

    @property
    def var_dir(self) -> Path:
        return Path(self.var or f"/var/lib/{self.name}")

    @property
    def run_dir(self) -> Path:
        return Path(self.run or f"/run/{self.name}")

    # --- the database and control plane
    @property
    def pg_data(self) -> Path:
        return self.var_dir / "postgresql"

    @property
    def pg_socket_dir(self) -> Path:
        return self.run_dir / "postgresql"

    @property
    def control_dir(self) -> Path:
        """Owned by the control plane's user, 0700: CA key, vault key."""
        return self.var_dir / "control"

    @property
    def image_dir(self) -> Path:
        return self.control_dir / "images"

    @property
    def ca_file(self) -> Path:
        """The CA certificate, world-readable, in a directory that the control plane's user may write."""
        return self.var_dir / "public" / "ca.pem"

    @property
    def first_operator_file(self) -> Path:
        return self.control_dir / "first-operator"

    # --- the node
    @property
    def node_dir(self) -> Path:
        """Owned by root: the agent's certificate, wishes, libvirt's directories, disks."""
        return self.var_dir / "node"

    @property
    def node_run_dir(self) -> Path:
        return self.run_dir / "node"

    @property
    def control_user(self) -> str:
        return self.name

    @property
    def pg_user(self) -> str:
        return f"{self.name}-pg"

    @property
    def internal_url(self) -> str:
        return f"https://{self.listen}:{self.internal_port}"

    @property
    def user_url(self) -> str:
        return f"https://{self.listen}:{self.user_port}"

    @property
    def operator_url(self) -> str:
        return f"https://{self.listen}:{self.operator_port}"


class BadSettings(ValueError):
    """A setting is unknown or has a wrong value."""


def load(file: Path | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Settings from a file, then NUBILA_* variables. Unknown keys are errors, so that a typo is noticed."""
    values: dict[str, object] = {}
    if file is not None and file.exists():
        values.update(tomllib.loads(file.read_text()))
    known = {f.name: f for f in msgspec.structs.fields(Settings)}
    for key, value in environ.items():
        if key.startswith("NUBILA_") and key[7:].lower() in known:
            values[key[7:].lower()] = value
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise BadSettings(f"unknown settings: {', '.join(unknown)}; known are: {', '.join(sorted(known))}")
    try:
        settings = msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as e:
        raise BadSettings(str(e)) from e
    if not re.fullmatch(r"[a-z][a-z0-9]{0,11}", settings.name):
        raise BadSettings("name: 1-12 lower-case letters and digits, starting with a letter")
    return settings
