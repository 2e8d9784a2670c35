"""A security group: rules that let packets into and out of the ports that are in it. What no rule lets in stays out."""

from __future__ import annotations

import ipaddress
from enum import StrEnum
from typing import Annotated

import msgspec

from nubila.model.fields import Reference

SCHEMA = 1
DEFAULT = "default"  # the group that every project has, and that ports are in unless others are named
RULES_MAX = 200
GROUPS_PER_PORT_MAX = 8
GROUPS_PER_PROJECT_MAX = 100

PortNumber = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class Direction(StrEnum):
    IN = "in"
    OUT = "out"


class Protocol(StrEnum):
    ANY = "any"
    TCP = "tcp"
    UDP = "udp"
    ICMP = "icmp"  # of IPv6 too


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Connections that may be opened: to or from anywhere, a range of addresses (`cidr`) or the ports of a `group`."""

    direction: Direction
    protocol: Protocol = Protocol.ANY
    port_min: PortNumber | None = None
    port_max: PortNumber | None = None
    cidr: Annotated[str, msgspec.Meta(max_length=49)] | None = None
    group: Reference | None = None
    family: Annotated[int, msgspec.Meta(description="4 or 6; both if not given")] | None = None


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    description: str = ""
    rules: tuple[Rule, ...] = ()


# In words a person can read and change: who may reach a new VM. Everything else from outside stays out.
DEFAULT_RULES: tuple[Rule, ...] = (
    Rule(direction=Direction.IN, protocol=Protocol.TCP, port_min=22, port_max=22),
    Rule(direction=Direction.IN, protocol=Protocol.ICMP),
    Rule(direction=Direction.OUT),
)


def checked(rule: Rule) -> Rule:
    """The rule in one form. Raises ValueError, in words for the user, for what no packet could meet."""
    first, last = rule.port_min, rule.port_max
    if rule.protocol not in (Protocol.TCP, Protocol.UDP):
        if first is not None or last is not None:
            raise ValueError(f"ports are of tcp and udp; this rule's protocol is {rule.protocol.value}")
    elif first is None and last is not None:
        raise ValueError("port_max needs a port_min")
    last = first if last is None else last
    if first is not None and last is not None and first > last:
        raise ValueError(f"port_min {first} is larger than port_max {last}")
    if rule.family not in (None, 4, 6):
        raise ValueError(f"family is 4 or 6, not {rule.family}")
    if rule.cidr is not None and rule.group is not None:
        raise ValueError("a rule names a cidr or a group, not both")
    cidr, family = rule.cidr, rule.family
    if cidr is not None:
        net = _network(cidr)
        if family not in (None, net.version):
            raise ValueError(f"{cidr} is IPv{net.version}, and the rule's family is {family}")
        cidr, family = str(net), net.version
    return msgspec.structs.replace(rule, port_min=first, port_max=last, cidr=cidr, family=family)


def _network(cidr: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(cidr, strict=True)
    except ValueError as e:
        try:
            meant = ipaddress.ip_network(cidr, strict=False)
        except ValueError:
            raise ValueError(f"{cidr[:60]!r} is not a range of addresses like 10.0.0.0/8 or fd00::/8") from e
        raise ValueError(f"{cidr} has bits beyond its prefix; did you mean {meant}?") from e


def words(rule: Rule) -> str:
    """A rule as one line, in the form that the command line takes."""
    ports = ""
    if rule.port_min is not None:
        ports = f":{rule.port_min}" + (f"-{rule.port_max}" if rule.port_max != rule.port_min else "")
    whom = rule.cidr or rule.group or {None: "any", 4: "any4", 6: "any6"}[rule.family]
    return f"{rule.direction.value} {rule.protocol.value}{ports} {'from' if rule.direction == 'in' else 'to'} {whom}"
