"""What the preflight looks at: everything about this machine that decides whether an installation can be made here.

Gathered once, by reading only, and judged by `preflight.check`. Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import tomllib
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from nubila.bootstrap import owner, packages, processes
from nubila.bootstrap.asked import DEFAULT_PORT, DEFAULT_SUBNET4, Asked
from nubila.bootstrap.journal import Journal
from nubila.bootstrap.owner import Owner

# setting -> wanted value, for the whole host; the agent changes them, and remembers, when it gets its first network.
SYSCTLS: dict[str, str] = {
    "net.ipv4.ip_forward": "1",
    "net.ipv6.conf.all.forwarding": "1",
}
PORT_SETTINGS = ("user_port", "operator_port", "internal_port")
ADVERTISED = 0x00050000  # flags of a default route of IPv6 that a router advertised


@dataclass(frozen=True)
class Listener:
    port: int
    holder: str  # for people: program and pid
    ours: bool  # it belongs to this installation


@dataclass(frozen=True)
class Facts:
    name: str
    clone: str
    var_dir: str
    euid: int = 0
    system: str = "debian 12"
    machine: str = "x86_64"
    memory_mib: int = 4096
    free_mib: int = 20000  # where var_dir is, or will be
    listeners: tuple[Listener, ...] = ()  # on the ports that are wanted
    owner: Owner | None = None
    owner_alive: bool = True  # the owner's clone still is a directory
    running: tuple[str, ...] = ()  # processes of this installation, for people
    state_exists: bool = False  # var_dir is there and not empty
    database_made: bool = False  # by the journal
    database_exists: bool = False
    installed_before: bool = False  # traces outside var_dir: build/up.json, system users
    users: tuple[str, ...] = ()  # existing users of the names that are wanted, and not ours
    users_to_add: tuple[str, ...] = ()
    dropping: tuple[str, ...] = ()  # firewall chains of others that drop what they do not know
    routes: tuple[str, ...] = ()  # of others, that overlap with the default network
    subnet4: str = DEFAULT_SUBNET4
    port: int = DEFAULT_PORT  # the first of three: as installed, else as asked, else the default
    asked_port: int | None = None  # said for this call
    asked_subnet4: str | None = None
    asked_listen: str | None = None
    asked_control: str | None = None
    control: str = ""  # whose node this machine is: as installed, else as asked; empty: it has a control plane
    listen: str = "127.0.0.1"  # as installed
    settings_wrong: str = ""  # why nubila.toml cannot be read
    other_port: int = 9440  # three from here are free, and the network is nobody's: for proposals
    other_subnet4: str = "10.78.0.0/24"
    sysctls: tuple[tuple[str, str, str], ...] = ()  # name, value now, value wanted; only those that differ
    bridge_filter: bool = True  # the kernel module br_netfilter is loaded
    packages: tuple[str, ...] = ()  # to be installed
    kvm: bool = False


def gather(ask: Asked, var_dir: Path) -> Facts:
    name, clone = ask.name, ask.clone
    held = owner.read(var_dir)
    subnet4 = held.subnet4 if held else ask.subnet4 or DEFAULT_SUBNET4
    found, settings_wrong = _settings(var_dir)
    control = str(found.get("control", "")) if held else ask.control or ""
    ports, wrong_ports = _ports(found, ask.port or DEFAULT_PORT)
    if control:
        ports = ()
    listening, all_routes = _listening(), routes()
    journal = Journal(var_dir)
    mine = [p for p in processes.all_of() if p.variable(processes.NAME_VARIABLE) == name]
    wanted = () if control else (name, f"{name}-pg")
    there = {n: comment for n in wanted if (comment := _user_comment(n)) is not None}
    foreign = tuple(n for n, comment in there.items() if comment != user_comment(name))
    return Facts(
        name=name,
        clone=str(clone),
        var_dir=str(var_dir),
        euid=os.geteuid(),
        system=_system(),
        machine=platform.machine(),
        memory_mib=_memory_mib(),
        free_mib=_free_mib(var_dir),
        listeners=tuple(_listeners(listening, ports, {p.pid for p in mine})),
        owner=held,
        owner_alive=held is None or Path(held.clone).is_dir(),
        running=tuple(f"{p.program} (pid {p.pid})" for p in mine if p.runs() or p.program.startswith("postgres")),
        state_exists=var_dir.is_dir() and any(var_dir.iterdir()),
        database_made=bool(journal.of("database")),
        database_exists=(var_dir / "postgresql" / "PG_VERSION").exists(),
        installed_before=bool(set(there) - set(foreign)) or _remembered(clone, name),
        users=foreign,
        users_to_add=tuple(n for n in wanted if n not in there),
        dropping=tuple(_dropping(name)),
        routes=()
        if held or control
        else tuple(_overlapping(all_routes, subnet4)),  # else the network's own bridge has one
        subnet4=subnet4,
        port=ports[0] if ports else 0,
        asked_port=ask.port,
        asked_subnet4=ask.subnet4,
        asked_listen=ask.listen,
        asked_control=ask.control,
        control=control,
        listen=str(found.get("listen", "127.0.0.1")),
        settings_wrong=settings_wrong or wrong_ports,
        other_port=_other_port(set(listening)),
        other_subnet4=_other_subnet4(all_routes),
        sysctls=tuple((k, now, v) for k, v in _sysctls().items() if (now := _sysctl(k)) not in (v, "")),
        bridge_filter=bool(_sysctl("net.bridge.bridge-nf-call-iptables")),
        packages=tuple(packages.missing(packages.needed(frozenset({"node"} if control else {"control", "node"})))),
        kvm=os.path.exists("/dev/kvm"),
    )


def user_comment(name: str) -> str:
    """The comment field of our users in /etc/passwd: the proof that they are this installation's."""
    return f"Nubila installation {name}"


