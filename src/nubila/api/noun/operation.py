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
from nubila.api.route import Answer
from nubila.intent import operation as intent
from nubila.intent.asking import Asking, Outcome
from nubila.intent.carry import Caller, Done
from nubila.model import operation, why
from nubila.model.ids import parse, text
from nubila.represent import json
from nubila.store.database import Record


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


async def list_operations(call: ApiCall) -> Answer:
    """List operations, oldest first."""
    resource_id = None
    if call.query.resource is not None:
        resource_id = parse("vm", call.query.resource)
        if resource_id is None:
            raise errors.BadRequest("'resource' must be the id of a VM.")
    rows = await call.context.resources.list("operation", filtered(call, "operation", resource_id=resource_id))
    return listed(call, "operation", rows, lambda r: operation_shown(call, r))


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
    vm_row = await c.resources.one("vm", object_id=row["resource_id"], removed=True)
    reason = None
    if vm_row is not None and vm_row["status"] is not None:
        reason = msgspec.json.decode(vm_row["status"]).get("reason")
    body = why.explain(
        dict(row),
        spec,
        status,
        vm_state=vm_row["state"] if vm_row else None,
        vm_reason=reason,
        silent_s=vm_row["silent_s"] if vm_row else None,
        now=await c.accounts.now(),
        node_name=vm_row["node_name"] if vm_row and is_operator(call) else None,
        cancel_means=intent.CANCELLING[spec.verb],
    )
    return Answer(body=body)


async def cancel_operation(call: ApiCall) -> Answer:
    """Cancel an operation. Always legal; the answer says what it means."""
    await seen(call, "operation", call.params["operation"])

    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        op = await found(call, "operation", call.params["operation"], project_id=project_of(call))
        view = await call.context.vms.one_view(None, UUID(op["resource_id"]), "")
        now = view["now"] if view is not None else await call.context.accounts.now()
        return intent.cancel(op, view, asking(now))

    async def show(call: ApiCall, done: Done) -> dict[str, Any]:
        row = await call.context.resources.one("operation", object_id=done.refers["operation"])
        assert row is not None
        return {"operation": operation_shown(call, row)}

    return await carried(call, "operation.cancel", attempt, show)


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
