"""The installation's own PostgreSQL: the distribution's programs, own data directory, own user, a unix socket only.

Called by `make up` (initialise) and the supervisor (start, health, role and database). Invariants: an existing data
directory is never initialised again; no password exists, and only the control plane's user and the database's own get
in, by peer authentication.
"""

from __future__ import annotations

import pwd
import shutil
import subprocess
from pathlib import Path

from nubila.bootstrap.journal import Entry, Journal
from nubila.bootstrap.packages import postgresql_bin
from nubila.config import Settings

DATABASE = ROLE = "nubila"
SUPERUSER = "postgres"  # a role, not a user of this host

# setting -> value. fsync and synchronous_commit are the defaults, written down because promises rest on them.
CONFIG: dict[str, str] = {
    "listen_addresses": "",
    "unix_socket_permissions": "0770",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "max_wal_size": "512MB",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "max_prepared_transactions": "0",  # one that is forgotten would hold back readers of the change log
    "jit": "off",  # all queries are short
    # Statistics follow a table's growth within seconds: a plan made while it was nearly empty may go by any index.
    "autovacuum_naptime": "5s",
    "idle_in_transaction_session_timeout": "60s",
    "password_encryption": "scram-sha-256",
    "logging_collector": "off",  # the supervisor keeps and rotates what goes to standard error
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "log_min_duration_statement": "1s",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
ROLE_CONFIG: dict[str, str] = {"statement_timeout": "30s", "idle_in_transaction_session_timeout": "15s"}


class DatabaseFailure(Exception):
    """PostgreSQL's programs refused; the text is theirs."""


def initialise(settings: Settings, journal: Journal) -> str:
    """Have a data directory. One that was made before and is gone is the preflight's business, never replaced here."""
    made = Entry("database", str(settings.pg_data))
    if (settings.pg_data / "PG_VERSION").exists():
        journal.add(made)
        return ""
    if journal.of("database"):
        raise DatabaseFailure(f"{settings.pg_data} was there and is missing; it is not replaced")
    new = settings.var_dir / "postgresql.new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    shutil.chown(new, settings.pg_user, settings.pg_user)
    _as_database_user(
        settings, "initdb", "--pgdata", str(new), "--username", SUPERUSER, "--data-checksums", "--encoding", "UTF8",
        "--locale", "C.UTF-8", "--auth-local", "peer", "--auth-host", "reject",
    )  # fmt: skip
    new.rename(settings.pg_data)
    journal.add(made)  # after: from here on, missing means lost
    return "made"


def configure(settings: Settings) -> None:
    """Write the configuration files. They are ours alone; called before each start."""
    values = CONFIG | {"cluster_name": settings.name, "unix_socket_directories": str(settings.pg_socket_dir)}
    texts = {
        "postgresql.conf": "".join(f"{k} = '{v}'\n" for k, v in values.items()),
        "pg_hba.conf": f"local {DATABASE} {ROLE} peer map=control\nlocal all {SUPERUSER} peer map=database\n",
        "pg_ident.conf": f"control {settings.control_user} {ROLE}\ndatabase {settings.pg_user} {SUPERUSER}\n",
    }
    user = pwd.getpwnam(settings.pg_user)
    for name, text in texts.items():
        file = settings.pg_data / name
        if file.is_file() and file.read_text() == text:
            continue
        new = file.with_suffix(".new")
        new.write_text(text)
        new.chmod(0o600)
        shutil.chown(new, user.pw_uid, user.pw_gid)
        new.rename(file)


def command(settings: Settings) -> list[str]:
    """The server, in the foreground; to be run as its user. SIGINT is its fast shutdown."""
    return [str(_bin() / "postgres"), "-D", str(settings.pg_data)]


def ready(settings: Settings) -> bool:
    run = subprocess.run(
        (_bin() / "pg_isready", "-q", "-h", settings.pg_socket_dir, "-d", DATABASE, "-t", "2"), check=False
    )
    return run.returncode == 0


def ensure_database(settings: Settings) -> None:
    """Have the role and the database, as the migrations expect them. The server must be ready."""
    if DATABASE not in _psql(settings, "select datname from pg_database").split():
        _psql(settings, f"drop role if exists {ROLE}")
        _psql(settings, f"create role {ROLE} login")
        _psql(settings, f"create database {DATABASE} owner {ROLE} template template0")
    for name, value in ROLE_CONFIG.items():
        _psql(settings, f"alter role {ROLE} set {name} = '{value}'")


def _psql(settings: Settings, statement: str) -> str:
    return _as_database_user(
        settings, "psql", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1",
        "--host", str(settings.pg_socket_dir), "--username", SUPERUSER, "--command", statement, "postgres",
    )  # fmt: skip


def _as_database_user(settings: Settings, program: str, *arguments: str) -> str:
    user = pwd.getpwnam(settings.pg_user)
    run = subprocess.run(
        (str(_bin() / program), *arguments), capture_output=True, text=True, check=False, cwd="/",
        user=user.pw_uid, group=user.pw_gid, extra_groups=[], env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    if run.returncode != 0:
        raise DatabaseFailure(f"{program}: {run.stderr.strip()[-600:]}")
    return run.stdout


def _bin() -> Path:
    found = postgresql_bin()
    if found is None:
        raise DatabaseFailure("PostgreSQL 15 or newer is not installed")
    return found
