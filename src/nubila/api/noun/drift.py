"""Drifts: what nodes have and nobody wishes, or the reverse. Operators only."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from nubila import errors
from nubila.api.context import ApiCall, carried, filtered, found, listed, matching
from nubila.api.noun.operation import operation_shown
from nubila.api.noun.shown import SHOWN, one_shown
from nubila.api.noun.simple import showing
from nubila.api.route import Answer, answers
from nubila.intent import drift as intent
from nubila.intent.asking import Asking, Outcome
from nubila.intent.carry import Done
from nubila.model.drift import Cause
from nubila.model.ids import parse
from nubila.represent import openapi


class DriftQuery(msgspec.Struct, frozen=True):
    """Filters of the ledger."""

    name: str | None = None
    state: str | None = None
    label: list[str] = []
    node: str | None = None
    vm: str | None = None
    cause: Cause | None = None


Verb = Callable[[dict[str, Any], dict[str, Any] | None, Asking], Outcome]


@answers(openapi.Listing)
async def list_drifts(call: ApiCall) -> Answer:
    """List what differs on the nodes from what is wished, with since when and why."""
    more: dict[str, Any] = {"cause": call.query.cause.value if call.query.cause else None}
    if call.query.node is not None:
        node_id = parse("node", call.query.node)
        row = None if node_id else await call.context.resources.one("node", name=call.query.node)
        more["node_id"] = node_id or (row["id"] if row else UUID(int=0))
    if call.query.vm is not None:
        more["vm_id"] = parse("vm", call.query.vm)
        if more["vm_id"] is None:
            raise errors.Invalid("'vm' must be the id of a VM, such as 'vm-...'.", field="vm", where="query")
    rows = await call.context.resources.list("drift", filtered(call, "drift", **more))
    return listed(call, "drift", rows, lambda r: SHOWN["drift"](call, r))


async def repair_drift(call: ApiCall) -> Answer:
    """Have a node make a VM's domain as it is wished again."""
    return await _acted(call, "drift.repair", intent.repair)


async def adopt_drift(call: ApiCall) -> Answer:
    """Take what was seen over into the VM's wish."""
    return await _acted(call, "drift.adopt", intent.adopt)


async def ignore_drift(call: ApiCall) -> Answer:
    """Let a drift rest for a time."""
    return await _noted(call, lambda row, asking: intent.ignore(call.body, row, asking))


async def heed_drift(call: ApiCall) -> Answer:
    """End the ignoring of a drift."""
    return await _noted(call, intent.heed)


async def _noted(call: ApiCall, act: Callable[[dict[str, Any], Asking], Outcome]) -> Answer:
    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        row = await found(call, "drift", call.params["drift"])
        matching(call, row)
        return act(row, asking(await call.context.accounts.now()))

    return await carried(call, "drift.ignore", attempt, showing("drift"))


async def _acted(call: ApiCall, permission: str, act: Verb) -> Answer:
    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        row = await found(call, "drift", call.params["drift"])
        matching(call, row)
        vm_id = row["vm_id"]
        view = None if vm_id is None else await call.context.vms.one_view(None, UUID(vm_id), "")
        if view is not None:
            view |= await call.context.vms.size_view(view["vm"], ("", None))
        return act(row, view, asking(await call.context.accounts.now()))

    return await carried(call, permission, attempt, _shown)


async def _shown(call: ApiCall, done: Done) -> dict[str, Any]:
    drift_id, op_id = done.refers.get("drift"), done.refers.get("operation")
    out: dict[str, Any] = {}
    if drift_id is not None:
        out["drift"] = await one_shown(call, "drift", drift_id)
    if op_id is not None:
        op = await call.context.resources.one("operation", object_id=op_id)
        out["operation"] = None if op is None else operation_shown(call, op)
    return out
