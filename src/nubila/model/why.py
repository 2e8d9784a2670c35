"""Why an operation has not ended: the chain of what is waited for, in words, with ages and deadlines. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from nubila.model import node, operation


class Wait(msgspec.Struct, frozen=True, kw_only=True):
    """One link: who waits for what, since when."""

    who: str
    waits_for: str
    since_s: float | None = None


class Parked(msgspec.Struct, frozen=True, kw_only=True):
    """Background work on it failed and rests. `reason` is operators'."""

    reason: str | None
    since_s: float
    again_in_s: float


class Why(msgspec.Struct, frozen=True, kw_only=True):
    operation: str
    state: str
    summary: str
    chain: tuple[Wait, ...]
    deadline_in_s: float | None  # None: it has ended
    overdue: bool
    can_cancel: bool
    cancel_means: str | None


def explain(
    op: dict[str, Any],
    spec: operation.Spec,
    status: operation.Status | None,
    *,
    vm_state: str | None,
    vm_reason: str | None,
    silent_s: float | None,
    now: datetime,
    node_name: str | None,
    cancel_means: str,
    parked: Parked | None = None,
) -> Why:
    """`node_name` None hides the node from the viewer."""
    where = "Nubila" if spec.resource_kind == "image" else f"node {node_name}" if node_name else "its node"
    age = (now - op["created_at"]).total_seconds()
    left = (op["deadline_at"] - now).total_seconds()
    ended = op["state"] in operation.TERMINAL
    if ended:
        chain: list[Wait] = []
        summary = f"It ended: {op['state']}" + (f" ({status.reason})" if status and status.reason else "") + "."
    else:
        doing = (status.doing if status else None) or f"reach the wished state (now: {vm_state})"
        who = f"{spec.verb.value} of {spec.resource_kind} {spec.resource_name}"
        wait, summary = _first(who, where, op["state"], doing, silent_s, age)
        chain = [wait]
        if vm_reason:
            chain.append(Wait(who=where, waits_for=vm_reason))
            summary += f" It says: {vm_reason}."
        if parked is not None:
            words = f"Nubila's own work on it, which failed and is tried again in {max(0.0, parked.again_in_s):.0f} s"
            chain.append(Wait(who=who, waits_for=words, since_s=parked.since_s))
            summary += f" It waits for {words}" + (f": {parked.reason}." if parked.reason else ".")
        if left < 0:
            summary += f" The deadline passed {-left:.0f} s ago; the work goes on, and operators were alarmed."
    return Why(
        operation=op["name"],
        state=op["state"],
        summary=summary,
        chain=tuple(chain),
        deadline_in_s=None if ended else round(left, 1),
        overdue=left < 0 and not ended,
        can_cancel=not ended and spec.verb is not operation.Verb.REMOVE,
        cancel_means=None if ended else cancel_means,
    )


def _first(who: str, where: str, state: str, doing: str, silent_s: float | None, age_s: float) -> tuple[Wait, str]:
    """What the operation itself waits for, as a link and as a sentence."""
    if silent_s is None or silent_s > node.SILENT_AFTER_S:
        heard = "was never heard from" if silent_s is None else f"was last heard from {silent_s:.0f} s ago"
        summary = f"It waits for {where}, which {heard}. It goes on by itself when the node is back."
        return Wait(who=who, waits_for=f"{where}, which {heard}", since_s=silent_s), summary
    if state == operation.State.WAITING:
        link = Wait(who=who, waits_for=f"{where} to take up the wish", since_s=age_s)
        return link, f"It waits for {where} to take up the wish."
    link = Wait(who=who, waits_for=f"{where} to {doing}", since_s=age_s)
    return link, f"{where[0].upper()}{where[1:]} is at work: {doing}."
