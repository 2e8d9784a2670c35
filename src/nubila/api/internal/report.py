"""A node's reports: one read, pure decisions, one write; read again when somebody was faster."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from nubila import errors, protocol
from nubila.api.context import ApiCall
from nubila.api.internal.wanted import refuse_session
from nubila.api.route import Answer
from nubila.intent import drift, image_from
from nubila.intent import report as intent
from nubila.intent import volume_report as volume_intent
from nubila.intent.asking import Asking
from nubila.model.draft import Draft
from nubila.model.ids import parse
from nubila.store.database import Retry
from nubila.store.drift import DriftStore

TRIES = 5


async def report(call: ApiCall) -> Answer:
    """What the node sees of its vms. Older than what is known, it is refused, each by name."""
    c = call.context
    node_id = call.principal.node_id
    assert node_id is not None
    body: protocol.Reports = call.body
    position = await c.nodes.position(node_id)
    refuse_session(position, body.session)
    assert position is not None
    call.context.heard.note(node_id, body.session, body.revision)
    if body.fabric_epoch != position["fabric_epoch"]:
        raise errors.Stale(
            "The report is of another fabric epoch.",
            changed=[{"kind": "fabric", "was": body.fabric_epoch, "is_now": position["fabric_epoch"]}],
        )
    if body.drifts is not None:
        await _ledger(call, node_id, body.drifts)
    if not body.vms and not body.volumes:
        return Answer(body=protocol.Reported(taken=0))
    refused = await _vms(call, node_id, body) if body.vms else []
    refused += await _volumes(call, node_id, body) if body.volumes else []
    for told_of in body.volumes:
        for export in told_of.exports:
            await _export(call, node_id, told_of.volume_id, export)
    told = len(body.vms) + len(body.volumes)
    return Answer(body=protocol.Reported(taken=told - len(refused), refused=tuple(refused)))


async def _vms(call: ApiCall, node_id: UUID, body: protocol.Reports) -> list[str]:
    reports = {i: r for r in body.vms if (i := parse("vm", r.vm_id)) is not None}

    async def drafted(draft: Draft) -> list[str]:
        return _draft(draft, await call.context.vms.reported_view(list(reports), node_id), reports)

    return await _written(call, drafted)


async def _volumes(call: ApiCall, node_id: UUID, body: protocol.Reports) -> list[str]:
    reports = {i: r for r in body.volumes if (i := parse("volume", r.volume_id)) is not None}

    async def drafted(draft: Draft) -> list[str]:
        refused = []
        for view in await call.context.volumes.reported_view(list(reports), node_id):
            report = reports[UUID(view["volume"]["id"])]
            if volume_intent.taken(report, view["volume"]) is not None:
                refused.append(report.volume_id)
            else:
                volume_intent.apply(report, view, draft, view["now"])
        return refused

    return await _written(call, drafted)


async def _export(call: ApiCall, node_id: UUID, volume_id: str, export: protocol.ExportReport) -> None:
    """How far the image is that the node makes of a volume; of one that is over nothing is written."""
    c, image_id = call.context, parse("image", export.image_id)

    async def drafted(draft: Draft) -> list[str]:
        row = None if image_id is None else await c.resources.whole("image", object_id=image_id)
        source = None if row is None else await c.image_rows.source(row)
        mine = source is not None and source["node_id"] == str(node_id) and row["spec"]["volume_id"] == volume_id  # type: ignore[index]
        if row is None or not mine:
            return []
        asking = Asking(
            actor=draft.actor, request=draft.request, now=await c.accounts.now(), mint=c.carrier.mint, operator=True
        )
        image_from.told(draft, row, source, await c.image_rows.operations(UUID(row["id"])), export, asking)
        return []

    await _written(call, drafted)


async def _written(call: ApiCall, drafted: Callable[[Draft], Awaitable[list[str]]]) -> list[str]:
    """Read, decide, write; again when somebody was faster. Vms and volumes one after the other, since both write the
    volumes' rows. Returns the ids whose reports are refused."""
    c = call.context
    for attempt in range(TRIES):
        draft = Draft(actor=call.principal.actor, request=call.request_id, reason="report")
        refused = await drafted(draft)
        if draft.is_empty():  # nothing differs from what is known
            return refused
        try:
            await c.database.commit(draft)
        except Retry:
            if attempt == TRIES - 1:
                raise
            continue
        ended = [f"op:{row['id']}" for row in draft.update.get("operation", ())]
        c.notifier.tell([*ended, *(f"node:{n}" for n in draft.woken)])
        return refused
    raise AssertionError("unreachable")


async def _ledger(call: ApiCall, node_id: UUID, found: Sequence[protocol.Drift]) -> None:
    """The node's drifts as they are now."""
    drifts, mint = DriftStore(call.context.database), call.context.carrier.mint

    async def drafted(draft: Draft) -> list[str]:
        rows, now = await drifts.open(node_id)
        drift.observe(rows, found, node_id, now, draft, mint)
        return []

    await _written(call, drafted)


def _draft(draft: Draft, views: list[dict[str, Any]], reports: dict[UUID, protocol.VmReport]) -> list[str]:
    """The rows that these reports change; returns the vms whose reports are refused. Unknown vms are taken as told."""
    refused = []
    for view in views:
        report = reports[UUID(view["vm"]["id"])]
        if intent.taken(report, view["vm"]) is not None:
            refused.append(report.vm_id)
            continue
        now: datetime = view["now"]
        intent.apply(report, view, draft, now)
    return refused
