"""The same for ports: added to and removed from a vm that runs or not, and their addresses."""

from __future__ import annotations

from typing import Any

from tests.crash.scenarios import Scenario, Subject, running, stopped
from tests.fleet.caller import Reply
from tests.fleet.installation import until

Row = dict[str, Any]


def ports(s: Subject) -> list[Row]:
    return [p for p in s.tenant.owner.list("/v1/ports?limit=1000") if p["vm_id"] == s.vm_id]


def newest(s: Subject) -> Row:
    return max(ports(s), key=lambda p: p["id"])


def add(s: Subject) -> Reply:
    return s.tenant.owner.post(f"/v1/vms/{s.name}/ports", {"network": "default"}, idempotency_key=f"{s.name}-port")


def remove(s: Subject) -> Reply:
    return s.tenant.owner.delete(f"/v1/ports/{s.notes['port']['id']}")


def with_two(s: Subject) -> None:
    running(s)
    _two(s)


def stopped_with_two(s: Subject) -> None:
    with_two(s)
    s.post("stop", {"mode": "hard"}).ok()
    s.reach("stopped")


def with_more_addresses(s: Subject) -> None:
    running(s)
    s.notes["port"] = newest(s)
    reply = s.tenant.owner.post(f"/v1/ports/{s.notes['port']['id']}/addresses", {})
    done(s, reply)
    had = set(s.notes["port"]["addresses"])
    s.notes["address"] = (set(reply.ok()["port"]["addresses"]) - had).pop()


def _two(s: Subject) -> None:
    reply = add(s)
    done(s, reply)
    s.notes["port"] = reply.ok()["port"]


def done(s: Subject, reply: Reply) -> None:
    path = f"/v1/operations/{reply.ok()['operation']['id']}"
    until(lambda: s.tenant.owner.get(path).ok()["state"] == "done", 20, 0.02, path)


def plugged(s: Subject) -> bool:
    """What runs, what is defined, the taps and the rows agree on two."""
    domain = s.host.domain(s.vm_id)
    rows = ports(s)
    macs = sorted(p["mac"] for p in rows)
    taps = s.host.world()["port"]
    same = domain.get("defined", {}).get("nics") == macs and (domain.get("live") or {}).get("nics") == macs
    return len(rows) == 2 and same and all(p["id"] in taps for p in rows) and s.boots() == s.notes["boots"]


def gone(s: Subject) -> bool:
    domain, port = s.host.domain(s.vm_id), s.notes["port"]
    there = port["mac"] in domain["defined"]["nics"] or (s.is_running() and port["mac"] in domain["live"]["nics"])
    return not there and port["id"] not in s.host.world()["port"] and len(ports(s)) == 1


def assign(s: Subject) -> Reply:
    s.notes["port"] = newest(s)
    return s.tenant.owner.post(
        f"/v1/ports/{s.notes['port']['id']}/addresses", {"family": 6}, idempotency_key=f"{s.name}-address"
    )


def unassign(s: Subject) -> Reply:
    return s.tenant.owner.delete(f"/v1/ports/{s.notes['port']['id']}/addresses/{s.notes['address']}")


def bound(s: Subject) -> bool:
    """The driver has exactly the addresses of the row."""
    row = newest(s)
    there: Row = s.host.world()["port"].get(row["id"], {})
    return sorted(there.get("addresses", ())) == sorted(row["addresses"])


SCENARIOS: tuple[Scenario, ...] = (
    Scenario(name="port-add", before=running, act=add, holds=plugged),
    Scenario(name="port-add-stopped", before=stopped, act=add, holds=lambda s: len(ports(s)) == 2),
    Scenario(name="port-remove", before=with_two, act=remove, holds=gone),
    Scenario(name="port-remove-stopped", before=stopped_with_two, act=remove, holds=gone),
    Scenario(
        name="address-assign", before=running, act=assign, holds=lambda s: bound(s) and len(newest(s)["addresses"]) == 3
    ),
    Scenario(
        name="address-unassign",
        before=with_more_addresses,
        act=unassign,
        holds=lambda s: bound(s) and s.notes["address"] not in newest(s)["addresses"],
    ),
)
