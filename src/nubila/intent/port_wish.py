"""Ports that come and go while their vm runs or not, and addresses that are assigned to them and taken away. Pure.

A port wished away, and an address that was unassigned, are still claimed: others may have them once the node has said that
nothing of them is left there (`port_report`).
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec

from nubila import errors
from nubila.intent import port_place, security_group
from nubila.intent.asking import Asking, Outcome, builtins, end_operation, next_number, wish
from nubila.intent.vm import barred, opened
from nubila.model import network, operation, vm
from nubila.model.draft import Draft, Drafted, Effect, Row
from nubila.model.fields import Reference
from nubila.model.ids import text
from nubila.model.network import BurstKib, Kbit

View = dict[str, Any]
Address = Annotated[str, msgspec.Meta(max_length=49, description="an IPv4 or IPv6 address, without a prefix length")]


class PortCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Give a VM one more port; while it runs, its guest sees a new interface. Rates are seen from the guest."""

    network: Reference
    security_groups: list[Reference] | None = None
    in_kbit: Kbit = 0
    out_kbit: Kbit = 0
    burst_kib: BurstKib = 0


class AddressAssign(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Give a port one more address of its network: this one, or any of that family. The guest has to take it itself:
    it finds it in its metadata."""

    address: Address | None = None
    family: Literal[4, 6] | None = None


def create(body: PortCreate, view: View, place: View, groups: list[Row], asking: Asking, *, random: int) -> Outcome:
    """`place`: the network that the body names and what stands in its way; `groups` are the project's."""
    row, spec = opened(view)
    net = place["network"]
    if net is None:
        return errors.Invalid(
            f"There is no network '{body.network}'.", field="network", fix="See 'nubila network list'."
        )
    fault = barred(row, spec) or _no_room(row, view) or clash(net["name"], place)
    if fault is not None:
        return fault
    chosen = security_group.chosen(body.security_groups, groups, "security_groups")
    if isinstance(chosen, errors.NubilaError):
        return chosen
    index = min(set(range(network.PORTS_MAX)) - {p["spec"]["index"] for p in view["ports"]})
    limits = {k: getattr(body, k) for k in ("in_kbit", "out_kbit", "burst_kib")}
    made = network.PortSpec(mac=network.mac(random), index=index, **limits)
    draft = asking.draft()
    draft.rests_on("network", net)
    if _one_of_a_range(place):
        draft.takes_ranges(UUID(row["node_id"]), net["id"])
    port_place.join(draft, UUID(row["node_id"]), chosen)
    effect = port_place.place(draft, asking, row, net, chosen, made, random)
    if isinstance(effect, errors.NubilaError):
        return effect
    details = {**effect.details, "when": "now" if _runs(row) else "at the VM's next start"}
    return _wished(
        draft, asking, view, draft.insert["port"][-1], operation.Verb.CREATE, 1, action="create", details=details
    )


def remove(port: Row, view: View, asking: Asking) -> Outcome:
    row, spec = opened(view)
    fault = barred(row, spec) or leaving(port) or _last(port, view) or _fixed(row, view)
    if fault is not None:
        return fault
    draft = asking.draft()
    generation = _gone(draft, port)
    for op in _open(port, view):
        end_operation(asking, draft, op, operation.State.OVERTAKEN, "a later 'remove' replaced it")
    details = {"vm": row["name"], "mac": port["mac"]}
    return _wished(draft, asking, view, port, operation.Verb.REMOVE, generation, action="remove", details=details)


def assign(body: AddressAssign, port: Row, view: View, place: View, asking: Asking, *, random: int) -> Outcome:
    """`place` is the port's network, with free addresses."""
    row, vm_spec = opened(view)
    fault = barred(row, vm_spec) or leaving(port)
    if fault is not None:
        return fault
    if body.address is not None and body.family is not None:
        return errors.Invalid("Say either which address or of which family.", field="family")
    net, has = place["network"], _addresses(port, view)
    if len(has) >= network.ADDRESSES_MAX:
        return errors.Conflict(
            f"Port '{port['name']}' has {len(has)} addresses, and {network.ADDRESSES_MAX} is the most."
        )
    found = (
        port_place.another(net, body.family, random) if body.address is None else port_place.named(net, body.address)
    )
    if isinstance(found, errors.NubilaError):
        return found
    address, subnet = found
    if address in has:
        return errors.Conflict(
            f"Port '{port['name']}' has {address} already, or has not let go of it yet.",
            fix="If it is being unassigned, wait until that is done.",
        )
    was = msgspec.convert(port["spec"], network.PortSpec)
    becomes = msgspec.structs.replace(
        was, extra=(*(a for a in was.extra if a != address), address), leaving=_standing(was, has)
    )
    draft = asking.draft()
    draft.rests_on("network", net)
    port_place.hold(draft, net["id"], subnet["id"], UUID(port["id"]), address)
    draft.changes_groups(members=port["group_ids"])
    return _respecified(draft, asking, view, port, becomes, {"assigned": address})


def unassign(address: str, port: Row, view: View, asking: Asking) -> Outcome:
    row, vm_spec = opened(view)
    fault = barred(row, vm_spec) or leaving(port)
    if fault is not None:
        return fault
    try:
        value = ipaddress.ip_address(address)
    except ValueError:
        return errors.NotFound(f"Port '{port['name']}' has no such address.", fix="See 'nubila port show'.")
    was, has = msgspec.convert(port["spec"], network.PortSpec), _addresses(port, view)
    going = _standing(was, has)
    if str(value) not in has:
        return errors.NotFound(f"Port '{port['name']}' does not have {value}.", fix="See 'nubila port show'.")
    if str(value) in going:
        return errors.Conflict(f"{value} is being unassigned from port '{port['name']}' already.")
    stays = [a for a in has if a not in (*going, str(value)) and ":" not in a]
    if value.version == 4 and not stays:
        return errors.Conflict(
            f"{value} is the last IPv4 address of port '{port['name']}', by which its guest finds its metadata.",
            fix="Assign another one first, or remove the port.",
        )
    becomes = msgspec.structs.replace(
        was, extra=tuple(a for a in was.extra if a != str(value)), leaving=(*going, str(value))
    )
    return _respecified(asking.draft(), asking, view, port, becomes, {"unassigned": str(value)})


# verb -> what a cancel does, said to the person who cancels
CANCELLING: dict[operation.Verb, str] = {
    operation.Verb.CREATE: "The port is removed again.",
    operation.Verb.REMOVE: "Too late: what was removed cannot be brought back. It will end by its deadline, or say why not.",
    operation.Verb.CHANGE: "Too late: the node may have done it already. It will end by its deadline; assign or unassign again.",
}
LAST = "Too late: it is the VM's last port by now."


def cancel(op: Row, port: Row | None, view: View | None, asking: Asking) -> Outcome:
    """Legal in every state, and always with an answer."""
    spec = msgspec.convert(op["spec"], operation.Spec)
    refers: dict[str, UUID | None] = {"operation": UUID(op["id"])}
    said = CANCELLING[spec.verb]
    if operation.State(op["state"]) in operation.TERMINAL:
        said = f"Too late: it is {op['state']} already, there is nothing to cancel."
    if port is None or view is None or said.startswith("Too late") or _last(port, view) or leaving(port):
        no = said if said.startswith("Too late") else LAST
        return Drafted(draft=asking.draft(), status=200, refers=refers, secret={"cancelled": "no", "detail": no})
    row, vm_spec = opened(view)
    if (held := barred(row, vm_spec)) is not None:
        return held
    draft = asking.draft()
    generation = _gone(draft, port)
    for other in _open(port, view):
        mine = other["id"] == op["id"]
        reason = "cancelled on request" if mine else "the operation before it was cancelled"
        end_operation(asking, draft, other, operation.State.CANCELLED if mine else operation.State.OVERTAKEN, reason)
    wish(asking, draft, operation.Verb.REMOVE, kind="port", row=port, generation=generation)
    touch(draft, row)
    op_id = text("operation", UUID(op["id"]))
    effect = Effect(action="change", kind="operation", id=op_id, name=op["name"], details={"state": "cancelled"})
    return Drafted(
        draft=draft,
        status=200,
        refers={**refers, "port": UUID(port["id"])},
        effects=[effect],
        secret={"cancelled": "yes", "detail": said},
        hints=[f"node:{op['node_id']}", f"op:{op['id']}"],
    )


def clash(name: str, place: View) -> errors.Conflict | None:
    """Why this network cannot be on the vm's node."""
    if place["clash"] is None or not _one_of_a_range(place):
        return None
    mine = place["clash"]["mine"]
    return errors.Conflict(
        f"Network '{name}' has {mine}, which overlaps the range of another network on the VM's host; the host can have "
        "only one of them.",
        field="network",
        fix="Use a network with another range, or create a VM on it, which goes to another host.",
    )


def _one_of_a_range(place: View) -> bool:
    """The node can have one network of a range. One that says nothing of its wires is left to refuse by itself."""
    return place["wires"] is not None and not place["wires"].get("overlapping_ranges")


def leaving(port: Row) -> errors.Conflict | None:
    if not port["spec"].get("gone"):
        return None
    return errors.Conflict(f"Port '{port['name']}' is being removed.", state=port["state"])


def touch(draft: Draft, machine: Row, *, define: bool = False) -> None:
    """The node hears of it with the vm. `define`: it makes the definition of a vm that is off as it is wished now."""
    columns: Row = {}
    if define:
        wished = msgspec.convert(machine["spec"], vm.Spec)
        wished = msgspec.structs.replace(wished, repairs=next_number(wished.repairs, machine, "repairs"))
        columns["spec"] = builtins(wished)
    draft.changes("vm", machine, generation=machine["generation"] + 1, **columns)
    draft.wakes(UUID(machine["node_id"]), UUID(machine["id"]))


def _gone(draft: Draft, port: Row) -> int:
    generation: int = port["generation"] + 1
    draft.changes("port", port, spec={**port["spec"], "gone": True}, generation=generation)
    return generation


def _respecified(
    draft: Draft, asking: Asking, view: View, port: Row, becomes: network.PortSpec, shown: dict[str, Any]
) -> Drafted:
    generation = port["generation"] + 1
    draft.changes("port", port, spec=builtins(becomes), generation=generation)
    return _wished(draft, asking, view, port, operation.Verb.CHANGE, generation, action="change", details=shown)


def _wished(
    draft: Draft,
    asking: Asking,
    view: View,
    port: Row,
    verb: operation.Verb,
    generation: int,
    *,
    action: str,
    details: dict[str, Any],
) -> Drafted:
    row = view["vm"]
    touch(draft, row, define=action == "create" and not _runs(row))
    op = wish(asking, draft, verb, kind="port", row=port, generation=generation)
    port_id = port["id"] if isinstance(port["id"], UUID) else UUID(port["id"])
    return Drafted(
        draft=draft,
        status=201 if action == "create" else 202,
        refers={"port": port_id, "operation": op["id"]},
        effects=[Effect(action=action, kind="port", id=text("port", port_id), name=port["name"], details=details)],
        hints=[f"node:{row['node_id']}"],
    )


def _no_room(row: Row, view: View) -> errors.NubilaError | None:
    if len(view["ports"]) >= network.PORTS_MAX:
        return errors.Conflict(
            f"VM '{row['name']}' has {len(view['ports'])} ports, and {network.PORTS_MAX} is the most.",
            fix="Remove one of them first.",
        )
    return _fixed(row, view)


def _fixed(row: Row, view: View) -> errors.Unsupported | None:
    if not _runs(row) or view["capabilities"].get("nic_hotplug", True):
        return None
    return errors.Unsupported(
        f"The hypervisor of VM '{row['name']}' plugs no port in or out while it runs.", fix="Stop the VM first."
    )


def _last(port: Row, view: View) -> errors.Conflict | None:
    if any(p["id"] != port["id"] and not p["spec"].get("gone") for p in view["ports"]):
        return None
    return errors.Conflict(
        f"Port '{port['name']}' is the last one of VM '{view['vm']['name']}'.",
        fix="Add another one first, or remove the VM.",
    )


def _runs(row: Row) -> bool:
    return (row["status"] or {}).get("power") == "on"


def _addresses(port: Row, view: View) -> list[str]:
    return [str(a["address"]) for a in view["addresses"] if a["port_id"] == port["id"]]


def _standing(was: network.PortSpec, has: list[str]) -> tuple[str, ...]:
    """What was unassigned and is not free yet."""
    return tuple(a for a in was.leaving if a in has)


def _open(port: Row, view: View) -> list[Row]:
    return [o for o in view["port_operations"] if o["resource_id"] == port["id"]]
