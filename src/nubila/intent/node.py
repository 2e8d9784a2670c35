"""Nodes: join tokens, enrolment, a session's opening. Pure. What operators change of them: `node_change`."""

from __future__ import annotations

import contextlib
import ipaddress
from datetime import timedelta
from typing import Annotated
from uuid import UUID

import msgspec

from nubila import errors
from nubila.intent.asking import Asking, Outcome, builtins, stamp
from nubila.intent.node_change import offer
from nubila.model import node
from nubila.model.draft import Drafted, Effect, Row
from nubila.model.fields import Name
from nubila.model.ids import text
from nubila.protocol import Hello


class JoinTokenCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Create a token with which one machine may enrol itself, once."""

    ttl_s: Annotated[int, msgspec.Meta(ge=60, le=7 * 86400)] = 3600
    roles: Annotated[tuple[node.Role, ...], msgspec.Meta(min_length=1)] = (node.Role.HYPERVISOR,)
    zone: Name = "default"
    name: Name | None = None
    approve: bool = True  # false: the machine waits until an operator has looked at it


class JoinToken(msgspec.Struct, frozen=True, kw_only=True):
    """What a kept token says of its machine; one of an earlier version says less."""

    roles: tuple[node.Role, ...]
    zone: str
    approve: bool = True


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
    asked = msgspec.convert(token["spec"], JoinToken)
    spec = node.Spec(approved=asked.approve, roles=asked.roles, zone=asked.zone)
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


CAME_BACK = "it was declared lost and came back: see what it runs, then return it"


def back(spec: node.Spec) -> node.Spec:
    """A lost node that speaks again is in maintenance, whatever was wished before: what it runs is looked at first."""
    if not spec.lost:
        return spec
    return msgspec.structs.replace(
        spec, lost=False, came_back=True, maintenance=True, draining=False, maintenance_reason=CAME_BACK
    )


def open_session(hello: Hello, row: Row, methods: list[Row], inventory: list[Row], asking: Asking) -> Outcome:
    """What the node says of itself becomes its status, its virt methods and its inventory."""
    if row["state"] == node.State.RETIRED:
        return errors.Forbidden("This node is retired.")
    was = msgspec.convert(row["spec"], node.Spec)
    known = (row["status"] or {}).get("machine_id", "")
    moved = known not in ("", hello.machine_id)
    if moved and not was.other_machine:
        return errors.WrongMachine(
            f"Node '{row['name']}' is another machine: it was {known[:8]} in its sessions before, and this is "
            f"{hello.machine_id[:8] or 'one that does not say'}."
        )
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
        machine_id=hello.machine_id,
        address=hello.address,
        links=hello.links,
        disks=hello.disks,
    )
    spec = back(msgspec.structs.replace(was, other_machine=was.other_machine and not moved))
    state = node.state(spec, status, was=node.State(row["state"]))
    draft, columns = asking.draft(), {}
    if spec != was:
        columns = {"spec": builtins(spec), "generation": row["generation"] + 1}
    if columns or builtins(status) != row["status"] or state != row["state"]:
        seen = {"status": builtins(status), "observed_generation": row["generation"], "state": state.value}
        draft.changes("node", row, version=True, **seen, **columns)
    had = {m["name"] for m in methods}
    for gone in had - set(hello.virt_methods):
        draft.deletes("virt_method", node_id=row["id"], name=gone)
    for new in sorted(set(hello.virt_methods) - had):
        draft.inserts("virt_method", node_id=row["id"], name=new, capabilities=status.hypervisor_of(new))
    for m in methods:
        if m["name"] in hello.virt_methods and m["capabilities"] != (says := status.hypervisor_of(m["name"])):
            key = {"node_id": row["id"], "name": m["name"]}
            draft.updates("virt_method", key, capabilities=says)
    offer(draft, row, spec, status, inventory)
    return Drafted(draft=draft, status=200, refers={"node": UUID(row["id"])}, hints=["fleet"])
