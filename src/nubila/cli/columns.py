"""What a list shows of each noun: a literal table of columns. Units stand in the headers.

A column's value is 'a|b': the first of these names that the object has, at its top, in its spec or in its status; or
a function of the object.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nubila.cli import table

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    header: str
    value: str | Callable[[Json], object]
    wide: bool = False  # only with -o wide
    operator: bool = False  # only where operators look

    def of(self, found: Json) -> object:
        return table.pick(found, self.value) if isinstance(self.value, str) else self.value(found)


def state(found: Json) -> str:
    """The state; `unknown` with what was known last and how old that is."""
    now = str(found.get("state") or "-")
    age_s = table.pick(found, "last_report_age_s")
    unknown = now == "unknown" or found.get("unknown") is True or found.get("fresh") is False
    if not unknown:
        return now
    last = table.pick(found, "last_state") or (now if now != "unknown" else None)
    parts = [f"last {last}"] if last else []
    if isinstance(age_s, (int, float)):
        parts.append(f"{table.span(age_s)} ago")
    return f"unknown ({', '.join(parts)})" if parts else "unknown"


def addresses(found: Json) -> list[str]:
    listed = table.pick(found, "addresses|address") or []
    if isinstance(listed, str):
        return [listed]
    return [str(a.get("address") if isinstance(a, dict) else a) for a in listed]


def _for_what(found: Json) -> list[str]:
    return [f"{purpose}={address}" for purpose, address in (found.get("addresses") or {}).items()]


def _old(found: Json) -> str | None:
    return table.age(found.get("created_at"))


def _about(found: Json) -> str:
    kind = table.pick(found, "resource_kind") or ""
    return f"{kind} {table.pick(found, 'resource_name|resource_id') or ''}".strip()


def _progress(found: Json) -> str | None:
    part = table.pick(found, "progress")
    return f"{part:.0%}" if isinstance(part, (int, float)) else None


def _effects(found: Json) -> list[str]:
    return [f"{e.get('action')} {e.get('kind')} {e.get('name') or ''}".strip() for e in found.get("effects") or []]


def _left(found: Json) -> str | None:
    since_s = table.seconds_since(found.get("expires_at"))
    return None if since_s is None else table.span(1 - since_s)


def _thing(found: Json) -> str:
    """A VM by its name, anything else by the name that it has on its node."""
    return str(found.get("vm") or table.pick(found, "thing") or "")


def _kind_of_thing(found: Json) -> object:
    return (found.get("status") or {}).get("kind")


def _cidrs(found: Json) -> list[str]:
    return [str(s.get("cidr") if isinstance(s, dict) else s) for s in table.pick(found, "subnets") or []]


def _rules(found: Json) -> int:
    return len(table.pick(found, "rules") or [])


def _decided(found: Json) -> str:
    """How many nodes could have it, or what the nearest one was short of."""
    refusal = found.get("refusal")
    if not isinstance(refusal, dict):
        return f"{found.get('passed')} of {found.get('nodes')} nodes could have it"
    short = (refusal.get("nearest") or {}).get("short") or {}
    return "short of " + ", ".join(f"{k} {v}" for k, v in short.items()) if short else "there is no node"


def _hosts(found: Json) -> list[str]:
    """Why each of the nearest hosts could not have it."""
    hosts = (found.get("refusal") or {}).get("hosts") or []
    return [f"{h['node_name']}: {'; '.join(f'{k} {v}' for k, v in h['short'].items())}" for h in hosts]


def _load(class_: str) -> Callable[[Json], object]:
    """What is promised, of what can be; of a time when that is not known, what the machine has."""

    def load(found: Json) -> object:
        held = (found.get("inventory") or {}).get(class_) or {}
        if held.get("used") is None:
            return table.pick(found, class_)
        return f"{held['used']}/{held['total'] - held['reserved']}"

    return load


def _vms(found: Json) -> object:
    return (found.get("holds") or {}).get("vms")


def _size_mib(found: Json) -> object:
    size = table.pick(found, "size_bytes")
    return f"{size / (1 << 20):.1f}" if isinstance(size, (int, float)) and size else None


NAME, ID = Column("NAME", "name"), Column("ID", "id")
STATE, AGE = Column("STATE", state), Column("AGE", _old)
LABELS, PROJECT = Column("LABELS", "labels", wide=True), Column("PROJECT", "project|project_id", operator=True)

COLUMNS: dict[str, tuple[Column, ...]] = {
    "vm": (
        NAME,
        ID,
        STATE,
        Column("FLAVOR", "flavor"),
        Column("IMAGE", "image"),
        Column("ADDRESSES", addresses),
        Column("NODE", "node", operator=True),
        PROJECT,
        AGE,
        Column("METHOD", "virt_method", wide=True),
        Column("ZONE", "zone", wide=True),
        Column("CORES", "cores", wide=True),
        Column("MEMORY MiB", "memory_mib", wide=True),
        Column("LAST REPORT s", "last_report_age_s", wide=True),
        LABELS,
    ),
    "operation": (
        ID,
        Column("VERB", "verb"),
        Column("ABOUT", _about),
        STATE,
        Column("DOING", "doing"),
        Column("PROGRESS", _progress),
        Column("REASON", "reason"),
        AGE,
        PROJECT,
        Column("DEADLINE s", "deadline_s", wide=True),
        Column("ENDED", "ended_at", wide=True),
        Column("NODE", "node_id", wide=True, operator=True),
        Column("OVERDUE", "overdue", wide=True),
    ),
    "plan": (ID, Column("ACTION", "action"), Column("EFFECTS", _effects), Column("LEFT", _left), AGE),
    "keypair": (NAME, ID, Column("FINGERPRINT", "fingerprint"), AGE, Column("PUBLIC KEY", "public_key", wide=True)),
    "flavor": (
        NAME,
        Column("CORES", "cores"),
        Column("MEMORY MiB", "memory_mib"),
        Column("DISK GiB", "disk_gib"),
        ID,
        LABELS,
    ),
    "image": (
        NAME,
        ID,
        STATE,
        Column("OS", "os"),
        Column("LOGIN", "login"),
        Column("FORMAT", "format"),
        Column("SIZE MiB", _size_mib),
        Column("MIN DISK GiB", "min_disk_gib", wide=True),
        Column("MIN MEMORY MiB", "min_memory_mib", wide=True),
        Column("SHA256", "sha256", wide=True),
        AGE,
        LABELS,
    ),
    "network": (NAME, ID, Column("SUBNETS", _cidrs), Column("NAT", "nat"), Column("MTU", "mtu"), AGE, LABELS),
    "port": (
        ID,
        STATE,
        Column("VM", "vm|vm_name|vm_id"),
        Column("NETWORK", "network|network_name|network_id"),
        Column("MAC", "mac"),
        Column("ADDRESSES", addresses),
        Column("GROUPS", "groups"),
    ),
    "security_group": (NAME, ID, Column("RULES", _rules), Column("DESCRIPTION", "description", wide=True), AGE, LABELS),
    "volume": (
        NAME,
        ID,
        STATE,
        Column("SIZE GiB", "size_gib"),
        Column("VM", "vm|vm_name|vm_id|holder"),
        Column("POOL", "pool"),
        Column("FORMAT", "format"),
        Column("CACHE", "cache", wide=True),
        AGE,
        LABELS,
    ),
    "snapshot": (NAME, ID, STATE, Column("VOLUME", "volume|volume_id"), Column("SIZE GiB", "size_gib"), AGE, LABELS),
    "token": (
        ID,
        NAME,
        Column("ROLE", "role"),
        Column("FOR", "account|account_name|account_id"),
        Column("EXPIRES", "expires_at"),
        Column("PROJECT", "project|project_id"),
        AGE,
    ),
    "project": (NAME, ID, Column("SUSPENDED", "suspended"), Column("DESCRIPTION", "description"), AGE, LABELS),
    "member": (Column("USER", "user"), Column("ROLE", "role"), Column("ID", "user_id")),
    "join-token": (
        ID,
        STATE,
        Column("ROLES", "roles"),
        Column("ZONE", "zone"),
        Column("NODE", "node"),
        Column("EXPIRES", "expires_at"),
        AGE,
    ),
    "user": (NAME, ID, Column("EMAIL", "email"), Column("SUSPENDED", "suspended"), AGE),
    "operator": (NAME, ID, Column("EMAIL", "email"), Column("SUSPENDED", "suspended"), AGE),
    "drift": (
        ID,
        STATE,
        Column("CAUSE", "cause"),
        Column("KIND", _kind_of_thing),
        Column("THING", _thing),
        Column("FIELD", "field"),
        Column("WISHED", "wished"),
        Column("OBSERVED", "observed"),
        AGE,
        Column("NODE", "node"),
        Column("IGNORED UNTIL", "ignore_until", wide=True),
        Column("WHY", "ignore_reason", wide=True),
    ),
    "decision": (
        ID,
        Column("DECIDED", "decided_at"),
        Column("PROJECT", "project|project_id"),
        Column("NODE", "node"),
        Column("VM", "vm_id"),
        Column("WHY", _decided),
        Column("HOSTS", _hosts, wide=True),
    ),
    "parked": (
        ID,
        Column("KIND", "kind"),
        NAME,
        Column("SINCE", "since"),
        Column("NEXT ATTEMPT", "next_attempt_at"),
        Column("REASON", "reason"),
    ),
    "node": (
        NAME,
        ID,
        STATE,
        Column("ROLES", "roles"),
        Column("ZONE", "zone"),
        Column("RACK", "rack"),
        Column("VMS", _vms),
        Column("CORES", _load("cores")),
        Column("MEMORY MiB", _load("memory_mib")),
        Column("DISK GiB", _load("disk_gib")),
        Column("METHODS", "virt_methods"),
        Column("LAST REPORT s", "last_report_age_s|seen_age_s"),
        Column("ADDRESSES", _for_what, wide=True),
        Column("KERNEL", "kernel", wide=True),
        Column("AGENT", "agent_version", wide=True),
        Column("WHY", "maintenance_reason", wide=True),
        Column("WAITS FOR", "waits_for", wide=True),
    ),
}


def of(noun: str, *, wide: bool, operator: bool) -> list[Column]:
    return [c for c in COLUMNS[noun] if (wide or not c.wide) and (operator or not c.operator)]
