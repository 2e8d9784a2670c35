"""`make lab`: a control plane and hosts on this one machine, each a machine of its own by namespaces, as real as it gets.

Each has an installation of its own, made by the steps of `make up` and `make join`; the agents enrol themselves by join
tokens and reach the others over the common segment only. Invariant: `lab down` leaves nothing; what exists is left as it is.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from nubila.bootstrap import fabric, guest, join, lab_world, services, show, up
from nubila.bootstrap.asked import DEFAULT_SUBNET4
from nubila.bootstrap.facts import routes
from nubila.bootstrap.install import Install, claim, open_install
from nubila.bootstrap.lab_world import LabFailure, Machine
from nubila.bootstrap.say import Progress

NETWORK = IPv4Network("10.79.0.0/24")
PORTS = {"user_port": 8440, "operator_port": 8441, "internal_port": 8442}
CONTROL = "cp"


@dataclass(frozen=True)
class Host:
    short: str
    number: int  # the last part of its address
    why: str


# In the order in which they are made; the control plane first.
HOSTS: tuple[Host, ...] = (
    Host(CONTROL, 1, "control plane: database and APIs, no agent"),
    Host("h1", 11, "hypervisor"),
    Host("h2", 12, "hypervisor"),
    Host("h3", 13, "hypervisor"),
)


def machines(lab: str, network: IPv4Network = NETWORK) -> dict[str, Machine]:
    return {h.short: Machine(lab, h.short, network.network_address + h.number) for h in HOSTS}


def lab_up(lab: str, clone: Path, network: IPv4Network) -> int:
    """Have all machines, each with its part of Nubila running; again at any time."""
    there, progress = machines(lab, network), Progress()
    overlapping = [f"{to} by {dev}" for to, dev in routes() if to.overlaps(network) and dev != f"{lab}0"]
    if overlapping:
        raise LabFailure(
            f"{network} is the lab's, and this machine has routes into it: {', '.join(overlapping)}. Choose another by "
            "'nubila lab up --network 10.80.0.0/24'."
        )
    print(f"A lab '{lab}' on this machine:", flush=True)
    progress.step("segment", lambda: lab_world.ensure_segment(lab, network))
    for m in there.values():
        progress.step(f"machine {m.name} at {m.address}", lambda m=m: lab_world.ensure(m, network.prefixlen))  # type: ignore[misc]
    control = _control(there[CONTROL], clone, progress)
    made = fabric.Fabric(control)
    try:
        for short, m in there.items():
            if short != CONTROL:
                _host(m, control, made, progress)
    finally:
        made.close()
    print(_text(control, there))
    print(progress.end("Up", "all was up already"))
    return 0


def lab_down(lab: str, clone: Path) -> int:
    """Remove all of it: each machine's installation, then the machine."""
    found = False
    for m in reversed(machines(lab).values()):
        install = open_install(m.name, clone, adopt=True, by_name=True)
        found |= install is not None or lab_world.exists(m.name)
        if install is not None:
            words = (sys.executable, "-m", "nubila", "destroy", "--name", m.name, "--accept", "adopt", str(clone))
            inside = m.inside if lab_world.exists(m.name) else ()
            if lab_world.exists(m.name):
                lab_world.freeze(m, frozen=False)
            subprocess.run((*inside, *words), check=True, stdin=subprocess.DEVNULL)
        lab_world.remove(m)
    found |= lab_world.exists(lab_world.segment(lab))
    lab_world.remove_segment(lab)
    print(f"The lab '{lab}' is gone." if found else f"There is no lab '{lab}': nothing to do.")
    return 0


def installed(machine: Machine, clone: Path) -> Install:
    """Its installation. LabFailure: there is none."""
    install = open_install(machine.name, clone)
    if install is None:
        raise LabFailure(f"There is no {machine.name}: 'make lab' makes it.")
    return _on(machine, install)


def _on(machine: Machine, install: Install) -> Install:
    return Install(install.settings, install.clone, install.owner, install.journal, machine.inside)


def _control(machine: Machine, clone: Path, progress: Progress) -> Install:
    given: dict[str, str | int | bool] = {"listen": str(machine.address), "node": False, **PORTS}
    install, begun = claim(machine.name, clone, DEFAULT_SUBNET4, given, adopt=True, machine=machine.short)
    install = _on(machine, install)
    step = _titled(progress, machine)
    services.prepare(install, step, begun=begun)
    step("services", lambda: services.ensure(install, lambda: up.lacking(install)))
    step("guest image", lambda: guest.image(install))
    shown = fabric.establish(install, step, with_vm=False)
    show.contexts(install, shown)
    return install


def _host(machine: Machine, control: Install, made: fabric.Fabric, progress: Progress) -> None:
    given: dict[str, str | int | bool] = {"control": control.settings.internal_url}
    install, begun = claim(machine.name, control.clone, "", given, adopt=True, machine=machine.short)
    _share_code(control, install)
    join.ensure(_on(machine, install), _titled(progress, machine), made.join_token, begun=begun)


def _share_code(control: Install, install: Install) -> None:
    """One environment for all: it is the same code on the same machine."""
    if not install.venv.exists():
        install.venv.unlink(missing_ok=True)
        install.venv.symlink_to(control.venv)


def _titled(progress: Progress, machine: Machine) -> services.Step:
    return lambda title, act: progress.step(f"{machine.short}: {title}", act)


def _text(control: Install, there: dict[str, Machine]) -> str:
    rows: list[tuple[Any, ...]] = [(h.short, there[h.short].address, h.why) for h in HOSTS]
    name = control.settings.name
    return "\n".join(
        [
            "",
            *(f"  {short:4} {address!s:12} {why}" for short, address, why in rows),
            "",
            f"./nubila node list --context {name}",
            f"./nubila vm create web --context {name} --flavor tiny --image {fabric.IMAGE} --key {fabric.KEYPAIR}",
            "./nubila lab run h1 ip addr",
            "./nubila lab --help",
        ]
    )
