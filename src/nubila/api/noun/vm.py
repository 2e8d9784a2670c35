"""VMs: create, list, show, change, start, stop, reboot, remove, console, placement. Both people's planes."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec

from nubila import errors
from nubila.api.context import (
    CLOCK_S,
    ApiCall,
    carried,
    etag_of,
    filtered,
    is_operator,
    listed,
    matching,
    meant,
    project_of,
)
from nubila.api.noun.operation import operation_shown
from nubila.api.route import Answer, answers
from nubila.intent import vm as verbs
from nubila.intent import vm_size
from nubila.intent.asking import Asking, Outcome
from nubila.intent.carry import Done
from nubila.intent.vm_create import VmCreate, create, sealed_user_data
from nubila.model import node
from nubila.model.fields import Reference
from nubila.model.ids import host_handle, parse, text
from nubila.represent import json, openapi
from nubila.store.database import Record

CONSOLE_WAIT_S = 10.0


class VmQuery(msgspec.Struct, frozen=True):
    """Filters of a list of VMs."""

    name: str | None = None
    state: str | None = None
    label: list[str] = []


class OperatorVmQuery(VmQuery, frozen=True):
    """Filters of an operator's list of VMs."""

    node: str | None = None


class ConsoleQuery(msgspec.Struct, frozen=True):
    """How much of the end of a console."""

    bytes: Annotated[int, msgspec.Meta(ge=1, le=65536)] = 16384


def vm_shown(call: ApiCall, row: Record) -> dict[str, Any]:
    silent = row["silent_s"]
    unknown = call.as_of is None and (silent is None or silent > node.SILENT_AFTER_S)
    extras: dict[str, Any] = {
        "addresses": (row["addresses"] or "").split(),
        "flavor": row["flavor_name"],
        "image": row["image_name"],
        "login": row["login"],
        "host": host_handle(row["project_id"], row["node_id"]),
        "observed_generation": row["observed_generation"],
        "last_report_age_s": None if silent is None or call.as_of else round(silent, 1),
    }
    if unknown and row["state"] not in ("removed",):
        extras |= {"state": "unknown", "last_state": row["state"]}
    if is_operator(call):
        extras |= {"node": row["node_name"], "node_id": text("node", row["node_id"]), "epoch": row["epoch"]}
    return json.resource("vm", row, viewer=call.viewer, **extras)


async def shown_vm(call: ApiCall, done: Done) -> dict[str, Any]:
    """What a verb answers: the vm and the operation that follows the wish."""
    vm_id, op_id = done.refers.get("vm"), done.refers.get("operation")
    out: dict[str, Any] = {}
    if vm_id is not None:
        row: Record | None = None if call.wait_s else done.rows.get("vm")
        row = row or await call.context.resources.one("vm", object_id=vm_id, removed=True)
        out["vm"] = None if row is None else vm_shown(call, row)
    if op_id is not None:
        op: Record | None = None if call.wait_s else done.rows.get("operation")
        op = op or await call.context.resources.one("operation", object_id=op_id)
        out["operation"] = None if op is None else operation_shown(call, op)
    return out


@answers(openapi.Listing)
async def list_vms(call: ApiCall) -> Answer:
    """List VMs."""
    node_id = None
    if isinstance(call.query, OperatorVmQuery) and call.query.node is not None:
        node_id = parse("node", call.query.node)
        row = None if node_id else await call.context.resources.one("node", name=call.query.node)
        node_id = node_id or (row["id"] if row else UUID(int=0))
    rows = await call.context.resources.list("vm", filtered(call, "vm", node_id=node_id))
    return listed(call, "vm", rows, lambda r: vm_shown(call, r))


@answers(openapi.Resource)
async def show_vm(call: ApiCall) -> Answer:
    """Show a VM."""
    row = await seen_vm(call)
    return Answer(
        body=vm_shown(call, row),
        etag=etag_of(row) + ("" if row["silent_s"] and row["silent_s"] < node.SILENT_AFTER_S else ".unknown"),
    )


async def seen_vm(call: ApiCall) -> Record:
    vm_id, name = await meant(call, "vm", call.params["vm"])
    row = await call.context.resources.one("vm", project_id=project_of(call), object_id=vm_id, name=name)
    if row is None:
        raise _no_vm(call)
    return row


def _no_vm(call: ApiCall) -> errors.NotFound:
    where = " --as operator" if is_operator(call) else ""
    return errors.NotFound(f"There is no VM '{call.params['vm'][:80]}'.", fix=f"See 'nubila vm list{where}'.")


