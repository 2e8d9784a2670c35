"""Which networks and addresses a port gets, and what is written for a new one. Pure; for the ports of a new vm and those
added later."""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Sequence
from uuid import UUID

from nubila import errors
from nubila.intent.asking import Asking, builtins
from nubila.model import network
from nubila.model.draft import Draft, Effect, Row
from nubila.model.ids import text
from nubila.placement.nodes import Nodes


def joined(references: Sequence[str] | None, known: list[Row]) -> list[Row] | errors.Invalid:
    """The networks of the project that a new vm joins: those named, or 'default', or the only one."""
    if references is None:
        found = [n for n in known if n["name"] == "default"] or known
        if len(found) != 1:
            return errors.Invalid(
                "The project has no network named 'default' and not exactly one network: say which to use.",
                field="networks",
                fix="Name the networks in 'networks', or create one named 'default'.",
            )
        return found
    by_ref = {r: n for n in known for r in (n["name"], text("network", UUID(n["id"])))}
    missing = [r for r in references if r not in by_ref]
    if missing or not references:
        return errors.Invalid(
            f"There is no network '{missing[0]}'." if missing else "A VM needs at least one network.",
            field="networks",
            fix="See 'nubila network list'.",
        )
    found = [by_ref[r] for r in references]
    if len({n["id"] for n in found}) < len(found):
        return errors.Invalid("A network is named twice.", field="networks")
    if len(found) > network.PORTS_MAX:
        return errors.Invalid(f"A VM has at most {network.PORTS_MAX} ports.", field="networks")
    return found


def ports(
    draft: Draft, asking: Asking, made: Row, networks: list[Row], groups: list[Row], entropy: list[int]
) -> list[Effect] | errors.NubilaError:
    """A port of a new vm on each of these networks."""
    effects = []
    join(draft, UUID(str(made["node_id"])), groups)
    for index, net in enumerate(networks):
        spec = network.PortSpec(mac=network.mac(entropy[index]), index=index)
        placed = place(draft, asking, made, net, groups, spec, entropy[index])
        if isinstance(placed, errors.NubilaError):
            return placed
        effects.append(placed)
    return effects


def place(
    draft: Draft, asking: Asking, machine: Row, net: Row, groups: list[Row], spec: network.PortSpec, random: int
) -> Effect | errors.NubilaError:
    """One port with an address of each of its network's subnets; its row is the draft's newest."""
    port_id, addresses = asking.mint(), []
    for subnet in net["subnets"]:
        address = _first(subnet, spec.mac, random)
        if address is None:
            return full(net["name"], subnet)
        addresses.append(address)
        hold(draft, net["id"], subnet["id"], port_id, address)
    name = f"{machine['name']}-{spec.index}-{text('port', port_id)[-6:]}"
    draft.inserts(
        "port",
        id=port_id,
        project_id=machine["project_id"],
        name=name,
        spec=builtins(spec),
        generation=1,
        state=network.PortState.PENDING.value,
        network_id=net["id"],
        vm_id=machine["id"],
        node_id=machine["node_id"],
        epoch=1,
        mac=spec.mac,
        group_ids=[g["id"] for g in groups],
    )
    details = {
        "network": net["name"],
        "mac": spec.mac,
        "addresses": addresses,
        "groups": [g["name"] for g in groups],
    }
    return Effect(action="create", kind="port", id=text("port", port_id), name=name, details=details)


def crowded(networks: list[Row], known: list[list[str]], nodes: Nodes) -> frozenset[UUID]:
    """The nodes on which ranges are in each other's way: of these networks and those that a node has (`known`: network
    and node), or of these among themselves."""
    ranges = [(n["id"], ipaddress.ip_network(s["cidr"])) for n in networks for s in n["subnets"]]
    for (mine, a), (theirs, b) in itertools.combinations(ranges, 2):
        if mine != theirs and a.version == b.version and a.overlaps(b):
            return frozenset(n.id for n in nodes.rows)
    chosen = {n["id"] for n in networks}
    return frozenset(UUID(node_id) for network_id, node_id in known if network_id in chosen)


def hold(draft: Draft, network_id: str, subnet_id: str, port_id: UUID, address: str) -> None:
    """Claim an address: nobody else has it from now on."""
    draft.inserts(
        "address",
        network_id=network_id,
        address=address,
        subnet_id=subnet_id,
        port_id=port_id,
        origin=network.AddressOrigin.ALLOCATED.value,
    )


def join(draft: Draft, node_id: UUID, groups: list[Row]) -> None:
    """The node needs the rules of these groups; nodes whose groups name them need the new addresses."""
    for g in groups:
        draft.rests_on("security_group", g, compare=False)
        draft.wakes(node_id, UUID(g["id"]), "security_group")
    draft.changes_groups(members=[g["id"] for g in groups])


def another(net: Row, family: int | None, random: int) -> tuple[str, Row] | errors.NubilaError:
    """One more address for a port of this network, of IPv4 unless said otherwise, and its subnet."""
    wanted = 4 if family is None else family
    mine = [s for s in net["subnets"] if ipaddress.ip_network(s["cidr"]).version == wanted]
    if not mine:
        return errors.Invalid(f"Network '{net['name']}' has no IPv{wanted} subnet.", field="family")
    for subnet in mine:
        if wanted == 6:
            return _random6(subnet["cidr"], random), subnet
        if subnet["free"]:
            return str(subnet["free"][random % len(subnet["free"])]), subnet
    return full(net["name"], mine[0])


def named(net: Row, address: str) -> tuple[str, Row] | errors.NubilaError:
    """The address that somebody asks for, in canonical form, and its subnet."""
    try:
        value = ipaddress.ip_address(address)
    except ValueError:
        return errors.Invalid(f"'{address}' is not an address.", field="address")
    for subnet in net["subnets"]:
        cidr = ipaddress.ip_network(subnet["cidr"])
        if value.version == cidr.version and value in cidr:
            if value in (cidr.network_address, cidr.broadcast_address) or str(value) == subnet["gateway"]:
                return errors.Invalid(f"{value} is not for guests: it is the subnet's own.", field="address")
            return str(value), subnet
    ranges = ", ".join(s["cidr"] for s in net["subnets"])
    return errors.Invalid(f"{value} is not in network '{net['name']}', which has {ranges}.", field="address")


def full(name: str, subnet: Row) -> errors.NoAddress:
    """Of an IPv4 subnet that the view found no free address in."""
    addresses = ipaddress.ip_network(subnet["cidr"]).num_addresses - 2
    return errors.NoAddress(
        f"Network '{name}' has no free address left in {subnet['cidr']}: all {addresses} are used, one by its gateway.",
        subnet={"network": name, "cidr": subnet["cidr"], "addresses": addresses, "used": addresses},
    )


def _first(subnet: Row, mac: str, random: int) -> str | None:
    if ":" in subnet["cidr"]:
        return network.eui64(subnet["cidr"], mac)
    free: list[str] = subnet["free"] or []
    return free[random % len(free)] if free else None  # any: parallel creates want others


def _random6(cidr: str, random: int) -> str:
    """Of 2**64; never one that a guest forms from its MAC, which has ff:fe in its middle."""
    host = (random * 0x9E3779B97F4A7C15 & 0xFFFFFF00FFFFFFFF) | 1 << 63
    return str(ipaddress.ip_network(cidr).network_address + host)
