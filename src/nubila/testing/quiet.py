"""What must hold when faults and people have stopped: everything has come to what is wished or says why not (I10, I11), the
world is what the rows say and nothing else (I9), the books are right (I7), and what was acknowledged is there (I5).
"""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

from nubila.model import operation
from nubila.model.ids import text
from nubila.testing.fleet import Fleet
from nubila.testing.host import Host
from nubila.testing.rows import Row

Unsettled = tuple[str, str]  # invariant, what is left

# wished power and suspension -> state in which a vm has come to rest
REST: dict[tuple[str, bool], str] = {
    ("on", False): "running",
    ("on", True): "suspended",
    ("off", False): "stopped",
    ("off", True): "stopped",
}


def unsettled(fleet: Fleet) -> list[Unsettled]:
    """Everything that is not at rest yet, or not as it must be."""
    found = [*_rows(fleet), *_disks(fleet), *_operations(fleet), *_parked(fleet)]
    for host in fleet.hosts:
        found += [*_machine(fleet, host), *_agent(fleet, host)]
    return found


def _living(fleet: Fleet, kind: str) -> list[Row]:
    return [r for r in fleet.tables.rows[kind] if r["removed_at"] is None]


def _rows(fleet: Fleet) -> Iterator[Unsettled]:
    for v in _living(fleet, "vm"):
        wished = REST[v["spec"]["power"], v["spec"]["suspended"]]
        if v["spec"]["gone"] or v["state"] != wished:
            why = (v["status"] or {}).get("reason")
            yield "I10", f"vm {v['name']} is {v['state']} and wished {wished}: {why}"
        elif v["observed_generation"] != v["generation"]:
            yield "I10", f"vm {v['name']}: of generation {v['generation']} {v['observed_generation']} is reported"


def _disks(fleet: Fleet) -> Iterator[Unsettled]:
    for kind in ("volume", "snapshot"):
        for d in _living(fleet, kind):
            if d["state"] != "ready" or d["spec"]["gone"]:
                yield "I10", f"{kind} {d['name']} is {d['state']}: {(d['status'] or {}).get('reason')}"
    there = {d["id"] for d in _living(fleet, "volume")}
    for s in _living(fleet, "snapshot"):
        if s["volume_id"] not in there:
            yield "I9", f"snapshot {s['name']} is of a volume that is gone"
    for a in fleet.tables.rows["attachment"]:
        if a["state"] == "revoking":
            yield "I10", f"an attachment e{a['epoch']} of {text('volume', UUID(a['volume_id']))} is still being revoked"


def _operations(fleet: Fleet) -> Iterator[Unsettled]:
    for o in fleet.tables.rows["operation"]:
        if o["state"] not in operation.TERMINAL:
            yield "I10", f"operation '{o['name']}' is {o['state']}: {(o['status'] or {}).get('reason')}"


def _parked(fleet: Fleet) -> Iterator[Unsettled]:
    for p in fleet.tables.rows["parked"]:
        yield "I11", f"{p['kind']} {p['object_id']} is parked: {p['reason']}"


def _machine(fleet: Fleet, host: Host) -> Iterator[Unsettled]:
    """I9: world minus rows, and rows minus world."""
    node_id = str(host.node_id)
    vms = {text("vm", UUID(v["id"])): v for v in _living(fleet, "vm") if v["node_id"] == node_id}
    volumes = {text("volume", UUID(d["id"])): d for d in _living(fleet, "volume") if d["node_id"] == node_id}
    ports = {text("port", UUID(p["id"])): p for p in _living(fleet, "port") if p["node_id"] == node_id}
    worlds = host.worlds
    yield from _both(host, "domain", worlds.domains.domains, vms, wished={i for i, v in vms.items() if _runs(v)})
    yield from _both(host, "volume", worlds.disks.volumes, volumes, wished=set(volumes))
    running = {i for i, p in ports.items() if _runs(vms[text("vm", UUID(p["vm_id"]))])}
    yield from _both(host, "port", worlds.wires.ports, ports, wished=running)
    networks = {text("network", UUID(p["network_id"])) for p in ports.values()}
    groups = {text("security_group", UUID(g)) for p in ports.values() for g in p["group_ids"]}
    yield from _both(host, "network", worlds.wires.networks, networks, wished=set())
    yield from _both(host, "group", worlds.wires.groups, groups, wished=groups)
    yield from _domains(fleet, host, vms)
    for volume_id, d in volumes.items():
        there = worlds.disks.volumes.get(volume_id)
        if there is not None and there.size_gib != d["spec"]["size_gib"]:
            yield "I9", f"{host.name}: {volume_id} has {there.size_gib} GiB, not {d['spec']['size_gib']}"
        kept = [s for s in _living(fleet, "snapshot") if s["volume_id"] == d["id"]]
        if there is not None and {text("snapshot", UUID(s["id"])) for s in kept} != set(there.snapshots):
            yield "I9", f"{host.name}: {volume_id} keeps {len(there.snapshots)} snapshots, not {len(kept)}"


def _runs(v: Row) -> bool:
    return bool(v["spec"]["power"] == "on")


def _both(host: Host, kind: str, there: object, known: object, *, wished: set[str]) -> Iterator[Unsettled]:
    found, rows = set(there), set(known)  # type: ignore[call-overload]
    for name in sorted(found - rows):
        yield "I9", f"{host.name}: {kind} {name} is there, and nobody wishes it"
    for name in sorted(wished - found):
        yield "I9", f"{host.name}: {kind} {name} is wished, and is not there"


def _domains(fleet: Fleet, host: Host, vms: dict[str, Row]) -> Iterator[Unsettled]:
    for domain in host.worlds.domains.domains.all():
        v = vms.get(domain.vm_id)
        if v is None:
            continue
        if domain.running != _runs(v):
            yield "I10", f"{host.name}: {v['name']} {'runs' if domain.running else 'does not run'}"
        held = [a for a in fleet.tables.rows["attachment"].of("vm_id", v["id"]) if a["state"] == "active"]
        disks = {text("volume", UUID(a["volume_id"])): a["epoch"] for a in held}
        has = {i: d.epoch for i, d in domain.disks.items()}
        if domain.running and has != disks:
            yield "I9", f"{host.name}: {v['name']} has the disks {has}, not {disks}"


def _agent(fleet: Fleet, host: Host) -> Iterator[Unsettled]:
    if not host.up or host.agent is None or host.frozen:
        yield "I10", f"{host.name}: its agent does not run"
        return
    known = {text("vm", UUID(v["id"])) for v in _living(fleet, "vm") if v["node_id"] == str(host.node_id)}
    for vm_id in sorted(set(host.agent.wishes.entries) ^ known):
        yield "I9", f"{host.name}: its agent and the rows differ about {vm_id}"
    for d in _living(fleet, "drift"):
        if d["node_id"] == str(host.node_id):
            yield "I9", f"{host.name}: drift {d['name']} is open"
