"""System users of an installation: NAME runs the control plane, NAME-pg the database. Nobody can log in as either.

Called by `make up` and `make destroy`. Invariant: a user is removed only if the journal or its comment field says that
it is this installation's.
"""

from __future__ import annotations

import grp
import pwd
import subprocess

from nubila.bootstrap.facts import user_comment
from nubila.bootstrap.journal import Entry, Journal
from nubila.config import Settings


def ensure(settings: Settings, journal: Journal) -> str:
    added = []
    for name in (settings.control_user, settings.pg_user):
        if _exists(name):
            continue
        journal.add(Entry("user", name))
        _run(
            "useradd", "--system", "--user-group", "--no-create-home", "--home-dir", str(settings.var_dir),
            "--shell", "/usr/sbin/nologin", "--comment", user_comment(settings.name), name,
        )  # fmt: skip
        added.append(name)
    return f"{' and '.join(added)} added" if added else ""


def remove(settings: Settings) -> list[str]:
    """Remove those that carry our comment; returns their names."""
    removed = []
    for name in (settings.control_user, settings.pg_user):
        if _exists(name) and pwd.getpwnam(name).pw_gecos == user_comment(settings.name):
            _run("userdel", name)
            if name in {g.gr_name for g in grp.getgrall()}:
                _run("groupdel", name)
            removed.append(name)
    return removed


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _run(*argv: str) -> None:
    run = subprocess.run(
        argv, capture_output=True, text=True, check=False, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    )
    if run.returncode != 0:
        raise RuntimeError(f"{argv[0]} failed: {run.stderr.strip()}")
