"""Parts of views: what belongs to a vm, a volume or a node's wish, read from the tables in memory. Called by `views`."""

from __future__ import annotations

import ipaddress
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from nubila.testing.rows import Row, Rows


class Read:
    """One statement's look at the tables."""

    def __init__(self, tables: dict[str, Rows], now: datetime):
        self.tables, self.now = tables, now

    def living(self, kind: str) -> list[Row]:
        return [r for r in self.tables[kind] if r["removed_at"] is None]

    def alive(self, kind: str, row_id: str) -> Row | None:
        row = self.tables[kind].get(row_id)
        return row if row is not None and row["removed_at"] is None else None

    def name(self, kind: str, row_id: str | None) -> str | None:
        row = self.tables[kind].get(row_id)
        return None if row is None else str(row["name"])


def encoded(value: Any) -> str | None:
    """As a jsonb column that is read as text."""
    return None if value is None else msgspec.json.encode(value).decode()


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def quota(r: Read, project_id: str) -> dict[str, list[int]] | None:
    return {q["class"]: [q["amount"], q["used"]] for q in r.tables["quota"].of("project_id", project_id)} or None


def by_name(r: Read, kind: str, name: str | None, row_id: UUID | None, *, project_id: str | None = None) -> Row | None:
    for row in r.living(kind):
        if (row["id"] == str(row_id) or row["name"] == name) and project_id in (None, row.get("project_id")):
            return row
    return None


def image(r: Read, project_id: str, name: str, image_id: UUID | None) -> Row | None:
    for row in sorted(r.living("image"), key=lambda i: i["project_id"] is None):
        offered = row["project_id"] == project_id or (row["project_id"] is None and row["spec"]["public"])
        if offered and (row["id"] == str(image_id) or row["name"] == name):
            return row
    return None


def subnets(r: Read, network_id: str) -> list[Row]:
    rows = [s for s in r.tables["subnet"].of("network_id", network_id) if s["removed_at"] is None]
    return sorted(rows, key=lambda s: _cidr(s["cidr"]))


def _cidr(text: str) -> tuple[int, int, int]:
    net = ipaddress.ip_network(text)
    return net.version, int(net.network_address), net.prefixlen


def _ip(text: str) -> tuple[int, int]:
    address = ipaddress.ip_address(text)
    return address.version, int(address)


def operations(r: Read, ids: list[str]) -> list[Row]:
    rows = [o for i in dict.fromkeys(ids) for o in r.tables["operation"].of("resource_id", i) if o["ended_at"] is None]
    return sorted(rows, key=lambda o: o["id"])


def vm(r: Read, v: Row, *, snapshots: bool = True) -> Row:
    """`snapshots`: those of its disks too, also while it stays."""
    ports = [p for p in r.tables["port"].of("vm_id", v["id"]) if p["removed_at"] is None]
    attachments = [a for a in r.tables["attachment"].of("vm_id", v["id"]) if a["state"] != "revoked"]
    port_ids, volume_ids = [p["id"] for p in ports], [a["volume_id"] for a in attachments]
    method = r.tables["virt_method"].get(v["node_id"], v["spec"]["virt_method"])
    kept = [
        s for i in dict.fromkeys(volume_ids) for s in r.tables["snapshot"].of("volume_id", i)
        if s["removed_at"] is None and (snapshots or v["spec"]["gone"])
    ]  # fmt: skip
    own = dict.fromkeys([v["id"], *volume_ids, *(s["id"] for s in kept)])
    held = [x for i in own for x in r.tables["allocation"].of("holder_id", i)]
    addresses = [a for i in port_ids for a in r.tables["address"].of("port_id", i)]
    return {
        "now": r.now,
        "vm": encoded(v),
        "operations": encoded(operations(r, [v["id"]]) or None),
        "ports": encoded(ports or None),
        "addresses": encoded(addresses or None),
        "port_operations": encoded(operations(r, port_ids) or None),
        "volumes": encoded([r.tables["volume"].get(i) for i in volume_ids] or None),
        "volume_operations": encoded(operations(r, volume_ids) or None),
        "attachments": encoded(attachments or None),
        "capabilities": encoded(None if method is None else method["capabilities"]),
        "snapshots": encoded(sorted(kept, key=lambda s: s["id"]) or None),
        "snapshot_operations": encoded(operations(r, [s["id"] for s in kept]) or None),
        "allocations": encoded(held or None),
    }


def volume(r: Read, d: Row) -> Row:
    every = r.tables["attachment"].of("volume_id", d["id"])
    standing = sorted((a for a in every if a["state"] != "revoked"), key=lambda a: a["epoch"])
    attachments = [{**a, "vm": r.tables["vm"].get(a["vm_id"])} for a in standing]
    snapshots = [s for s in r.tables["snapshot"].of("volume_id", d["id"])]
    there = sorted((s for s in snapshots if s["removed_at"] is None), key=lambda s: s["id"])
    copies = [
        {"id": c["id"], "name": c["name"]}
        for c in r.tables["volume"].of("source_id", d["id"])
        if c["project_id"] == d["project_id"] and c["removed_at"] is None and c["state"] in ("pending", "failed")
    ]
    own = [d["id"], *(s["id"] for s in snapshots)]
    held = [x for i in own for x in r.tables["allocation"].of("holder_id", i)]
    return {
        "now": r.now,
        "volume": encoded(d),
        "project": encoded(r.tables["project"].get(d["project_id"])),
        "node": encoded(r.tables["node"].get(d["node_id"])),
        "quota": encoded(quota(r, d["project_id"])),
        "operations": encoded(operations(r, own) or None),
        "attachments": encoded(attachments or None),
        "epoch": max((a["epoch"] for a in every), default=0),
        "snapshots": encoded(there or None),
        "copies": encoded(sorted(copies, key=lambda c: c["id"]) or None),
        "allocations": encoded(held or None),
    }


