"""Operations and plans: list, show, wait, why, cancel; show, apply, discard."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from nubila import errors
from nubila.api.context import (
    ApiCall,
    Context,
    answered,
    carried,
    etag_of,
    filtered,
    found,
    is_operator,
    listed,
    project_of,
    ref,
    seen,
    wait_for_operation,
)
from nubila.api.route import Answer, answers
from nubila.intent import image as images
from nubila.intent import image_from
from nubila.intent import operation as intent
from nubila.intent import port_wish as port_intent
from nubila.intent import volume_cancel as volume_intent
from nubila.intent.asking import Asking, Outcome
from nubila.intent.carry import Caller, Done
from nubila.model import operation, why
from nubila.model.draft import Row
from nubila.model.ids import parse, text
from nubila.represent import json, openapi
from nubila.store.database import Record

FOLLOWED = ("vm", "volume", "snapshot", "port")  # kinds that operations are about


class OperationQuery(msgspec.Struct, frozen=True):
    state: str | None = None
    resource: str | None = None


def operation_shown(call: ApiCall, row: Record) -> dict[str, Any]:
    extras: dict[str, Any] = {
        "resource_kind": row["resource_kind"],
        "resource_id": text(row["resource_kind"], row["resource_id"]),
        "deadline_at": row["deadline_at"],
        "ended_at": row["ended_at"],
    }
    if is_operator(call) and row["node_id"] is not None:
        extras["node_id"] = text("node", row["node_id"])
    return json.resource("operation", row, viewer=call.viewer, **extras)


@answers(openapi.Listing)
async def list_operations(call: ApiCall) -> Answer:
    """List operations, oldest first."""
    resource_id = None
    if call.query.resource is not None:
        resource_id = next((i for k in FOLLOWED if (i := parse(k, call.query.resource)) is not None), None)
        if resource_id is None:
            raise errors.Invalid(
                "'resource' must be the id of a VM, a port, a volume or a snapshot.", field="resource", where="query"
            )
    rows = await call.context.resources.list("operation", filtered(call, "operation", resource_id=resource_id))
    return listed(call, "operation", rows, lambda r: operation_shown(call, r))


@answers(openapi.Resource)
async def show_operation(call: ApiCall) -> Answer:
    """Show an operation; with ?wait= once it has ended, or when the time is over."""
    operation_id, _ = ref("operation", call.params["operation"])
    row = await wait_for_operation(call, operation_id) if operation_id is not None and call.wait_s > 0 else None
    row = row or await seen(call, "operation", call.params["operation"])
    return Answer(body=operation_shown(call, row), etag=etag_of(row))


async def why_operation(call: ApiCall) -> Answer:
    """Why an operation has not ended: what it waits for, since when, until when, and what a cancel would do."""
    row = await seen(call, "operation", call.params["operation"])
    spec = msgspec.json.decode(row["spec"], type=operation.Spec)
    status = None if row["status"] is None else msgspec.json.decode(row["status"], type=operation.Status)
    c: Context = call.context
    about = await c.resources.one(row["resource_kind"], object_id=row["resource_id"], removed=True)
    of_image = spec.resource_kind == "image"
    reason = None
    if about is not None and about["status"] is not None:
        reason = msgspec.json.decode(about["status"]).get("reason")
    host = None if row["node_id"] is None else await c.resources.one("node", object_id=row["node_id"])
    body = why.explain(
        dict(row),
        spec,
        status,
        vm_state=about["state"] if about else None,
        vm_reason=reason,
        silent_s=0.0 if of_image else host["silent_s"] if host else None,
        now=await c.accounts.now(),
        node_name=host["name"] if host and is_operator(call) else None,
        cancel_means=images.CANCELLING if of_image else intent.cancelling(spec),
        parked=await _parked(call, row),
    )
    return Answer(body=body)


async def _parked(call: ApiCall, row: Record) -> why.Parked | None:
    found = await call.context.work.parked([row["id"], row["resource_id"]], 1)
    if not found:
        return None
    reason, now = found[0]["reason"], found[0]["now"]
    return why.Parked(
        reason=reason if is_operator(call) else None,
        since_s=(now - found[0]["since"]).total_seconds(),
        again_in_s=(found[0]["until"] - now).total_seconds(),
    )


async def cancel_operation(call: ApiCall) -> Answer:
    """Cancel an operation. Always legal; the answer says what it means."""
    await seen(call, "operation", call.params["operation"])

    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        op = await found(call, "operation", call.params["operation"], project_id=project_of(call))
        if op["resource_kind"] in ("volume", "snapshot"):
            return await _cancel_volume(call, op, asking)
        if op["resource_kind"] == "port":
            return await _cancel_port(call, op, asking)
        if op["resource_kind"] == "image":
            row = await call.context.resources.whole("image", object_id=UUID(op["resource_id"]))
            if row is not None and row["state"] == "pending" and op["ended_at"] is None:
                cancelled = images.cancel(row, op, asking(await call.context.accounts.now()))
                source = await call.context.image_rows.source(row)
                cancelled.hints += image_from.let_go(cancelled.draft, source, text("image", UUID(row["id"])))
                return cancelled
        view = await call.context.vms.one_view(None, UUID(op["resource_id"]), "")
        now = view["now"] if view is not None else await call.context.accounts.now()
        return intent.cancel(op, view, asking(now))

    async def show(call: ApiCall, done: Done) -> dict[str, Any]:
        row = await call.context.resources.one("operation", object_id=done.refers["operation"])
        assert row is not None
        return {"operation": operation_shown(call, row)}

    return await carried(call, "operation.cancel", attempt, show)


async def _cancel_volume(call: ApiCall, op: Row, asking: Callable[[datetime], Asking]) -> Outcome:
    c = call.context
    volume_id = UUID(op["resource_id"])
    if op["resource_kind"] == "snapshot":
        row = await c.resources.whole("snapshot", object_id=volume_id)
        volume_id = volume_id if row is None else UUID(row["volume_id"])
    view = await c.volumes.one_view(None, volume_id, "")
    return volume_intent.cancel(op, view, asking(view["now"] if view is not None else await c.accounts.now()))


async def _cancel_port(call: ApiCall, op: Row, asking: Callable[[datetime], Asking]) -> Outcome:
    c = call.context
    port = await c.resources.whole("port", object_id=UUID(op["resource_id"]))
    view = None if port is None else await c.vms.one_view(None, UUID(port["vm_id"]), "")
    return port_intent.cancel(op, port, view, asking(view["now"] if view is not None else await c.accounts.now()))


# --- plans


async def show_plan(call: ApiCall) -> Answer:
    """Show one of your plans that is neither applied nor older than 15 minutes."""
    row = await call.context.carrier.ledger.plan(call.ids["plan"], call.principal.actor)
    if row is None:
        raise errors.NotFound(
            "There is no such plan: it was applied, discarded, is older than 15 minutes, or is not yours."
        )
    return Answer(
        body={**msgspec.json.decode(row["shown"]), "created_at": row["created_at"], "expires_at": row["expires_at"]}
    )


async def list_plans(call: ApiCall) -> Answer:
    """List your plans that can still be applied."""
    rows = await call.context.carrier.ledger.plans(call.principal.actor)
    items = [
        {**msgspec.json.decode(r["shown"]), "created_at": r["created_at"], "expires_at": r["expires_at"]} for r in rows
    ]
    return Answer(body={"items": items, "next": None})


async def discard_plan(call: ApiCall) -> Answer:
    """Discard a plan."""
    if not await call.context.carrier.ledger.drop_plan(call.ids["plan"], call.principal.actor):
        raise errors.NotFound(
            "There is no such plan: it was applied, discarded, is older than 15 minutes, or is not yours."
        )
    return Answer(status=204)


async def apply_plan(call: ApiCall) -> Answer:
    """Apply a plan: exactly what it showed, or 409 with what changed since."""
    p = call.principal
    caller = Caller(
        actor=p.actor,
        request=call.request_id,
        action="plan.apply",
        fingerprint=call.fingerprint,
        project_id=p.project_id,
        account_id=p.account_id,
        operator=is_operator(call),
        idempotency_key=call.idempotency_key,
    )
    done = await call.context.carrier.apply(caller, call.ids["plan"])
    return await answered(call, done, shown_any)


async def shown_any(call: ApiCall, done: Done) -> dict[str, Any]:
    """Whatever kind the plan was about: each object it refers to, under its noun."""
    from nubila.api.noun.shown import one_shown

    return {
        kind: await one_shown(call, kind, object_id) for kind, object_id in done.refers.items() if object_id is not None
    }
