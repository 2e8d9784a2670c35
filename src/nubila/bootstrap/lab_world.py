"""Machines made of namespaces on this one: a network and a host name of their own, and links to a common segment.

Called by the lab's words. Each machine is a network namespace, a UTS namespace that a file keeps, and a control group in
which all its processes are born, so that it can be frozen whole. Invariant: everything bears the lab's name.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from nubila.bootstrap.facts import program

RUNS = Path("/run")
NAMESPACES = RUNS / "netns"
SEGMENT = "ul0"  # the interface of each machine on the common segment
MTU = 1600  # room for an overlay of guests with the usual 1500
FROZEN_WITHIN_S = 10.0


class LabFailure(Exception):
    """Something of the lab could not be done; the text says what."""


@dataclass(frozen=True)
class Machine:
    """`name` is the installation's, the host's and the namespace's."""

    lab: str
    short: str
    address: IPv4Address

    @property
    def name(self) -> str:
        return f"{self.lab}{self.short}"

    @property
    def uts(self) -> Path:
        return RUNS / f"nubila-{self.lab}" / self.short

    @property
    def group(self) -> Path:
        return _groups() / f"nubila-{self.lab}" / self.short

    @property
    def inside(self) -> tuple[str, ...]:
        """The words before a command that let it run on this machine."""
        enter = ("nsenter", f"--net={NAMESPACES / self.name}", f"--uts={self.uts}", "--")
        return ("sh", "-c", 'echo $$ >"$0" && exec "$@"', str(self.group / "cgroup.procs"), *enter)


def segment(lab: str) -> str:
    """The namespace of the common segment: no machine's."""
    return f"{lab}net"


def ensure_segment(lab: str, network: IPv4Network) -> str:
    """Have the segment, and this machine's own link to it; says what was done."""
    name, own = segment(lab), f"{lab}0"
    if exists(name):
        return ""
    _ip("netns", "add", name)
    _ip("-n", name, "link", "set", "lo", "up")
    _ip("-n", name, "link", "add", "ul", "mtu", str(MTU), "type", "bridge", "stp_state", "0")
    _ip("-n", name, "link", "set", "ul", "up")
    _ip("link", "add", own, "mtu", str(MTU), "type", "veth", "peer", "name", "operator", "mtu", str(MTU), "netns", name)
    _ip("link", "set", own, "alias", f"nubila-{lab}:", "up")
    _ip("addr", "add", f"{network.broadcast_address - 1}/{network.prefixlen}", "dev", own)
    _ip("-n", name, "link", "set", "operator", "master", "ul", "up")
    return f"{name} made"


def ensure(machine: Machine, prefixlen: int) -> str:
    """Have the machine, without any process in it; says what was done."""
    machine.group.mkdir(parents=True, exist_ok=True)
    if exists(machine.name) and os.path.ismount(machine.uts):
        return ""
    machine.uts.parent.mkdir(exist_ok=True)
    machine.uts.touch()
    if not os.path.ismount(machine.uts):
        _run("unshare", f"--uts={machine.uts}", "hostname", machine.name)
    if not exists(machine.name):
        _ip("netns", "add", machine.name)
        _ip("-n", machine.name, "link", "set", "lo", "up")
        plug(machine, prefixlen)
    return f"{machine.name} made"


def plug(machine: Machine, prefixlen: int) -> None:
    """A link between the machine and the segment, with its address."""
    mtu = ("mtu", str(MTU))
    end = ("link", "add", machine.short, *mtu, "type", "veth", "peer", "name", SEGMENT, *mtu, "netns", machine.name)
    _ip("-n", segment(machine.lab), *end)
    _ip("-n", segment(machine.lab), "link", "set", machine.short, "master", "ul", "up")
    _ip("-n", machine.name, "addr", "add", f"{machine.address}/{prefixlen}", "dev", SEGMENT)
    _ip("-n", machine.name, "link", "set", SEGMENT, "up")


def remove(machine: Machine) -> None:
    """Its processes have ended. Not there is a success."""
    if exists(machine.name):
        _ip("netns", "delete", machine.name)
    if os.path.ismount(machine.uts):
        _run("umount", str(machine.uts))
    machine.uts.unlink(missing_ok=True)
    _remove_group(machine.group)


def remove_segment(lab: str) -> None:
    if exists(segment(lab)):
        _ip("netns", "delete", segment(lab))
    if f"{lab}0" in links():
        _ip("link", "delete", f"{lab}0")
    if (directory := RUNS / f"nubila-{lab}").is_dir():
        directory.rmdir()
    _remove_group(_groups() / f"nubila-{lab}")


def exists(namespace: str) -> bool:
    return os.path.ismount(NAMESPACES / namespace) or (NAMESPACES / namespace).exists()


def links() -> set[str]:
    """Of this machine itself."""
    return {str(r["ifname"]) for r in json.loads(_ip("-j", "link", "show"))}


def freeze(machine: Machine, frozen: bool) -> None:
    """Stop every process of the machine at once, or let all go on; returns when the kernel says so."""
    (machine.group / "cgroup.freeze").write_text("1" if frozen else "0")
    deadline, word = time.monotonic() + FROZEN_WITHIN_S, f"frozen {int(frozen)}"
    while word not in (machine.group / "cgroup.events").read_text().splitlines():
        if time.monotonic() > deadline:
            raise LabFailure(f"{machine.name}: its processes are not {'frozen' if frozen else 'thawed'} by now")
        time.sleep(0.002)


def processes(machine: Machine) -> list[int]:
    try:
        return [int(pid) for pid in (machine.group / "cgroup.procs").read_text().split()]
    except FileNotFoundError:
        return []


def _remove_group(group: Path) -> None:
    deadline = time.monotonic() + FROZEN_WITHIN_S
    while group.is_dir():
        try:
            group.rmdir()
        except OSError as e:
            if time.monotonic() > deadline:
                raise LabFailure(f"{group}: {e.strerror}; processes in it still run") from e
            time.sleep(0.05)


def _groups() -> Path:
    """Where control groups of version 2 are: it alone freezes without a controller."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(point)
    raise LabFailure("There is no cgroup2 file system: mount one ('mount -t cgroup2 none /sys/fs/cgroup/unified').")


def _ip(*words: str) -> str:
    return _run("ip", *words)


def _run(*argv: str) -> str:
    path = program(argv[0])
    if path is None:
        raise LabFailure(f"the program {argv[0]} is missing")
    run = subprocess.run(
        (path, *argv[1:]), capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=30
    )
    if run.returncode != 0:
        raise LabFailure(f"{' '.join(argv)} failed: {run.stderr.strip()[-300:]}")
    return run.stdout
