"""What of an installation stands on this host, and what its running VMs need to stand: names for people, by looking.

Called by `make up` before and after its steps: what was not there at first and is there at last was repaired, by a step
or by the agent. Nothing is repaired here; looking changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from nubila.bootstrap import processes, world
from nubila.bootstrap.children import kinds
from nubila.bootstrap.processes import Process
from nubila.config import Settings
from nubila.drivers.hypervisor.held import taps_of
from nubila.drivers.network.bridge_rule import bridge_name, tap_name

Json = dict[str, Any]
Standing = frozenset[str]

FAMILIES = ("bridge", "inet")  # of the nft tables


def look(settings: Settings) -> Standing:
    """All of the installation that stands now."""
    running = world.running(settings)
    found = {
        f"process {k.name}" for k in kinds(settings) if not k.once and any(_is(p, k.name, settings) for p in running)
    }
    found |= {f"process {p.program}" for p in running if p.program in ("libvirtd", "virtlogd")}
    found |= {f"process dnsmasq of {net}" for p in running if (net := _network_of(p, settings))}
    held: set[str] = set()
    for p in running:
        if (vm_id := vm_of(p)) is not None:
            found.add(f"QEMU of {vm_id}")
            held |= taps_of(p.pid)
        elif (vm_id := container_of(p)) is not None:
            found.add(f"container of {vm_id}")
    rows = world.link_rows(settings)
    names = {r["ifindex"]: r["ifname"] for r in rows}
    for r in rows:
        if r.get("linkinfo", {}).get("info_kind") == "bridge":
            found |= {f"bridge {r['ifname']}"} if "UP" in r["flags"] else set()
        elif "UP" in r["flags"] and (r.get("master") in names.values()) and (r["ifname"] in held or _is_veth(r)):
            found.add(f"tap {r['ifname']}")
    return frozenset(found | {f"nft table {family} {name}" for family, name in world.tables(settings)})


def needed(settings: Settings, vms: Iterable[Json], ports: Iterable[Json]) -> Standing:
    """What has to stand for the VMs that are wished running, and what serves them."""
    wished = [v for v in vms if v["spec"].get("power") == "on" and not v["spec"].get("gone")]
    on = {v["id"] for v in wished}
    wires = [p for p in ports if p["vm_id"] in on]
    need = {f"process {k.name}" for k in kinds(settings) if not k.once} | {f"{_kind(v)} of {v['id']}" for v in wished}
    if on:
        need |= {"process libvirtd", "process virtlogd"}
    for p in wires:
        need |= {f"tap {tap_name(settings.name, p['id'])}", f"bridge {bridge_name(settings.name, p['network_id'])}"}
        need.add(f"process dnsmasq of {p['network_id']}")
    return frozenset(need | ({f"nft table {f} {settings.name}" for f in FAMILIES} if wires else set()))


def repaired(before: Standing, after: Standing, need: Standing) -> list[str]:
    """What was missing at first and stands now, of what has to stand."""
    return sorted((after - before) & need)


def vm_of(process: Process) -> str | None:
    """The vm that a QEMU runs: libvirt names it 'guest=ID.eEPOCH,...'."""
    if not process.program.startswith("qemu-system-"):
        return None
    words = process.argv
    name = words[words.index("-name") + 1] if "-name" in words[:-1] else ""
    guest = next((w.removeprefix("guest=") for w in name.split(",") if w.startswith("guest=")), "")
    return guest.rpartition(".e")[0] or None


def container_of(process: Process) -> str | None:
    """The vm of a container, by libvirt's process beside it."""
    words = process.argv
    if process.program != "libvirt_lxc" or "--name" not in words[:-1]:
        return None
    return words[words.index("--name") + 1].rpartition(".e")[0] or None


def _kind(vm: Json) -> str:
    return "container" if vm["spec"].get("virt_method") == "lxc" else "QEMU"


def _is_veth(row: Json) -> bool:
    """Half of a pair whose other half is in a container, and goes with it."""
    return bool(row.get("linkinfo", {}).get("info_kind") == "veth")


def _is(process: Process, child: str, settings: Settings) -> bool:
    if child == "database":
        return process.program == "postgres" and process.argv[1:3] == ("-D", str(settings.pg_data))
    return process.variable(processes.ROLE_VARIABLE) == child and process.runs()


def _network_of(process: Process, settings: Settings) -> str:
    """The network that a dnsmasq serves, by its configuration below the node's directory."""
    if process.program != "dnsmasq":
        return ""
    root = f"--conf-file={settings.node_dir / 'network'}/"
    word = next((w for w in process.argv if w.startswith(root)), "")
    return word.removeprefix(root).removesuffix(".conf")


def was_up(settings: Settings) -> bool:
    """The installation was up before, with tokens for its people: what is missing now was taken away."""
    try:
        return bool(json.loads((settings.var_dir / "credentials.json").read_text()).get("user_token"))
    except (OSError, ValueError):
        return False