async def create_vm(call: ApiCall) -> Answer:
    """Create a VM."""
    c, body = call.context, call.body
    assert isinstance(body, VmCreate)
    project_id = call.principal.project_id
    assert project_id is not None
    sealed = None
    if body.user_data is not None:
        secret_id = c.carrier.mint()
        nonce, box = c.vault.seal(str(secret_id), body.user_data.encode(), c.random_bytes(12))
        sealed = sealed_user_data(secret_id, nonce.hex(), box.hex(), body.user_data)

    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        networks = None if body.networks is None else _split("network", body.networks)
        nodes = await c.fleet.snapshot()
        view = await c.vms.create_view(
            project_id,
            name=body.name,
            flavor=_ref("flavor", body.flavor),
            image=_ref("image", body.image),
            networks=networks,
            keys=_split("keypair", body.keys),
            random=c.random_ints(62, 16),
            crowding=not all(n.overlapping_ranges for n in nodes.rows),
        )
        seed, entropy = c.random_int(32), c.random_ints(40, 8)
        asked = asking(view["now"])
        outcome = create(body, view, nodes, asked, seed=seed, sealed=sealed, entropy=entropy)
        if isinstance(outcome, errors.NoCapacity) and outcome.inside is not None:
            # Final only after a look at the rows themselves; then it is kept, with its numbers.
            nodes = await c.fleet.snapshot(fresh=True)
            outcome = create(body, view, nodes, asked, seed=seed, sealed=sealed, entropy=entropy)
            if isinstance(outcome, errors.NoCapacity) and outcome.inside is not None:
                await c.carrier.ledger.refusal(c.carrier.mint(), project_id, outcome.inside.encode())
        return outcome

    return await carried(call, "vm.create", attempt, shown_vm)


def _ref(kind: str, value: Reference) -> tuple[str, UUID | None]:
    return value, parse(kind, value)


def _split(kind: str, refs: list[Reference]) -> tuple[list[str], list[UUID]]:
    parsed = [(r, parse(kind, r)) for r in refs]
    return [r for r, i in parsed if i is None], [i for _, i in parsed if i is not None]


async def viewed(call: ApiCall) -> dict[str, Any]:
    """The vm with all that its verbs decide on. Raises NotFound and PreconditionFailed."""
    vm_id, name = await meant(call, "vm", call.params["vm"])
    view = await call.context.vms.one_view(project_of(call), vm_id, name or "")
    if view is None:
        raise _no_vm(call)
    matching(call, view["vm"])
    return view


async def verb_on(call: ApiCall, permission: str, verb: Callable[[verbs.View, Asking], Outcome]) -> Answer:
    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        view = await viewed(call)
        return verb(view, asking(view["now"]))

    return await carried(call, permission, attempt, shown_vm)


async def change_vm(call: ApiCall) -> Answer:
    """Change a VM's name, labels, crash policy, protection or size."""
    body: verbs.VmChange = call.body
    if not vm_size.resized(body):
        return await verb_on(call, "vm.change", lambda view, asking: verbs.change(body, view, asking))

    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        view = await viewed(call)
        size = await call.context.vms.size_view(view["vm"], _ref("flavor", body.flavor or ""))
        return vm_size.resize(body, {**view, **size}, asking(view["now"]))

    return await carried(call, "vm.change", attempt, shown_vm)


async def start_vm(call: ApiCall) -> Answer:
    """Start a VM."""
    return await verb_on(call, "vm.start", verbs.start)


async def stop_vm(call: ApiCall) -> Answer:
    """Stop a VM: cleanly (guest agent, then ACPI, then at the timeout by force), or hard."""
    return await verb_on(call, "vm.stop", lambda view, asking: verbs.stop(call.body, view, asking))


async def reboot_vm(call: ApiCall) -> Answer:
    """Reboot a VM: asks the guest, and resets it at the timeout."""
    return await verb_on(call, "vm.reboot", lambda view, asking: verbs.reboot(call.body, view, asking))


async def remove_vm(call: ApiCall) -> Answer:
    """Remove a VM with the disks that were made for it."""
    return await verb_on(call, "vm.remove", verbs.remove)


async def console(call: ApiCall) -> Answer:
    """The last output of a VM's serial console, as plain text."""
    row = await seen_vm(call)
    c = call.context
    question = c.carrier.mint()
    await c.nodes.ask(question, row["node_id"], row["id"], "console", call.query.bytes)
    until = time.monotonic() + CONSOLE_WAIT_S
    c.notifier.tell([f"node:{row['node_id']}"])
    while (left := until - time.monotonic()) > 0 and not (call.departed or call.gate.stopping):
        expected = c.hub.expect(f"question:{question}")
        answer = await c.nodes.answered(question)
        if answer is not None:
            expected.close()
            if answer["error"]:
                raise errors.Conflict(f"The console cannot be read: {answer['error']}.")
            return Answer(body=(answer["answer"] or b"").decode("utf-8", "replace"), media="text/plain; charset=utf-8")
        await call.until(expected.wait(min(left, CLOCK_S)), min(left, CLOCK_S) + 0.1)
    raise errors.Transient(
        "The VM's node did not answer in time.",
        fix="See 'last_report_age_s' of the VM; repeat the request when its node is back.",
    )


async def placement(call: ApiCall) -> Answer:
    """Why the VM is where it is: the decision as it was made."""
    row = await seen_vm(call)
    made = await call.context.vms.decision(row["id"])
    if made is None:
        raise errors.NotFound("No decision is stored for this VM.")
    answer = msgspec.json.decode(made["answer"])
    if not is_operator(call):
        request = {
            k: v for k, v in answer["request"].items() if k not in ("seed", "crowded")
        }  # of nodes they know nothing
        answer = {"request": request, "placed": True}
    return Answer(body={"vm_id": text("vm", row["id"]), "decided_at": made["created_at"], **answer})
