"""`make down`: the agent, the control plane and PostgreSQL end; libvirtd, QEMU and dnsmasq go on.

Invariant: no VM notices.
"""

from __future__ import annotations

import signal
from pathlib import Path

from nubila.bootstrap import children, processes, supervisor, units
from nubila.bootstrap.install import open_install
from nubila.bootstrap.processes import Process
from nubila.config import Settings

PATIENCE_S = 150.0  # more than all children's together


def down(name: str, clone: Path) -> int:
    install = open_install(name, clone, by_name=True)
    if install is None:
        print(f"There is no installation '{name}': nothing to do.")
        return 0
    units.disable(install.settings)
    if stop_supervisor(install.settings):
        print(f"Nubila '{name}' is down: VMs, their networks and DHCP go on. 'make up' takes them over again.")
    else:
        print(f"Nubila '{name}' is down already.")
    return 0


def stop_supervisor(settings: Settings) -> bool:
    """Stop it, and what a killed one left. False: nothing ran."""
    found = supervisors(settings)
    processes.stop(found, signal.SIGTERM, PATIENCE_S)
    left = children.leftovers(settings)
    for process in left:
        first = signal.SIGTERM if process.runs() else signal.SIGINT
        processes.stop([process], first, patience_s=30.0)
    return bool(found or left)


def supervisors(settings: Settings) -> list[Process]:
    marked = processes.marked(settings.run_dir / supervisor.MARK_FILE)
    return [
        p
        for p in processes.all_of()
        if (marked and p.pid == marked.pid)
        or (p.variable(processes.NAME_VARIABLE) == settings.name and p.runs("supervise"))
    ]
