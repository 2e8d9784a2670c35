"""Networks with their subnets: pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from uuid import UUID

import msgspec

from nubila import errors
from nubila.intent.asking import Asking, Outcome, builtins
from nubila.model import network
from nubila.model.draft import Draft, Drafted, Effect, Row
from nubila.model.fields import Labels, Name
from nubila.model.ids import text


class SubnetCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A range of addresses; the gateway is its first address unless named."""

    cidr: network.Cidr
    gateway: str | None = None
    dns: list[str] = []


class NetworkCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Create a network with one to eight subnets."""

    name: Name
    subnets: list[SubnetCreate]
    nat: bool = True
    mtu: int = 1500
    labels: Labels = {}


def create(body: NetworkCreate, asking: Asking, *, host_ranges: Iterable[str] = ()) -> Outcome:
    """`host_ranges`: where the nodes themselves have addresses or routes; a network there would take them over."""
    if not 1 <= len(body.subnets) <= 8:
        return errors.Invalid("A network needs one to eight subnets.", field="subnets")
    if not 576 <= body.mtu <= 9000:
        return errors.Invalid("mtu must be from 576 to 9000.", field="mtu")
    if any(":" in s.cidr for s in body.subnets) and body.mtu < 1280:
        return errors.Invalid("IPv6 needs an mtu of at least 1280.", field="mtu")
    checked = _check(body.subnets)
    if isinstance(checked, errors.NubilaError):
        return checked
    taken = _taken(checked, host_ranges)
    return _created(body, checked, asking) if taken is None else taken


def _created(body: NetworkCreate, checked: list[network.SubnetSpec], asking: Asking) -> Drafted:
    draft = asking.draft()
    row = draft.inserts(
        "network",
        id=asking.mint(),
        project_id=asking.project_id,
        name=body.name,
        labels=body.labels,
        generation=1,
        spec=builtins(network.NetworkSpec(nat=body.nat, mtu=body.mtu)),
        state="active",
        status={},
        observed_generation=1,
    )
    for spec in checked:
        _subnet(draft, asking, row, spec)
    assert asking.project_id is not None
    draft.takes_quota(asking.project_id, "networks", 1)
    effect = Effect(
        action="create",
        kind="network",
        id=text("network", row["id"]),
        name=body.name,
        details={
            "subnets": [{"cidr": s.cidr, "gateway": s.gateway} for s in checked],
            "nat": body.nat,
            "mtu": body.mtu,
        },
    )
    return Drafted(draft=draft, status=201, refers={"network": row["id"]}, effects=[effect])


def _check(subnets: list[SubnetCreate]) -> list[network.SubnetSpec] | errors.NubilaError:
    out: list[network.SubnetSpec] = []
    ranges: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
    for s in subnets:
        try:
            net = network.parse_cidr(s.cidr)
            gateway = ipaddress.ip_address(s.gateway) if s.gateway is not None else net.network_address + 1
            dns = tuple(str(ipaddress.ip_address(d)) for d in s.dns)
        except ValueError as e:
            return errors.Invalid(f"Subnet '{s.cidr}': {e}.", field="subnets")
        if (
            gateway not in net
            or gateway == net.network_address
            or (net.version == 4 and gateway == net.broadcast_address)
        ):
            return errors.Invalid(f"Gateway {gateway} is not a usable address of {net}.", field="subnets")
        if any(net.version == r.version and net.overlaps(r) for r in ranges):
            return errors.Invalid(f"Subnet {net} overlaps another one of this network.", field="subnets")
        ranges.append(net)
        out.append(network.SubnetSpec(cidr=str(net), gateway=str(gateway), dns=dns))
    if not any(r.version == 4 for r in ranges):
        return errors.Invalid("A network needs an IPv4 subnet: guests find their metadata over IPv4.", field="subnets")
    return out


def _taken(subnets: list[network.SubnetSpec], host_ranges: Iterable[str]) -> errors.Conflict | None:
    theirs = [ipaddress.ip_network(r) for r in host_ranges]
    for s in subnets:
        mine = ipaddress.ip_network(s.cidr)
        if any(mine.version == r.version and mine.overlaps(r) for r in theirs):
            return errors.Conflict(
                f"Subnet {mine} overlaps a range that the hosts use themselves.",
                field="subnets",
                fix="Choose another private range.",
            )
    return None


def _subnet(draft: Draft, asking: Asking, row: Row, spec: network.SubnetSpec) -> None:
    subnet_id = asking.mint()
    draft.inserts(
        "subnet",
        id=subnet_id,
        project_id=asking.project_id,
        name=spec.cidr,
        spec=builtins(spec),
        generation=1,
        state="active",
        status={},
        observed_generation=1,
        network_id=row["id"],
        cidr=spec.cidr,
        gateway=spec.gateway,
    )
    draft.inserts(
        "address", network_id=row["id"], address=spec.gateway, subnet_id=subnet_id, port_id=None, origin="gateway"
    )


def remove(row: Row, subnets: list[Row], addresses: list[Row], asking: Asking) -> Outcome:
    object_id = UUID(row["id"])
    draft = asking.draft()
    draft.removes("network", row, state="removed", removed_at=asking.now, generation=row["generation"] + 1)
    for s in subnets:
        draft.changes("subnet", s, state="removed", removed_at=asking.now, generation=s["generation"] + 1)
    for a in addresses:
        draft.deletes("address", network_id=a["network_id"], address=a["address"])
    draft.takes_quota(UUID(row["project_id"]), "networks", -1)
    effect = Effect(action="remove", kind="network", id=text("network", object_id), name=row["name"])
    return Drafted(draft=draft, status=200, refers={"network": object_id}, effects=[effect])
