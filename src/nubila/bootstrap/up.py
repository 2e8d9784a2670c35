"""`make up`: from whatever is there to a running fabric with a VM, in steps that each look first, then act if needed.

Called after the preflight found nothing wrong. Invariant: a second run changes nothing, and an upgrade touches no VM:
it stops and starts the control plane and the agent only when the code changed.
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

from nubila.bootstrap import fabric, packages, postgres, processes, runtime, show, standing, supervisor, units, users
from nubila.bootstrap.down import stop_supervisor
from nubila.bootstrap.fabric import NotComing, tail
from nubila.bootstrap.install import Install, claim, ensure_directories, environment
from nubila.bootstrap.say import Progress
from nubila.client.transport import ConnectionFailed, Transport

START_WITHIN_S = 90.0
REPAIRED_WITHIN_S = 60.0


def up(name: str, clone: Path, port: int, subnet4: str, *, adopt: bool, drivers: str = "real") -> int:
    print(f"Nubila '{name}' on this machine:", flush=True)
    install, begun = claim(name, clone, port, subnet4, adopt=adopt, drivers=drivers)
    install.build.mkdir(exist_ok=True)
    settings, progress = install.settings, Progress()
    progress.changed += begun
    step = progress.step
    before = standing.look(settings) if standing.was_up(settings) else None
    step("Debian packages", lambda: packages.ensure(install.journal))
    step("system users", lambda: users.ensure(settings, install.journal))
    step("directories", lambda: told(ensure_directories(settings), first=begun))
    step("Python environment of the services", lambda: _runtime(install))
    step("database directory", lambda: postgres.initialise(settings, install.journal))
    if units.wanted():
        step("systemd unit", lambda: units.ensure(install))
    step("database, control plane, agent", lambda: _services(install))
    step("guest image", lambda: _guest_image(install))
    shown = fabric.establish(install, step, with_vm=settings.drivers == "real")
    if settings.drivers == "real" and before is not None:
        step("what was taken away", lambda: _repaired(install, before))
    show.remember(install, shown)
    print(show.text(install, shown))
    if progress.changed:
        print(f"Up after {progress.seconds():.0f} s.")
    else:
        print(f"Nothing was changed: all was up already ({progress.seconds():.1f} s).")
    return 0


def told(done: list[str], *, first: bool) -> str:
    """What was done to directories: of a first run only how many, since all were made."""
    return f"{len(done)} made" if done and first else ", ".join(done)


def _repaired(install: Install, before: standing.Standing) -> str:
    """Wait until all that running VMs need stands, and name what did not at first. What does not come back is told,
    and left to its VM's own reason."""
    settings, deadline = install.settings, time.monotonic() + REPAIRED_WITHIN_S
    need = standing.needed(settings, *fabric.wished(install))
    while (missing := need - (now := standing.look(settings))) and time.monotonic() < deadline:
        time.sleep(0.25)
    back = standing.repaired(before, now, need)
    parts = [f"repaired: {', '.join(back)}"] if back else []
    if missing:
        parts.append(f"not back after {REPAIRED_WITHIN_S:.0f} s: {', '.join(sorted(missing))}; see 'nubila vm list'")
    return "; ".join(parts)


def _runtime(install: Install) -> str:
    """New code is installed only while nothing runs the old."""
    if runtime.installed(install) == runtime.content(install.clone):
        return ""
    stopped = stop_supervisor(install.settings)
    did = runtime.ensure(install)
    return f"{did}, services stopped for it" if stopped else did


def _services(install: Install) -> str:
    settings = install.settings
    running = processes.marked(settings.run_dir / supervisor.MARK_FILE)
    if running is None:
        # What a killed one left would answer for the new, and then be ended by it.
        stop_supervisor(settings)
        (settings.run_dir / supervisor.STATUS_FILE).unlink(missing_ok=True)
        _start(install)
    _wait_ready(install)
    return "" if running else "started"


def _start(install: Install) -> None:
    """By systemd where it is PID 1, so that it is known there; else by hand, in the background."""
    settings = install.settings
    if units.wanted():
        units.start(settings)
        return
    with (install.log_dir / "supervisor.log").open("ab") as log:
        subprocess.Popen(
            (install.python, "-m", "nubila", "supervise"), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
            start_new_session=True, env=environment(settings, "supervisor"),
        )  # fmt: skip


def _wait_ready(install: Install) -> None:
    """Until each listener says that it reaches the database; a child that fails again and again ends the wait."""
    settings = install.settings
    deadline = time.monotonic() + START_WITHIN_S
    waiting = dict.fromkeys((settings.user_url, settings.operator_url, settings.internal_url), "")
    while waiting:
        waiting = {url: why for url in waiting if (why := _not_ready(install, url))}
        children = _children(install)
        failing = [n for n, c in children.items() if c["restarts"] >= 4 and n != "agent"]
        if failing or (waiting and time.monotonic() > deadline):
            who = failing[0] if failing else next((n for n, c in children.items() if not c["ready"]), "supervisor")
            log = install.log_dir / f"{who}.log"
            why = "; ".join(waiting.values()) or f"{who} ends again and again"
            raise NotComing(f"the services do not come up: {why}; {log} ends with:\n{tail(log)}")
        if waiting:
            time.sleep(0.2)


def _children(install: Install) -> dict[str, dict[str, int]]:
    try:
        found = json.loads((install.settings.run_dir / supervisor.STATUS_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return dict(found)


def _not_ready(install: Install, url: str) -> str:
    """Why not; '' when it is."""
    if not install.settings.ca_file.exists():
        return f"{url}: there is no CA yet"
    transport = Transport(url, ca=install.settings.ca_file, timeout_s=3.0)
    try:
        status = transport.request("GET", "/readyz").status
        return "" if status == 200 else f"{url}: /readyz answers {status}"
    except ConnectionFailed as e:
        return str(e)
    except OSError as e:
        return f"{url}: {e}"
    finally:
        transport.close()


def _guest_image(install: Install) -> str:
    run = subprocess.run(
        (install.clone / "guest" / "build.sh", install.build / "guest"),
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if run.returncode != 0:
        raise NotComing(f"the guest image could not be built: {run.stderr.strip()[-800:]}")
    return "" if "unchanged" in run.stdout else "built"
