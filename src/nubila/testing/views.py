"""The reads of a schedule: what each of the product's statements answers, over the tables in memory.

Keyed by the statement itself, so that the product's own stores run on top unchanged; one that nobody taught is an error. The
parts of vms' and volumes' views stand in `view_parts`. Held to PostgreSQL by a test that asks both.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

from nubila.store import drift, ledger, node, vm, volume, work
from nubila.testing import view_parts as parts
from nubila.testing.rows import Row
from nubila.testing.view_parts import Read, encoded, moment

FREE_MAX = 32


def create_vm(
    r: Read, project_id: UUID, flavor: str, flavor_id: Any, image: str, image_id: Any, names: list[str], ids: list[UUID],
    keys: list[str], key_ids: list[UUID], random: list[int], every: bool, name: str, crowding: bool,
) -> list[Row]:  # fmt: skip
    pid = str(project_id)
    mine = [n for n in r.living("network") if n["project_id"] == pid]
    networks = [n for n in mine if every or n["name"] in names or UUID(n["id"]) in ids]
    shown = [{**n, "subnets": [_subnet(r, s, random) for s in parts.subnets(r, n["id"])]} for n in networks]
    taken = [v for v in r.living("vm") if v["project_id"] == pid and v["name"] == name]
    named_keys = [
        k for k in r.living("keypair") if k["project_id"] == pid and (k["name"] in keys or UUID(k["id"]) in key_ids)
    ]
    groups = [
        {k: g[k] for k in ("id", "name", "generation")} for g in r.living("security_group") if g["project_id"] == pid
    ]
    return [
        {
            "now": r.now,
            "project": encoded(r.alive("project", pid)),
            "quota": encoded(parts.quota(r, pid)),
            "flavor": encoded(parts.by_name(r, "flavor", flavor, flavor_id)),
            "image": encoded(parts.image(r, pid, image, image_id)),
            "keys": encoded(named_keys or None),
            "networks": encoded(shown or None),
            "groups": encoded(groups or None),
            "taken": taken[0]["name"] if taken else None,
            "crowded": encoded(_crowded(r, networks) if crowding else None),
        }
    ]


def _subnet(r: Read, subnet: Row, random: list[int]) -> Row:
    """With some addresses that nobody has: those that the random numbers hit, else the first ones."""
    net = ipaddress.ip_network(subnet["cidr"])
    if net.version != 4:
        return {**subnet, "free": None}
    hosts = net.num_addresses - 2
    candidates = sorted({net.network_address + 1 + x % hosts for x in random}, key=int)
    free = [str(a) for a in candidates if r.tables["address"].get(subnet["network_id"], str(a)) is None]
    if not free:
        every = (str(net.network_address + o) for o in range(1, hosts + 1))
        free = [a for a in every if r.tables["address"].get(subnet["network_id"], a) is None][:FREE_MAX]
    return {**subnet, "free": free}


def _crowded(r: Read, networks: list[Row]) -> list[list[str]] | None:
    found: dict[tuple[str, str], None] = {}
    every = r.living("subnet")
    for n in networks:
        mine = [ipaddress.ip_network(s["cidr"]) for s in parts.subnets(r, n["id"])]
        for o in every:
            other = ipaddress.ip_network(o["cidr"])
            if o["network_id"] != n["id"] and any(m.version == other.version and m.overlaps(other) for m in mine):
                for p in r.tables["port"].of("network_id", o["network_id"]):
                    if p["removed_at"] is None:
                        found[n["id"], p["node_id"]] = None
    return [list(pair) for pair in found] or None


def vm_size(r: Read, project_id: UUID, node_id: UUID, name: str, flavor_id: Any) -> list[Row]:
    inventory = {
        i["class"]: [i["total"] - i["reserved"], i["used"]] for i in r.tables["inventory"].of("node_id", str(node_id))
    }
    return [
        {
            "quota": encoded(parts.quota(r, str(project_id))),
            "inventory": encoded(inventory or None),
            "flavor": encoded(parts.by_name(r, "flavor", name, flavor_id)),
        }
    ]


def one_vm(r: Read, project_id: UUID | None, vm_id: UUID) -> list[Row]:
    row = r.alive("vm", str(vm_id))
    return [parts.vm(r, row)] if row and project_id in (None, UUID(row["project_id"])) else []


def named_vm(r: Read, project_id: UUID, name: str) -> list[Row]:
    return [parts.vm(r, v) for v in r.living("vm") if v["project_id"] == str(project_id) and v["name"] == name]


def reported_vms(r: Read, ids: list[UUID], node_id: UUID) -> list[Row]:
    rows = [r.alive("vm", str(i)) for i in ids]
    return [parts.vm(r, v, snapshots=False) for v in rows if v and v["node_id"] == str(node_id)]


def one_volume(r: Read, project_id: UUID | None, volume_id: UUID) -> list[Row]:
    row = r.alive("volume", str(volume_id))
    return [parts.volume(r, row)] if row and project_id in (None, UUID(row["project_id"])) else []


def named_volume(r: Read, project_id: UUID, name: str) -> list[Row]:
    return [parts.volume(r, d) for d in r.living("volume") if d["project_id"] == str(project_id) and d["name"] == name]


def reported_volumes(r: Read, ids: list[UUID], node_id: UUID) -> list[Row]:
    rows = [r.alive("volume", str(i)) for i in ids]
    return [parts.volume(r, d) for d in rows if d and d["node_id"] == str(node_id)]


def create_volume(
    r: Read, project_id: UUID, name: str, image: str | None, image_id: Any, source: str | None, source_id: Any,
    vm_name: str | None, vm_id: Any,
) -> list[Row]:  # fmt: skip
    pid = str(project_id)

    def mine(kind: str, name: str | None, its_id: Any) -> Row | None:
        row = parts.by_name(r, kind, name, its_id, project_id=pid)
        return None if row is None else {**row, "node_name": r.name("node", row["node_id"])}

    copied = mine("volume", source, source_id)
    if copied is not None:
        copied["hypervisor"] = parts.hypervisor_of(r, copied["id"])
    taken = [d for d in r.living("volume") if d["project_id"] == pid and d["name"] == name]
    return [
        {
            "now": r.now,
            "project": encoded(r.alive("project", pid)),
            "quota": encoded(parts.quota(r, pid)),
            "taken": taken[0]["name"] if taken else None,
            "image": encoded(
                None if image is None and image_id is None else parts.image(r, pid, image or "", image_id)
            ),
            "source": encoded(copied),
            "vm": encoded(mine("vm", vm_name, vm_id)),
        }
    ]


# --- nodes


def fleet(r: Read) -> list[Row]:
    out = []
    for n in sorted(r.living("node"), key=lambda n: n["id"]):
        seen = r.tables["node_seen"].get(n["id"])
        inventory = {
            i["class"]: [i["total"] - i["reserved"], i["used"]] for i in r.tables["inventory"].of("node_id", n["id"])
        }
        silent_s = None if seen is None else (r.now - moment(seen["seen_at"])).total_seconds()
        shown = {"id": UUID(n["id"]), "name": n["name"], "state": n["state"], "silent_s": silent_s}
        out.append(
            {
                **shown,
                "spec": encoded(n["spec"]),
                "status": encoded(n["status"]),
                "inventory": encoded(inventory or None),
            }
        )
    return out


def seen(r: Read, nodes: list[UUID], sessions: list[int], revisions: list[int], ago: list[float]) -> list[Row]:
    for node_id, session, revision, ago_s in zip(nodes, sessions, revisions, ago, strict=True):
        row = r.tables["node_seen"].get(str(node_id))
        if row is not None and row["session"] == session:
            at = max(moment(row["seen_at"]), r.now - timedelta(seconds=ago_s)).isoformat()
            r.tables["node_seen"].put({**row, "seen_at": at, "revision": max(row["revision"], revision)})
    return []


def lost(r: Read, node_id: UUID) -> list[Row]:
    return [{"lost": n["state"] == "lost"} for n in r.tables["node"] if n["id"] == str(node_id)]


def new_session(r: Read, node_id: UUID) -> list[Row]:
    row = r.tables["node_seen"].get(str(node_id))
    session = 1 if row is None else abs(row["session"]) + 1
    r.tables["node_seen"].put(
        {"node_id": str(node_id), "session": session, "seen_at": r.now.isoformat(), "revision": 0}
    )
    return [{"session": session}]


def position(r: Read, node_id: UUID, since: int) -> list[Row]:
    revision, seen = r.tables["node_revision"].get(str(node_id)), r.tables["node_seen"].get(str(node_id))
    if revision is None:
        return []
    told = 0 if since <= 0 or since > revision["revision"] else since
    return [
        {
            "revision": revision["revision"],
            "session": None if seen is None else seen["session"],
            "fabric_epoch": 1,
            "since": told,
            "behind": told == 0 or revision["revision"] > told,
            "seal": None,
            "asked": False,
        }
    ]


def news(r: Read, node_id: UUID, since: int) -> list[Row]:
    found = position(r, node_id, since)
    for at in found:
        at |= {"vms": None, "volumes": None, "groups": None}
        if at["revision"] > at["since"]:
            told = [w for w in r.tables["wanted"].of("node_id", str(node_id)) if w["revision"] > at["since"]]
            at["vms"] = encoded(parts.wanted_vms(r, told, str(node_id)) or None)
            at["volumes"] = encoded(parts.wanted_volumes(r, told, str(node_id)) or None)
            at["groups"] = encoded(parts.wanted_groups(r, told, str(node_id)) or None)
    return found


def node_rows(r: Read, node_id: UUID) -> list[Row]:
    row = r.tables["node"].get(str(node_id))
    if row is None:
        return []
    methods, inventory = (r.tables[t].of("node_id", str(node_id)) for t in ("virt_method", "inventory"))
    return [
        {
            "now": r.now,
            "node": encoded(row),
            "methods": encoded(methods or None),
            "inventory": encoded(inventory or None),
        }
    ]


# --- background work


def _snapshot(kind: str, due: Callable[[Read, Row], bool]) -> Callable[..., list[Row]]:
    def found(r: Read, without: list[UUID]) -> list[Row]:
        rows = [x for x in r.tables[kind] if UUID(x["id"]) not in without and due(r, x)]
        return [{"row": encoded(x)} for x in sorted(rows, key=lambda x: x["id"])[: work.BATCH]]

    return found


def _guest_ended(r: Read, v: Row) -> bool:
    return v["removed_at"] is None and v["state"] == "stopped" and v["spec"]["power"] == "on"


def _overdue(r: Read, o: Row) -> bool:
    late = o["ended_at"] is None and moment(o["deadline_at"]) < r.now
    return late and not (o["status"] or {}).get("overdue")


def _ignored(r: Read, d: Row) -> bool:
    until = d["spec"].get("ignore_until")
    return d["removed_at"] is None and d["state"] == "ignored" and bool(until) and moment(until) <= r.now


def lead(r: Read, name: str, holder: str, ttl_s: float) -> list[Row]:
    row, until = r.tables["lease"].get(name), (r.now + timedelta(seconds=ttl_s)).isoformat()
    if row is None:
        r.tables["lease"].put({"name": name, "holder": holder, "fence": 1, "until": until})
        return [{"fence": 1}]
    if row["holder"] != holder and moment(row["until"]) >= r.now:
        return []
    fence = row["fence"] + (row["holder"] != holder)
    r.tables["lease"].put({**row, "holder": holder, "until": until, "fence": fence})
    return [{"fence": fence}]


def release(r: Read, name: str, holder: str) -> list[Row]:
    row = r.tables["lease"].get(name)
    if row is not None and row["holder"] == holder:
        r.tables["lease"].put({**row, "until": r.now.isoformat()})
    return []


def park(r: Read, kind: str, object_id: UUID, reason: str, rest_s: float) -> list[Row]:
    row = r.tables["parked"].get(kind, str(object_id))
    until = (r.now + timedelta(seconds=rest_s)).isoformat()
    since = r.now.isoformat() if row is None else row["since"]
    r.tables["parked"].put(
        {"kind": kind, "object_id": str(object_id), "reason": reason, "since": since, "until": until}
    )
    return []


def unpark(r: Read, kind: str, object_id: UUID) -> list[Row]:
    r.tables["parked"].drop((kind, str(object_id)))
    return []


def resting(r: Read) -> list[Row]:
    return [
        {"kind": p["kind"], "object_id": UUID(p["object_id"]), "rests": moment(p["until"]) > r.now}
        for p in r.tables["parked"]
    ]


# --- calls


def replay(r: Read, principal: str, key: str) -> list[Row]:
    row = r.tables["idempotency"].get(principal, key)
    if row is None or moment(row["created_at"]) <= r.now - timedelta(hours=ledger.KEPT_H):
        return []
    return [{**{k: row[k] for k in ("request_sha256", "status")}, "answer": encoded(row["answer"])}]


def open_drifts(r: Read, node_id: UUID) -> list[Row]:
    rows = [d for d in r.tables["drift"].of("node_id", str(node_id)) if d["removed_at"] is None]
    return [{"now": r.now, "drifts": encoded(sorted(rows, key=lambda d: d["id"]) or None)}]


def refusal(r: Read, decision_id: UUID, project_id: UUID, answer: str) -> list[Row]:
    return []  # kept for people


def now(r: Read) -> list[Row]:
    return [{"now": r.now}]


def nothing(r: Read, *args: Any) -> list[Row]:
    """What is past its time stays: a schedule is shorter than that."""
    return []


# statement -> its answer
VIEWS: dict[str, Callable[..., list[Row]]] = {
    vm.CREATE: create_vm,
    vm.SIZE: vm_size,
    vm.BY_ID: one_vm,
    vm.BY_NAME: named_vm,
    vm.REPORTED: reported_vms,
    volume.BY_ID: one_volume,
    volume.BY_NAME: named_volume,
    volume.REPORTED: reported_volumes,
    volume.CREATE: create_volume,
    node.FLEET: fleet,
    node.SEEN: seen,
    node.NEW_SESSION: new_session,
    node.LOST: lost,
    node.POSITION: position,
    node.NEWS: news,
    work.SNAPSHOT["vm"]: _snapshot("vm", _guest_ended),
    work.SNAPSHOT["operation"]: _snapshot("operation", _overdue),
    work.SNAPSHOT["drift"]: _snapshot("drift", _ignored),
    work.LEAD: lead,
    work.RELEASE: release,
    work.PARK: park,
    work.UNPARK: unpark,
    work.RESTING: resting,
    ledger.REPLAY: replay,
    ledger.REFUSAL: refusal,
    drift.OPEN: open_drifts,
    "select now()": now,
    **{sql: nothing for sql in ledger.FORGET},
}
