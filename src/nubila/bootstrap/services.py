"""What every machine of Nubila has before anything answers there: packages, users, directories, code, and its processes.

Called by `make up` and `make join`. Invariant: new code is installed only while nothing runs the old, so that no VM
notices an upgrade.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable

from nubila.bootstrap import packages, postgres, processes, runtime, supervisor, units, users
from nubila.bootstrap.down import stop_supervisor
from nubila.bootstrap.install import Install, ensure_directories, environment
from nubila.bootstrap.waiting import NotComing, tail

START_WITHIN_S = 90.0
FAILURES_MAX = 4  # so many ends of one process are no beginning

Step = Callable[[str, Callable[[], str]], str]


def prepare(install: Install, step: Step, *, begun: bool) -> None:
    """All that is on disk before a process starts."""
    settings = install.settings
    step("Debian packages", lambda: packages.ensure(install.journal, packages.needed(settings.parts)))
    if "control" in settings.parts:
        step("system users", lambda: users.ensure(settings, install.journal))
    step("directories", lambda: told(ensure_directories(settings), first=begun))
    step("Python environment of the services", lambda: _runtime(install))
    if "control" in settings.parts:
        step("database directory", lambda: postgres.initialise(settings, install.journal))
    if units.wanted() and not install.inside:
        step("systemd unit", lambda: units.ensure(install))


def told(done: list[str], *, first: bool) -> str:
    """What was done to directories: of a first run only how many, since all were made."""
    return f"{len(done)} made" if done and first else ", ".join(done)


def ensure(install: Install, lacking: Callable[[], dict[str, str]]) -> str:
    """Have the supervisor, and wait until nothing lacks: what does -> why. A process that fails again and again ends it."""
    settings = install.settings
    running = processes.marked(settings.run_dir / supervisor.MARK_FILE)
    if running is None:
        # What a killed one left would answer for the new, and then be ended by it.
        stop_supervisor(settings)
        (settings.run_dir / supervisor.STATUS_FILE).unlink(missing_ok=True)
        _start(install)
    _wait(install, lacking)
    return "" if running else "started"


def children(install: Install) -> dict[str, dict[str, int]]:
    """What the supervisor says of each process; nothing while it says nothing."""
    try:
        found = json.loads((install.settings.run_dir / supervisor.STATUS_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return dict(found)


def _wait(install: Install, lacking: Callable[[], dict[str, str]]) -> None:
    deadline = time.monotonic() + START_WITHIN_S
    while why := lacking():
        now = children(install)
        alone = "control" not in install.settings.parts  # else an agent may wait for what comes later
        failing = [n for n, c in now.items() if c["restarts"] >= FAILURES_MAX and (alone or n != "agent")]
        if failing or time.monotonic() > deadline:
            who = failing[0] if failing else next((n for n, c in now.items() if not c["ready"]), "supervisor")
            log = install.log_dir / f"{who}.log"
            raise NotComing(f"the services do not come up: {'; '.join(why.values())}; {log} ends with:\n{tail(log)}")
        time.sleep(0.2)


def _runtime(install: Install) -> str:
    if runtime.installed(install) == runtime.content(install.clone):
        return ""
    stopped = stop_supervisor(install.settings)
    did = runtime.ensure(install)
    return f"{did}, services stopped for it" if stopped else did


def _start(install: Install) -> None:
    """By systemd where it is PID 1, so that it is known there; else by hand, in the background."""
    settings = install.settings
    if units.wanted() and not install.inside:
        units.start(settings)
        return
    with (install.log_dir / "supervisor.log").open("ab") as log:
        subprocess.Popen(
            (*install.inside, install.python, "-m", "nubila", "supervise"), stdin=subprocess.DEVNULL, stdout=log,
            stderr=log, cwd="/", start_new_session=True, env=environment(settings, "supervisor"),
        )  # fmt: skip
