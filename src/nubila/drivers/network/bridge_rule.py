"""What nftables' JSON is made of: names of chains and interfaces, matches, rules. Pure, and nothing of Nubila's policy."""

from __future__ import annotations

import hashlib
import ipaddress
from typing import Any

Json = dict[str, Any]
Statements = list[Json]

ACCEPT: Json = {"accept": None}
DROP: Json = {"drop": None}


def prefix(table: str) -> str:
    """Three characters that begin all interface names of one installation on this machine."""
    return "n" + hashlib.sha256(table.encode()).hexdigest()[:2]


def tap_name(table: str, port_id: str) -> str:
    return f"{prefix(table)}t{port_id[-11:]}"


def bridge_name(table: str, network_id: str) -> str:
    return f"{prefix(table)}b{network_id[-11:]}"


def link_local(mac: str) -> str:
    """The link-local address that a guest with this MAC forms."""
    b = bytes.fromhex(mac.replace(":", ""))
    return str(ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + bytes([b[0] ^ 2]) + b[1:3] + b"\xff\xfe" + b[3:]))


def refill(family: str, table: str, rules: list[tuple[str, Statements]]) -> list[Json]:
    names = dict.fromkeys(name for name, _ in rules)
    flushes = [{"flush": {"chain": {"family": family, "table": table, "name": name}}} for name in names]
    return [*flushes, *(rule(family, table, name, statements) for name, statements in rules)]


def add_chain(family: str, table: str, name: str, **hook: Any) -> Json:
    return {"add": {"chain": {"family": family, "table": table, "name": name, **hook}}}


def rule(family: str, table: str, chain: str, expr: Statements) -> Json:
    return {"add": {"rule": {"family": family, "table": table, "chain": chain, "expr": expr}}}


def match(left: Json, op: str, right: Any) -> Json:
    return {"match": {"op": op, "left": left, "right": right}}


def field(protocol: str, name: str) -> Json:
    return {"payload": {"protocol": protocol, "field": name}}


def meta(key: str) -> Json:
    return {"meta": {"key": key}}


def one_or_set(values: list[str]) -> Any:
    return values[0] if len(values) == 1 else {"set": values}
