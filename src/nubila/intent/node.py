"""Nodes: join tokens, enrolment, a session's opening, maintenance. Pure."""

from __future__ import annotations

import contextlib
import ipaddress
from datetime import timedelta
from typing import Annotated, Any
from uuid import UUID

import msgspec

from nubila import errors
from nubila.intent.asking import Asking, Outcome, builtins, stamp
from nubila.model import node
from nubila.model.draft import Drafted, Effect, Row
from nubila.model.fields import MEMORY_MIB_MAX, SIZE_GIB_MAX, Labels, Name, Reason
from nubila.model.ids import text
from nubila.protocol import Hello


class JoinTokenCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Create a token with which one machine may enrol itself, once."""

    ttl_s: Annotated[int, msgspec.Meta(ge=60, le=7 * 86400)] = 3600
    roles: Annotated[tuple[node.Role, ...], msgspec.Meta(min_length=1)] = (node.Role.HYPERVISOR,)
    zone: Name = "default"
    name: Name | None = None


class NodeChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Put a node into maintenance (it keeps what it has and gets nothing new) or back, or change what it offers."""

    maintenance: bool | None = None
    maintenance_reason: Reason | None = None
    cpu_overcommit: Annotated[float, msgspec.Meta(ge=0.1, le=64)] | None = None
    reserved_memory_mib: Annotated[int, msgspec.Meta(ge=0, le=MEMORY_MIB_MAX)] | None = None
    reserved_disk_gib: Annotated[int, msgspec.Meta(ge=0, le=SIZE_GIB_MAX)] | None = None
    labels: Labels | None = None


def create_join_token(body: JoinTokenCreate, asking: Asking, token_id: UUID, bearer: tuple[str, str]) -> Outcome:
    expires = asking.now + timedelta(seconds=body.ttl_s)
    draft = asking.draft()
    draft.inserts("join_token", id=token_id, spec=builtins(body), expires_at=expires)
    draft.inserts("credential", id=token_id, sha256=bearer[1])
    effect = Effect(
        action="create", kind="join_token", id=text("join_token", token_id), details={"expires_at": stamp(expires)}
    )
    return Drafted(
        draft=draft,
        status=201,
        refers={"join_token": token_id},
        effects=[effect],
        secret={"token": bearer[0], "expires_at": stamp(expires)},
    )


def enrol(fqdn: str, token: Row, asking: Asking, node_id: UUID, name: str, key_sha256: str) -> Outcome:
    """A machine with a good, unused join token becomes a node. The token is spent in the same commit, bound to the key."""
    spec = node.Spec(roles=tuple(node.Role(r) for r in token["spec"]["roles"]), zone=token["spec"]["zone"])
    draft = asking.draft()
    draft.rests_on("join_token", token, compare=False)
    draft.rests_on("credential", token, compare=False)  # it goes when the token is taken back
    draft.inserts(
        "node", id=node_id, name=name, labels={}, spec=builtins(spec), generation=1, state=node.State.ENROLLING.value
    )
    draft.inserts("node_revision", node_id=node_id, revision=1)
    bound = {**token["spec"], "key_sha256": key_sha256}
    draft.updates("join_token", {"id": token["id"]}, used_at=asking.now, node_id=node_id, spec=bound)
    effect = Effect(action="create", kind="node", id=text("node", node_id), name=name, details={"fqdn": fqdn})
    return Drafted(draft=draft, status=201, refers={"node": node_id}, effects=[effect], hints=["fleet"])


def _ranges(said: tuple[str, ...]) -> tuple[str, ...]:
    """Those that are ranges; what a node says otherwise is not kept."""
    found = set()
    for r in said:
        with contextlib.suppress(ValueError):
            found.add(str(ipaddress.ip_network(r)))
    return tuple(sorted(found))


