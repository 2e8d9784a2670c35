"""What operators change of a node: what it offers, whether it gets anything new, that it is one at all. Pure."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import msgspec

from nubila import errors
from nubila.intent.asking import Asking, Outcome, builtins
from nubila.model import node
from nubila.model.draft import Draft, Drafted, Effect, Row
from nubila.model.fields import MEMORY_MIB_MAX, SIZE_GIB_MAX, Address, Labels, Name, Rack, Reason
from nubila.model.ids import text


class NodeChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Put a node into maintenance (it keeps what it has and gets nothing new) or back, or change what it offers, or where
    it stands."""

    maintenance: bool | None = None
    maintenance_reason: Reason | None = None
    cpu_overcommit: Annotated[float, msgspec.Meta(ge=0.1, le=64)] | None = None
    reserved_memory_mib: Annotated[int, msgspec.Meta(ge=0, le=MEMORY_MIB_MAX)] | None = None
    reserved_disk_gib: Annotated[int, msgspec.Meta(ge=0, le=SIZE_GIB_MAX)] | None = None
    zone: Name | None = None
    rack: Rack | None = None
    roles: Annotated[tuple[node.Role, ...], msgspec.Meta(min_length=1)] | None = None
    addresses: dict[node.Purpose, Address | None] | None = None
    other_machine: bool | None = None
    labels: Labels | None = None


class View(msgspec.Struct, frozen=True, kw_only=True):
    """A node with what it offers, read at one moment."""

    row: Row
    methods: list[Row] = []
    inventory: list[Row] = []
    session: int | None = None
    heard: int = 0  # the newest revision of its wishes that its agent has in this session
    silent_s: float | None = None


def change(body: NodeChange, view: View, asking: Asking) -> Outcome:
    row, was = view.row, msgspec.convert(view.row["spec"], node.Spec)
    if body.maintenance is False and (wrong := not_yet(view)) is not None:
        return wrong
    given = _given(body, was)
    spec = msgspec.structs.replace(was, **given)
    status = None if row["status"] is None else msgspec.convert(row["status"], node.Status)
    draft, object_id = asking.draft(), UUID(row["id"])
    columns: Row = {} if spec == was else {"spec": builtins(spec)}
    if body.labels is not None and body.labels != row["labels"]:
        columns["labels"] = body.labels
    if not columns:
        return Drafted(draft=draft, status=200, refers={"node": object_id})
    if (wrong := _wrong(body, row, spec, status, view.inventory)) is not None:
        return wrong
    state = node.state(spec, status, was=node.State(row["state"]))
    draft.changes("node", row, generation=row["generation"] + 1, state=state.value, **columns)
    if status is not None:
        offer(draft, row, spec, status, view.inventory)
    shown = {k: {"was": w, "becomes": v} for k, v in given.items() if (w := getattr(was, k)) != v}
    effect = Effect(action="change", kind="node", id=text("node", object_id), name=row["name"], details=builtins(shown))
    return Drafted(draft=draft, status=200, refers={"node": object_id}, effects=[effect], hints=["fleet"])


def _given(body: NodeChange, was: node.Spec) -> dict[str, Any]:
    """What of the node's wish becomes another one."""
    given = {k: v for k in node.Spec.__struct_fields__ if (v := getattr(body, k, None)) is not None}
    if body.addresses is not None:
        given["addresses"] = {p: a for p, a in {**was.addresses, **body.addresses}.items() if a is not None}
    if body.roles is not None:
        given["roles"] = tuple(dict.fromkeys(body.roles))
    if body.maintenance is not None:
        given["draining"] = False
    if body.maintenance is False:
        given["came_back"] = False
        given.setdefault("maintenance_reason", "")  # it was the reason of a maintenance that is over
    return given


def not_yet(view: View) -> errors.NubilaError | None:
    """Why a node that came back after it was lost gets no VMs yet: its agent has to know, in this session, all that is
    wished there, and be heard; then what it runs is what it says."""
    if not msgspec.convert(view.row["spec"], node.Spec).came_back:
        return None
    silent_s = view.silent_s
    if silent_s is not None and silent_s <= node.SILENT_AFTER_S and view.heard > 0:
        return None
    return errors.Conflict(
        f"Node '{view.row['name']}' was lost, and its agent has not said yet what runs there.",
        state=view.row["state"],
        fix="Try again in some seconds; while it stays silent, see its agent's log.",
    )


