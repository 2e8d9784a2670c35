"""One installation as the commands of `make` see it: its settings, its clone, its journal, its directories.

Made once by each command from NAME, PORT and SUBNET; from then on the files in the state directory decide. Invariant:
only the clone that holds an installation gets an `Install` of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from nubila.bootstrap import owner, processes
from nubila.bootstrap.journal import Entry, Journal
from nubila.bootstrap.owner import Owner
from nubila.config import BadSettings, Settings, load

STATES = Path("/var/lib")
SETTINGS_FILE = "nubila.toml"
# What children find. The administrator's directories are not in every root's PATH.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class NotOurs(Exception):
    """The installation belongs to another clone; the text says which and what to do."""


@dataclass(frozen=True)
class Install:
    settings: Settings
    clone: Path
    owner: Owner
    journal: Journal
    inside: tuple[str, ...] = ()  # words before a command that let it run on the installation's machine: the lab's

    @property
    def venv(self) -> Path:
        return self.settings.var_dir / "venv"

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python"

    @property
    def log_dir(self) -> Path:
        return self.settings.var_dir / "log"

    @property
    def build(self) -> Path:
        """In the clone: up.json, contexts and keys for the person."""
        return self.clone / "build"


def open_install(name: str, clone: Path, *, adopt: bool = False, by_name: bool = False) -> Install | None:
    """The installation that this clone holds; None: there is none. NotOurs: another clone holds it. `by_name`: to stop
    it, settings that cannot be used do no harm."""
    var_dir = STATES / name
    held = owner.read(var_dir)
    if held is None:
        return None
    if held.clone != str(clone) and not (adopt and not Path(held.clone).is_dir()):
        raise NotOurs(f"{var_dir} belongs to the clone at {held.clone} (since {held.since}); work there")
    return Install(_settings(name, var_dir / SETTINGS_FILE, by_name), clone, held, Journal(var_dir))


def _settings(name: str, file: Path, by_name: bool) -> Settings:
    try:
        return load(file, environ={"NUBILA_NAME": name})
    except BadSettings as e:
        if not by_name:
            raise
        print(f"{e}\nThe name '{name}' alone says what is to be stopped.", flush=True)
        return Settings(name=name)


def claim(
    name: str,
    clone: Path,
    subnet4: str,
    given: Mapping[str, str | int | bool],
    *,
    adopt: bool = False,
    machine: str = "",
) -> tuple[Install, bool]:
    """The installation, begun with these settings if there is none yet. True: this call changed who holds it."""
    existing = open_install(name, clone, adopt=adopt)
    if existing is not None:
        if existing.owner.clone == str(clone):
            return existing, False
        moved = replace(existing.owner, clone=str(clone), since=owner.now_utc())
        owner.write(existing.settings.var_dir, moved)
        return Install(existing.settings, clone, moved, existing.journal), True
    settings = msgspec.convert({"name": name, **given}, Settings)
    settings.var_dir.mkdir(mode=0o755, exist_ok=True)
    held = Owner(str(clone), name, owner.now_utc(), subnet4, _subnet6(name), machine)
    lines = [f"{k} = {json.dumps(v)}\n" for k, v in {"name": name, **given}.items()]
    (settings.var_dir / SETTINGS_FILE).write_text("".join(lines))
    owner.write(settings.var_dir, held)  # last: with it the installation is ours
    journal = Journal(settings.var_dir)
    journal.add(Entry("directory", str(settings.var_dir)))
    return Install(settings, clone, held, journal), True


def environment(settings: Settings, role: str) -> dict[str, str]:
    """What a child of the supervisor gets: the settings, and whose and what it is. Nothing of the caller's."""
    said = {
        k: ",".join(v) if isinstance(v, (list, tuple)) else str(v) for k, v in msgspec.to_builtins(settings).items()
    }
    values = {f"NUBILA_{k.upper()}": v for k, v in said.items() if v}
    return {
        "PATH": PATH,
        "LANG": "C.UTF-8",
        "HOME": str(settings.var_dir),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        **values,
        processes.NAME_VARIABLE: settings.name,
        processes.ROLE_VARIABLE: role,
    }