def open_session(hello: Hello, row: Row, methods: list[Row], inventory: list[Row], asking: Asking) -> Outcome:
    """What the node says of itself becomes its status, its virt methods and its inventory."""
    if row["state"] == node.State.RETIRED:
        return errors.Forbidden("This node is retired.")
    status = node.Status(
        fqdn=hello.fqdn[:255],
        boot_id=hello.boot_id[:64],
        cores=hello.cores,
        memory_mib=hello.memory_mib,
        disk_gib=hello.disk_gib,
        kernel=hello.kernel[:255],
        agent_version=hello.agent_version[:63],
        protocol=hello.protocol,
        virt_methods=hello.virt_methods,
        drivers=hello.drivers,
        ranges=_ranges(hello.ranges),
    )
    spec = msgspec.convert(row["spec"], node.Spec)
    state = node.state(spec, status, was=node.State(row["state"]))
    draft = asking.draft()
    if builtins(status) != row["status"] or state != row["state"]:
        draft.changes(
            "node", row, version=True, status=builtins(status), observed_generation=row["generation"], state=state.value
        )
    had = {m["name"] for m in methods}
    for gone in had - set(hello.virt_methods):
        draft.deletes("virt_method", node_id=row["id"], name=gone)
    for new in sorted(set(hello.virt_methods) - had):
        draft.inserts("virt_method", node_id=row["id"], name=new, capabilities=status.hypervisor_of(new))
    for m in methods:
        if m["name"] in hello.virt_methods and m["capabilities"] != (says := status.hypervisor_of(m["name"])):
            key = {"node_id": row["id"], "name": m["name"]}
            draft.updates("virt_method", key, capabilities=says)
    _inventory(draft, row, spec, status, inventory)
    return Drafted(draft=draft, status=200, refers={"node": UUID(row["id"])}, hints=["fleet"])


def change(body: NodeChange, row: Row, inventory: list[Row], asking: Asking) -> Outcome:
    given = {k: v for k in node.Spec.__struct_fields__ if (v := getattr(body, k, None)) is not None}
    if body.maintenance is False:
        given.setdefault("maintenance_reason", "")  # it was the reason of a maintenance that is over
    spec = msgspec.structs.replace(msgspec.convert(row["spec"], node.Spec), **given)
    status = None if row["status"] is None else msgspec.convert(row["status"], node.Status)
    draft = asking.draft()
    columns: Row = {}
    if builtins(spec) != row["spec"]:
        columns["spec"] = builtins(spec)
    if body.labels is not None and body.labels != row["labels"]:
        columns["labels"] = body.labels
    object_id = UUID(row["id"])
    if not columns:
        return Drafted(draft=draft, status=200, refers={"node": object_id})
    if status is not None and (short := _offers_less(body, row, spec, status, inventory)) is not None:
        return short
    state = node.state(spec, status, was=node.State(row["state"]))
    draft.changes("node", row, generation=row["generation"] + 1, state=state.value, **columns)
    if status is not None:
        _inventory(draft, row, spec, status, inventory)
    shown: dict[str, Any] = {
        k: {"was": row["spec"].get(k), "becomes": v} for k, v in given.items() if row["spec"].get(k) != v
    }
    effect = Effect(action="change", kind="node", id=text("node", object_id), name=row["name"], details=shown)
    return Drafted(draft=draft, status=200, refers={"node": object_id}, effects=[effect], hints=["fleet"])


def retire(row: Row, view: dict[str, list[Row]], asking: Asking) -> Outcome:
    """The machine is a node no more; its agent is refused from now on. What is placed there forbids it."""
    object_id = UUID(row["id"])
    draft = asking.draft()
    draft.removes("node", row, state=node.State.RETIRED.value, removed_at=asking.now, generation=row["generation"] + 1)
    for i in view["inventory"]:
        draft.deletes("inventory", node_id=row["id"], **{"class": i["class"]})
    for m in view["methods"]:
        draft.deletes("virt_method", node_id=row["id"], name=m["name"])
    effect = Effect(action="remove", kind="node", id=text("node", object_id), name=row["name"])
    return Drafted(draft=draft, status=200, refers={"node": object_id}, effects=[effect], hints=["fleet"])


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


def _inventory(draft: Any, row: Row, spec: node.Spec, status: node.Status, present: list[Row]) -> None:
    was = {i["class"]: i for i in present}
    for class_, (total, reserved) in node.inventory(spec, status).items():
        key = {"node_id": row["id"], "class": class_.value}
        if class_.value not in was:
            draft.inserts("inventory", total=total, reserved=reserved, used=0, **key)
        elif (was[class_.value]["total"], was[class_.value]["reserved"]) != (total, reserved):
            draft.updates("inventory", key, total=total, reserved=reserved)