def bridges(name: str) -> str:
    """How the names of this installation's bridges begin, as a pattern for firewall rules."""
    return f"n{hashlib.sha256(name.encode()).hexdigest()[:2]}b*"


def program(name: str) -> str | None:
    """Its path; the administrator's directories count, whatever PATH says."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _user_comment(name: str) -> str | None:
    for line in Path("/etc/passwd").read_text(errors="replace").splitlines():
        fields = line.split(":")
        if fields[0] == name and len(fields) > 4:
            return fields[4]
    return None


def _remembered(clone: Path, name: str) -> bool:
    try:
        return bool(json.loads((clone / "build" / "up.json").read_text())["name"] == name)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _system() -> str:
    try:
        lines = Path("/etc/os-release").read_text().splitlines()
    except OSError:
        return "unknown"
    values = {k: v.strip('"') for k, _, v in (line.partition("=") for line in lines)}
    return f"{values.get('ID', 'unknown')} {values.get('VERSION_ID', '')}".strip()


def _memory_mib() -> int:
    found = re.search(r"^MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
    return int(found[1]) // 1024 if found else 0


def _free_mib(directory: Path) -> int:
    while not directory.exists():
        directory = directory.parent
    return shutil.disk_usage(directory).free >> 20


def _sysctls() -> dict[str, str]:
    """A router takes no advertisements itself, unless told so (2): an uplink that lives by them must be."""
    wanted = dict(SYSCTLS)
    if _sysctl("net.ipv6.conf.all.forwarding") != "1" and Path("/proc/net/ipv6_route").exists():
        for line in Path("/proc/net/ipv6_route").read_text().splitlines():
            fields = line.split()
            key = f"net.ipv6.conf.{fields[-1]}.accept_ra"
            if fields[1] == "00" and int(fields[-2], 16) & ADVERTISED and _sysctl(key) == "1":
                wanted[key] = "2"
    return wanted


def _sysctl(key: str) -> str:
    try:
        return Path("/proc/sys", *key.split(".")).read_text().strip()
    except OSError:
        return ""


def _settings(var_dir: Path) -> tuple[dict[str, Any], str]:
    """What is set there, and why it cannot be read."""
    try:
        return tomllib.loads((var_dir / "nubila.toml").read_text()), ""
    except FileNotFoundError:
        return {}, ""
    except (OSError, ValueError) as e:
        return {}, str(e)


def _ports(found: dict[str, Any], port: int) -> tuple[tuple[int, ...], str]:
    """The three ports: as set, else from `port` on; and what is wrong with them."""
    usual = dict(zip(PORT_SETTINGS, range(port, port + 3), strict=True))
    ports = {k: found.get(k, usual[k]) for k in PORT_SETTINGS}
    wrong = [f"{k} = {v!r}" for k, v in ports.items() if not isinstance(v, int)]
    return (tuple(usual.values()), f"no port: {', '.join(wrong)}") if wrong else (tuple(ports.values()), "")


def _listening() -> dict[int, list[str]]:
    """Port -> the sockets that listen on it."""
    found: dict[int, list[str]] = {}
    for file in ("tcp", "tcp6"):
        for line in Path("/proc/net", file).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                found.setdefault(int(fields[1].rpartition(":")[2], 16), []).append(f"socket:[{fields[9]}]")
    return found


def _listeners(listening: dict[int, list[str]], ports: tuple[int, ...], ours: set[int]) -> list[Listener]:
    found = []
    for port in sorted(set(ports) & set(listening)):
        for inode in listening[port]:
            pids = _holders(inode)
            who = ", ".join(f"{p.program} (pid {p.pid})" for pid in sorted(pids) if (p := processes.read(pid)))
            found.append(Listener(port, who or "an unknown process", bool(pids & ours)))
    return found


def _other_port(taken: set[int]) -> int:
    """The first of three free ones."""
    return next(p for p in range(9440, 65440, 100) if not taken & {p, p + 1, p + 2})


def _holders(inode: str) -> set[int]:
    pids = set()
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            if any(os.readlink(fd.path) == inode for fd in os.scandir(f"/proc/{entry}/fd")):
                pids.add(int(entry))
        except OSError:
            continue
    return pids


def _dropping(name: str) -> list[str]:
    """Chains of others that drop, by default, what is forwarded (guests' traffic) or comes in (their DHCP)."""
    nft = program("nft")
    if nft is None:
        return []
    run = subprocess.run((nft, "-j", "list", "chains"), capture_output=True, text=True, check=False, timeout=20)
    try:
        chains = [x["chain"] for x in json.loads(run.stdout)["nftables"] if "chain" in x]
    except (ValueError, KeyError):
        return []
    return [
        f"{c['family']} {c['table']} {c['name']}"
        for c in chains
        if c.get("hook") in ("forward", "input") and c.get("policy") == "drop" and c["table"] != name
    ]


def routes() -> list[tuple[IPv4Network, str]]:
    """Where this host sends what, by which interface; the default route is left out."""
    ip = program("ip")
    if ip is None:
        return []
    run = subprocess.run((ip, "-j", "-4", "route"), capture_output=True, text=True, check=False, timeout=20)
    found = json.loads(run.stdout or "[]")
    return [(IPv4Network(r["dst"]), r.get("dev", "?")) for r in found if r["dst"] not in ("default", "0.0.0.0/0")]


def _overlapping(routes: list[tuple[IPv4Network, str]], subnet4: str) -> list[str]:
    """Routes of this host into the default network."""
    wanted = IPv4Network(subnet4)
    return [f"{to} by {dev}" for to, dev in routes if to.overlaps(wanted)]


def _other_subnet4(routes: list[tuple[IPv4Network, str]]) -> str:
    """A network that no route of this host leads into."""
    candidates = (f"10.{n}.0.0/24" for n in (*range(78, 256), *range(78)))
    return next((c for c in candidates if not _overlapping(routes, c)), "172.31.99.0/24")