# directory below the state directory -> owner ('root', 'control' or 'database'), mode
STATE: dict[str, tuple[str, int]] = {
    "control": ("control", 0o700),
    "public": ("control", 0o755),
    "log": ("root", 0o755),
    "node": ("root", 0o711),
}
# the same below the run directory, which a reboot of the host empties
RUN: dict[str, tuple[str, int]] = {
    ".": ("root", 0o755),
    "postgresql": ("database", 0o2750),  # its group, the control plane's, may come in
    "fetch": ("fetch", 0o2750),  # likewise
    "node": ("root", 0o711),
}


# what others make below the state directory, and that has to stay as it was made
KEPT: dict[str, tuple[str, int]] = {
    ".": ("root", 0o755),
    "postgresql": ("database-alone", 0o700),
    "venv": ("root", 0o755),
    "node/identity": ("root", 0o700),
    "node/vms": ("root", 0o711),
    "node/network": ("root", 0o755),
    "node/libvirt": ("root", 0o755),
    "node/disks": ("root", 0o711),
    "node/disks/volumes": ("root", 0o711),
    "node/disks/images": ("root", 0o711),
    "node/disks/copies": ("root", 0o711),
    "node/disks/exports": ("root", 0o700),
    "node/disks/tmp": ("root", 0o711),
}


def ensure_directories(settings: Settings) -> list[str]:
    """Make what is missing, and set right who owns a directory and who may enter it. Says what was done, each once."""
    done = []
    for base, table, make in (
        (settings.var_dir, KEPT, False),
        (settings.var_dir, STATE, True),
        (settings.run_dir, RUN, True),
    ):
        for name, (who, mode) in table.items():
            path = base / name
            if who != "root" and "control" not in settings.parts:
                continue
            if make and not path.is_dir():
                path.mkdir()
                _set(path, _owner(settings, who), mode)
                done.append(f"{path} made")
            elif path.is_dir() and not path.is_symlink() and not _right(path, _owner(settings, who), mode):
                _set(path, _owner(settings, who), mode)
                done.append(f"{path} set right")
    return done


def _right(path: Path, owner: tuple[int, int], mode: int) -> bool:
    now = path.stat()
    return (now.st_uid, now.st_gid, stat.S_IMODE(now.st_mode)) == (*owner, mode)


def _set(path: Path, owner: tuple[int, int], mode: int) -> None:
    os.chown(path, *owner)
    path.chmod(mode)  # after the owner: a change of owner clears the bit that hands down the group


def _owner(settings: Settings, who: str) -> tuple[int, int]:
    if who == "root":
        return 0, 0
    control = pwd.getpwnam(settings.control_user)
    database = pwd.getpwnam(settings.pg_user)
    owners = {
        "control": (control.pw_uid, control.pw_gid),
        "database": (database.pw_uid, control.pw_gid),
        "fetch": (settings.fetch_uid, control.pw_gid),
        "database-alone": (database.pw_uid, database.pw_gid),
    }
    return owners[who]


def write_secret(path: Path, text: str) -> None:
    """Durably, root's alone, and never half."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "w") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    new.rename(path)


def give_to_clone_owner(path: Path, clone: Path) -> None:
    """Files for the person belong to whom the clone belongs, also when `make` ran under sudo."""
    holder = clone.stat()
    os.chown(path, holder.st_uid, holder.st_gid, follow_symlinks=False)


def _subnet6(name: str) -> str:
    """A unique local /64, always the same for one name."""
    d = hashlib.sha256(name.encode()).digest()
    return f"fd{d[0]:02x}:{d[1]:02x}{d[2]:02x}:{d[3]:02x}{d[4]:02x}::/64"
