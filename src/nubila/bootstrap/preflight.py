"""Everything that stands against an installation here, listed before anything is changed.

`check` is pure: facts in, findings out. Run by `make up` with the system's Python (standard library only), as
`python3 -m nubila.bootstrap.preflight --name NAME --port PORT --subnet CIDR CLONE`. Exit status 1: something must be
put right first. It changes nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nubila.bootstrap.asked import Unusable, asked
from nubila.bootstrap.facts import Facts, bridges, gather

MEMORY_MIB = 1024  # control plane, agent, PostgreSQL and the first VM
DISK_MIB = 3072


@dataclass
class Findings:
    problems: list[str] = field(default_factory=list)  # stop here
    notes: list[str] = field(default_factory=list)  # worth knowing
    changes: list[str] = field(default_factory=list)  # of the host, that will be made


def check(facts: Facts, accepted: frozenset[str] = frozenset()) -> Findings:
    """All findings. `accepted` names problems that the person takes upon themselves: 'firewall', 'adopt'."""
    found = Findings()
    for name, judge in PROBLEMS.items():
        target = found.notes if name in accepted else found.problems
        target.extend(judge(facts))
    found.notes.extend(_notes(facts))
    found.changes.extend(_changes(facts))
    return found


def _root(f: Facts) -> Iterator[str]:
    if f.euid != 0:
        yield "You are not root. Nubila adds system users, a bridge and virtual machines: run 'sudo make up'."


def _machine(f: Facts) -> Iterator[str]:
    if f.machine != "x86_64":
        yield f"This machine is {f.machine}; the guest image and the emulator are for x86_64."


def _memory(f: Facts) -> Iterator[str]:
    if f.memory_mib < MEMORY_MIB and not f.running:
        yield f"{f.memory_mib} MiB of memory are available; {MEMORY_MIB} MiB are needed. Stop something, or add memory."


def _disk(f: Facts) -> Iterator[str]:
    need = DISK_MIB if not f.database_exists else DISK_MIB // 6
    if f.free_mib < need:
        yield f"{f.free_mib} MiB are free for {f.var_dir}; {need} MiB are needed. Free some, or mount a disk there."


def _ports(f: Facts) -> Iterator[str]:
    by_holder: dict[str, list[int]] = {}
    for x in f.listeners:
        if not x.ours and x.port not in by_holder.setdefault(x.holder, []):
            by_holder[x.holder].append(x.port)
    taken = "; ".join(f"{_and(map(str, ports))} by {holder}" for holder, ports in by_holder.items())
    others = f"choose others, which are free: 'make up PORT={f.other_port}'"
    if f.owner is not None:
        others = f"set user_port, operator_port and internal_port in {f.var_dir}/nubila.toml"
    if taken:
        yield f"Of the ports {f.port} to {f.port + 2} there are taken: {taken}. Stop what holds them, or {others}."


def _and(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def _settings(f: Facts) -> Iterator[str]:
    if f.settings_wrong:
        yield f"{f.var_dir}/nubila.toml cannot be used: {f.settings_wrong}. Put it right; 'make down' works as it is."


def _asked(f: Facts) -> Iterator[str]:
    """An installation keeps what it was made with; silence would look like consent."""
    if f.owner is None or f.owner.clone != f.clone:
        return
    beside = f"or install another beside it: {_beside(f)}"
    if f.asked_port not in (None, f.port):
        yield (
            f"'{f.name}' is installed with PORT={f.port}, and PORT={f.asked_port} does not change that. Leave it out; or "
            f"set user_port, operator_port and internal_port in {f.var_dir}/nubila.toml, then 'make down' and "
            f"'make up'; {beside}."
        )
    if f.asked_listen not in (None, f.listen):
        yield (
            f"'{f.name}' listens on {f.listen}, and LISTEN={f.asked_listen} does not change that. Leave it out; or set "
            f"listen in {f.var_dir}/nubila.toml, then 'make down' and 'make up'."
        )
    if f.asked_control not in (None, f.control):
        yield (
            f"'{f.name}' is {f'a node of {f.control}' if f.control else 'a control plane'}, and CONTROL={f.asked_control} "
            f"does not change that. Leave it out, or take another NAME."
        )
    if f.asked_subnet4 not in (None, f.owner.subnet4):
        yield (
            f"'{f.name}' has the first network {f.owner.subnet4}, and SUBNET={f.asked_subnet4} does not change that. Leave it "
            f"out; make a network of its own: './nubila network create NAME --subnet {f.asked_subnet4}'; {beside}."
        )


def _beside(f: Facts) -> str:
    return f"'make up NAME=other PORT={f.other_port} SUBNET={f.other_subnet4}'"


def _owner(f: Facts) -> Iterator[str]:
    if f.owner is None or f.owner.clone == f.clone or not f.owner_alive:
        return
    running = f"; it runs {', '.join(f.running)}" if f.running else "; nothing of it runs now"
    yield (
        f"{f.var_dir} belongs to the clone at {f.owner.clone} (since {f.owner.since}){running}. Work there, or release "
        f"it with 'make -C {f.owner.clone} destroy', or install another beside it: {_beside(f)}."
    )


def _adopt(f: Facts) -> Iterator[str]:
    if f.owner is not None and f.owner.clone != f.clone and not f.owner_alive:
        yield (
            f"{f.var_dir} belongs to the clone at {f.owner.clone}, which is gone. Take it over, with its VMs, by "
            "'make up ACCEPT=adopt', or remove it by 'make destroy ACCEPT=adopt'."
        )


def _lost_state(f: Facts) -> Iterator[str]:
    if f.control:
        return
    if f.database_made and not f.database_exists:
        yield (
            f"The data directory {f.var_dir}/postgresql of this installation is missing. It is never replaced: mount "
            "or restore it, or give the installation up with 'make destroy'."
        )
    elif f.installed_before and not f.state_exists:
        yield (
            f"There was an installation '{f.name}' here, but its state in {f.var_dir} is missing. It is never "
            "replaced: mount or restore it, or give the installation up with 'make destroy'."
        )


def _foreign_state(f: Facts) -> Iterator[str]:
    if f.state_exists and f.owner is None:
        yield (
            f"{f.var_dir} is there, is not empty and holds no installation that is known. Move it away, or choose "
            f"another name: {_beside(f)}."
        )


def _users(f: Facts) -> Iterator[str]:
    for name in f.users:
        yield f"The user '{name}' exists and is not Nubila's. Choose another name: 'make up NAME=other'."


def _routes(f: Facts) -> Iterator[str]:
    for route in f.routes:
        yield (
            f"The default network {f.subnet4} would overlap with this host's route {route}. Choose another: "
            f"'make up SUBNET={f.other_subnet4}'."
        )


def _firewall(f: Facts) -> Iterator[str]:
    for chain in f.dropping:
        yield (
            f"The firewall chain '{chain}' drops what it does not know, which may be the guests' DHCP or traffic. Let "
            f"their bridges pass (names '{bridges(f.name)}'), then say so: 'make up ACCEPT=firewall'."
        )


# name -> judge. Every problem is found in one run; those that may be accepted are accepted by name.
PROBLEMS: dict[str, Callable[[Facts], Iterator[str]]] = {
    "root": _root,
    "machine": _machine,
    "memory": _memory,
    "disk": _disk,
    "owner": _owner,
    "adopt": _adopt,
    "lost-state": _lost_state,
    "foreign-state": _foreign_state,
    "settings": _settings,
    "asked": _asked,
    "ports": _ports,
    "users": _users,
    "routes": _routes,
    "firewall": _firewall,
}


def _notes(f: Facts) -> Iterator[str]:
    if f.system != "debian 12":
        yield f"This is {f.system}; Nubila is tried on debian 12 only."
    if f.owner is not None and f.owner.clone == f.clone and not f.database_made and not f.control:
        yield "An installation was begun here and not finished: it is continued."
    if not f.kvm:
        yield "There is no /dev/kvm: VMs are emulated in software, which is slower."


def _changes(f: Facts) -> Iterator[str]:
    if f.packages:
        yield f"Debian packages to be installed, with what they need: {', '.join(f.packages)}"
    if f.users_to_add:
        yield f"System users to be added: {', '.join(f.users_to_add)}"
    for key, now, wanted in f.sysctls:
        yield f"Kernel setting of the whole host: {key} from {now} to {wanted}"
    if not f.bridge_filter:
        yield (
            "Kernel module of the whole host, for security groups: br_netfilter, with its switches for other bridges "
            "(net.bridge.bridge-nf-call-*) at 0; it stays loaded until the next boot"
        )
    if not f.state_exists:
        yield f"Directories to be made: {f.var_dir}, /run/{f.name}"


def show(found: Findings) -> str:
    """For people. Nothing to say: the empty string."""
    parts = []
    for title, lines in (
        ("Wrong here; nothing was changed:", found.problems),
        ("To know:", found.notes),
        ("This host will be changed so ('make destroy' takes it back):", found.changes if not found.problems else []),
    ):
        if lines:
            parts.append("\n".join([title, *(f"  - {line}" for line in lines)]))
    return "\n".join(parts)


def main(argv: list[str] | None = None) -> int:
    try:
        ask = asked("preflight", sys.argv[1:] if argv is None else argv)
    except Unusable as e:
        print(e, file=sys.stderr)
        return 1
    found = check(gather(ask, Path("/var/lib") / ask.name), ask.accepted)
    text = show(found)
    if text or sys.stdout.isatty():
        print(text or "Nothing stands against it here.", flush=True)
    return 1 if found.problems else 0


if __name__ == "__main__":
    sys.exit(main())