def _wrong(
    body: NodeChange, row: Row, spec: node.Spec, status: node.Status | None, inventory: list[Row]
) -> errors.NubilaError | None:
    """Why the change cannot be."""
    for field in node.Spec.__struct_fields__:
        of = [r for r, role in node.ROLES.items() if field in role.attributes]
        if of and getattr(body, field, None) is not None and not set(of) & set(spec.roles):
            return errors.Conflict(
                f"{field} is an attribute of the role {of[0].value}, which node '{row['name']}' does not have.",
                field=field,
                fix="Give it the role in the same call, or leave this field out.",
            )
    if status is None:
        return None
    return (
        _no_address(body, row, status)
        or _lacking(row, spec, status)
        or _offers_less(body, row, spec, status, inventory)
    )


def _no_address(body: NodeChange, row: Row, status: node.Status) -> errors.NubilaError | None:
    """An address that none of its links has would be no address of the node."""
    has = node.on_links(status)
    for purpose, address in (body.addresses or {}).items():
        if address is not None and has is not None and address not in has:
            return errors.Conflict(
                f"Node '{row['name']}' has no address {address} (for {purpose.value}).",
                field="addresses",
                known=sorted(has),
                fix="Name one that its links have, as 'nubila node show' lists them; an interface that got one since is known "
                "when its agent starts anew.",
            )
    return None


def _lacking(row: Row, spec: node.Spec, status: node.Status) -> errors.NubilaError | None:
    """A role is refused to a node that lacks an address that it needs, and so is taking that address away."""
    before = node.lacks(msgspec.convert(row["spec"], node.Spec), status)
    new = [x for x in node.lacks(spec, status) if x not in before]
    if not new:
        return None
    role, purpose = new[0]
    return errors.Conflict(
        f"The role {role.value} ({node.ROLES[role].words}) needs an address for {purpose.value}, and node '{row['name']}' "
        "has none.",
        lacks=[{"role": r.value, "address": p.value} for r, p in new],
        fix=f"Set it, also in the same call: 'nubila node change {row['name']} --address {purpose.value}=ADDRESS'.",
    )


def _offers_less(
    body: NodeChange, row: Row, spec: node.Spec, status: node.Status, inventory: list[Row]
) -> errors.NubilaError | None:
    """Why the change cannot be: more reserved than there is, or less left than VMs hold already."""
    for field, has, unit in (
        ("reserved_memory_mib", status.memory_mib, "MiB of memory"),
        ("reserved_disk_gib", status.disk_gib, "GiB of disk"),
    ):
        asked = getattr(body, field)
        if asked is not None and asked > has:
            return errors.Invalid(f"{field} is {asked}, and node '{row['name']}' has {has} {unit}.", field=field)
    held = {i["class"]: i for i in inventory}
    for class_, (total, reserved) in node.inventory(spec, status).items():
        was = held.get(class_.value)
        offered = total - reserved
        if was is not None and offered < was["used"] and offered < was["total"] - was["reserved"]:
            return errors.Conflict(
                f"Node '{row['name']}' would offer {offered} {class_.value}, and what is placed there holds {was['used']}.",
                offered={"class": class_.value, "would_be": offered, "used": was["used"]},
                fix="Keep back less, or put the node into maintenance: then it gets nothing new.",
            )
    return None


def offer(draft: Draft, row: Row, spec: node.Spec, status: node.Status, present: list[Row]) -> None:
    was = {i["class"]: i for i in present}
    for class_, (total, reserved) in node.inventory(spec, status).items():
        key = {"node_id": row["id"], "class": class_.value}
        if class_.value not in was:
            draft.inserts("inventory", total=total, reserved=reserved, used=0, **key)
        elif (was[class_.value]["total"], was[class_.value]["reserved"]) != (total, reserved):
            draft.updates("inventory", key, total=total, reserved=reserved)
