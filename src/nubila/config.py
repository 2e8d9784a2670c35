"""Settings: one frozen struct, read once in main and passed down. Every path, port and OS name derives from `name`.

A file (TOML) and environment variables `NUBILA_*` override defaults.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
# listening on all addresses -> the one at which this machine itself reaches it
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
_HOST = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*"
)


FIRST_UID = 1_100_000_000  # from here on no system account has a number
UIDS = 65536  # of one installation
INSTALLATIONS = 4096

Days = Annotated[int, msgspec.Meta(ge=0, le=36500)]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    name: str = "nubila"  # of this installation: part of every OS name (users, directories, tables)
    control: str = ""  # 'https://HOST:PORT': this machine is a node of that control plane; empty: it has its own
    node: bool = True  # False: a control plane alone, without an agent
    listen: str = "127.0.0.1"  # an address of this machine; 0.0.0.0 or :: for all of them
    names: tuple[str, ...] = ()  # names and addresses by which others reach it; the first is told to them
    user_port: Port = 8440
    operator_port: Port = 8441
    internal_port: Port = 8442
    pool_size: int = 16  # database connections of one process
    long_poll_s: float = 25.0
    drivers: str = "real"  # 'fake': the agent runs the scriptable fakes
    agent_workers: int = 8  # libvirt calls in parallel
    log_level: str = "info"
    image_store: str = "file"  # or 's3': images in a bucket
    image_reserve_mib: int = 1024  # of the file system, below which the image store 'file' takes nothing more
    image_fetch_allow: str = (
        ""  # prefixes, 'CIDR CIDR ...', from which images may be fetched although they are not public
    )
    s3_endpoint: str = ""
    s3_bucket: str = ""
    s3_prefix: str = ""
    s3_credentials_file: str = ""  # JSON: access_key_id, secret_access_key; readable by the control plane's user only
    change_days: Days = 0  # how long changes are kept before they are trimmed; 0: for ever
    bus: bool = True  # False: no wake-ups between or inside processes, only the clock (fault tests)
    var: str = ""  # state; default /var/lib/NAME
    run: str = ""  # sockets, and which processes run; default /run/NAME

    @property
    def var_dir(self) -> Path:
        return Path(self.var or f"/var/lib/{self.name}")

    @property
    def run_dir(self) -> Path:
        return Path(self.run or f"/run/{self.name}")

    @property
    def parts(self) -> frozenset[str]:
        """What of Nubila this machine has: 'control', 'node' or both."""
        return frozenset((() if self.control else ("control",)) + (("node",) if self.node or self.control else ()))

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

    # --- numbers of OS users without an account: the lowest are the VMs' (agent/directory.py), the last two are helpers'
    @property
    def first_uid(self) -> int:
        return first_uid(self.name)

    @property
    def helper_uid(self) -> int:
        """Whose programs are that read on a node what strangers made."""
        return self.first_uid + UIDS - 1

    @property
    def fetch_uid(self) -> int:
        """Who fetches images by address."""
        return self.first_uid + UIDS - 2

    @property
    def fetch_socket(self) -> Path:
        """Where the one who fetches is asked; only the control plane's group may enter the directory."""
        return self.run_dir / "fetch" / "socket"

    # --- where it is reached
    @property
    def listens_everywhere(self) -> bool:
        return self.listen in EVERYWHERE

    @property
    def internal_url(self) -> str:
        """As reached from this machine; so are the next two."""
        return self.control or self._url(self.internal_port)

    @property
    def user_url(self) -> str:
        return self._url(self.user_port)

    @property
    def operator_url(self) -> str:
        return self._url(self.operator_port)

    def elsewhere(self, port: int) -> str:
        """As others reach a port of it; while it listens on loopback, that is this machine alone."""
        return self._url(port, self.names[0]) if self.names else self._url(port)

    def _url(self, port: int, host: str = "") -> str:
        host = host or EVERYWHERE.get(self.listen, self.listen)
        return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def first_uid(installation: str) -> int:
    slot = 0 if installation == "nubila" else zlib.crc32(installation.encode()) % (INSTALLATIONS - 1) + 1
    return FIRST_UID + slot * UIDS


class BadSettings(ValueError):
    """A setting is unknown or has a wrong value."""


def load(file: Path | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Settings from a file, then NUBILA_* variables. Unknown keys are errors, so that a typo is noticed."""
    try:
        return _load(file, environ)
    except BadSettings as e:
        raise BadSettings(f"{file}: {e}" if file is not None and file.exists() else str(e)) from None


def _load(file: Path | None, environ: Mapping[str, str]) -> Settings:
    values: dict[str, object] = {}
    if file is not None and file.exists():
        try:
            values.update(tomllib.loads(file.read_text()))
        except ValueError as e:
            raise BadSettings(str(e)) from e
    known = {f.name: f for f in msgspec.structs.fields(Settings)}
    for key, value in environ.items():
        if key.startswith("NUBILA_") and key[7:].lower() in known:
            values[key[7:].lower()] = value.split(",") if key == "NUBILA_NAMES" and value else value
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise BadSettings(f"unknown settings: {', '.join(unknown)}; known are: {', '.join(sorted(known))}")
    try:
        settings = msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as e:
        raise BadSettings(str(e)) from e
    _check(settings)
    return settings


def _check(settings: Settings) -> None:
    _check_image_store(settings)
    if not re.fullmatch(r"[a-z][a-z0-9]{0,11}", settings.name):
        raise BadSettings("name: 1-12 lower-case letters and digits, starting with a letter")
    for key, host in (("listen", settings.listen), *(("names", n) for n in settings.names)):
        if not _is_host(host):
            raise BadSettings(f"{key}: '{host}' is neither an IP address nor a host name")
    if any(n in EVERYWHERE for n in settings.names):
        raise BadSettings("names: 0.0.0.0 and :: are no addresses that anybody can go to")
    if settings.control and (wrong := wrong_control(settings.control)):
        raise BadSettings(f"control: {wrong}")
    if len({settings.user_port, settings.operator_port, settings.internal_port}) < 3:
        raise BadSettings("user_port, operator_port and internal_port: three different ports are needed")


def wrong_control(url: str) -> str:
    """What is wrong with the address of a control plane, for people; '' when nothing is."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if port is None or not _is_host(host) or parts.scheme != "https" or url != f"https://{parts.netloc}":
        return f"'{url}' is not like https://10.0.0.1:8442: the address and port of a control plane's internal API"
    return ""


def _check_image_store(settings: Settings) -> None:
    if settings.image_store not in ("file", "s3"):
        raise BadSettings(f"image_store: '{settings.image_store}' is neither 'file' nor 's3'")
    needed = ("s3_endpoint", "s3_bucket", "s3_credentials_file")
    missing = [k for k in needed if settings.image_store == "s3" and not getattr(settings, k)]
    if missing:
        raise BadSettings(f"image_store: 's3' needs {' and '.join(missing)} too")
    if settings.s3_prefix and not settings.s3_prefix.endswith("/"):
        raise BadSettings("s3_prefix: it ends in '/'")


def _is_host(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return bool(_HOST.fullmatch(text)) and not text.replace(".", "").isdigit()
    return "%" not in text