def hypervisor_of(r: Read, volume_id: str) -> Any:
    """What the hypervisor can that runs the vm which has the volume."""
    for a in r.tables["attachment"].of("volume_id", volume_id):
        v = r.tables["vm"].get(a["vm_id"])
        if a["state"] != "revoked" and v is not None and (v["status"] or {}).get("power") == "on":
            method = r.tables["virt_method"].get(v["node_id"], v["spec"]["virt_method"])
            return None if method is None else method["capabilities"]
    return None


# --- what a node is to have


def _made(d: Row) -> bool:
    status = d["status"] or {}
    return bool(status.get("made", status.get("ready", False)))


def wanted_vms(r: Read, told: list[Row], node_id: str) -> list[Row]:
    out = []
    for w in told:
        v = r.alive("vm", w["vm_id"])
        if v is None or v["node_id"] != node_id:
            continue
        row = {k: v[k] for k in ("id", "name", "epoch", "generation", "project_id", "spec", "user_data_secret")}
        out.append({**row, "disks": _disks(r, v), "nics": _nics(r, v), "flavor": r.name("flavor", v["flavor_id"])})
    return out


def _disks(r: Read, v: Row) -> list[Row]:
    held = [a for a in r.tables["attachment"].of("vm_id", v["id"]) if a["state"] in ("active", "revoking")]
    out = []
    for a in sorted(held, key=lambda a: a["index"]):
        d = r.tables["volume"].get(a["volume_id"])
        assert d is not None
        out.append(
            {
                "id": d["id"],
                "spec": d["spec"],
                "attachment": a["id"],
                "epoch": a["epoch"],
                "index": a["index"],
                "generation": d["generation"],
                "made": _made(d),
                "leaving": a["state"] == "revoking",
            }
        )
    return out


def _nics(r: Read, v: Row) -> list[Row]:
    ports = [p for p in r.tables["port"].of("vm_id", v["id"]) if p["removed_at"] is None]
    out = []
    for p in sorted(ports, key=lambda p: p["spec"]["index"]):
        network = r.tables["network"].get(p["network_id"])
        assert network is not None
        extra, leaving = list(p["spec"].get("extra") or ()), set(p["spec"].get("leaving") or ())
        addresses = [a["address"] for a in r.tables["address"].of("port_id", p["id"])]
        order = sorted(addresses, key=lambda a: (extra.index(a) + 1 if a in extra else 0, _ip(a)))
        out.append(
            {
                "id": p["id"],
                "epoch": p["epoch"],
                "mac": p["mac"],
                "spec": p["spec"],
                "network": network["id"],
                "network_name": network["name"],
                "network_spec": network["spec"],
                "groups": p["group_ids"],
                "addresses": [a for a in order if a not in leaving],
                "leaving": sorted((a for a in addresses if a in leaving), key=_ip),
                "subnets": [
                    {"id": s["id"], "cidr": s["cidr"], "gateway": s["gateway"], "dns": s["spec"].get("dns")}
                    for s in subnets(r, network["id"])
                ],
            }
        )
    return out


def wanted_volumes(r: Read, told: list[Row], node_id: str) -> list[Row]:
    out = []
    for w in told:
        d = r.alive("volume", w["vm_id"]) if w["kind"] == "volume" else None
        if d is None or d["node_id"] != node_id:
            continue
        newest = max(r.tables["attachment"].of("volume_id", d["id"]), key=lambda a: a["epoch"], default=None)
        snapshots = [s for s in r.tables["snapshot"].of("volume_id", d["id"]) if s["removed_at"] is None]
        source = r.tables["volume"].get(d["source_id"])
        shown = ("id", "epoch", "index", "vm_id", "state")
        out.append(
            {
                **{k: d[k] for k in ("id", "project_id", "generation", "spec")},
                "made": _made(d),
                "attachment": None if newest is None else {k: newest[k] for k in shown},
                "snapshots": [{"id": s["id"], "gone": s["spec"]["gone"]} for s in snapshots] or None,
                "source_format": None if source is None else source["spec"]["format"],
            }
        )
    return out


def wanted_groups(r: Read, told: list[Row], node_id: str) -> list[Row]:
    out = []
    ports = [p for p in r.tables["port"] if p["removed_at"] is None]
    for w in told:
        g = r.alive("security_group", w["vm_id"]) if w["kind"] == "security_group" else None
        if g is None or not any(g["id"] in p["group_ids"] and p["node_id"] == node_id for p in ports):
            continue
        members = {
            remote: sorted(
                (
                    a["address"]
                    for p in ports
                    if remote in p["group_ids"]
                    for a in r.tables["address"].of("port_id", p["id"])
                ),
                key=_ip,
            )
            for remote in g["remote_ids"]
        }
        out.append({"id": g["id"], "spec": g["spec"], "members": members})
    return out
