"""What a node's report on a vm changes of its ports: what is plugged, what is gone, and what may be others' now. Pure.

Addresses are given back here, and only by the node's word: a port's when its tap is no more, a single one when the rules
of its port let none of it through.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from nubila.intent import operation_report
from nubila.intent.asking import builtins
from nubila.model import network, operation
from nubila.model.draft import Draft, Row
from nubila.model.ids import text
from nubila.protocol import PortReport, VmReport

View = dict[str, Any]


def apply(report: VmReport, view: View, draft: Draft, now: datetime) -> bool:
    """Add to the draft what this report changes; False when nothing does."""
    newest = report.generation >= view["vm"]["generation"]  # a changed port is a change of its vm
    active = set(report.ports_active)
    told = {p.port_id: p for p in report.ports}
    gone = {(p.port_id, p.epoch) for p in report.ports_gone}
    touched = False
    for row in view["ports"]:
        typed = text("port", UUID(row["id"]))
        if row["spec"].get("gone") and (typed, row["epoch"]) in gone:
            give_back(row, view, draft, now)
            draft.wakes(UUID(row["node_id"]), UUID(row["vm_id"]))  # its wish has nothing of it any more
            touched = True
            continue
        seen = told.get(typed)
        if seen is None:  # of an older agent, or of a vm that is off and has none yet
            seen = PortReport(port_id=typed, epoch=row["epoch"], held=typed in active)
        if seen.epoch == row["epoch"]:
            touched |= _seen(seen, row, typed in active, newest, view, draft, now)
    return touched


def _seen(told: PortReport, row: Row, active: bool, newest: bool, view: View, draft: Draft, now: datetime) -> bool:
    before = network.PortStatus() if row["status"] is None else msgspec.convert(row["status"], network.PortStatus)
    settled = told.held and newest and not row["spec"].get("gone")
    if not settled and not (told.held and row["state"] == network.PortState.PENDING) and told.reason == before.reason:
        return False
    status = msgspec.structs.replace(before, reason=told.reason)
    columns: Row = {}
    if told.held:
        status = network.PortStatus(active=active, held=True, reason=told.reason)
        if active and row["state"] == network.PortState.PENDING:
            columns["state"] = network.PortState.ACTIVE.value
        if settled or columns:
            columns["observed_generation"] = row["generation"]
    columns = {k: v for k, v in columns.items() if v != row[k]}
    if status != before or row["status"] is None:
        columns["status"] = builtins(status)
    touched = bool(columns)
    if columns:
        draft.changes("port", row, version=True, **columns)
    if settled:
        touched |= _free(row, view, draft)
    observed = row["generation"] if settled else row["observed_generation"]
    return _follow(row, view, "ready", observed, told.reason, draft, now) or touched


def _free(row: Row, view: View, draft: Draft) -> bool:
    """What was unassigned and whose end the node has confirmed."""
    going = row["spec"].get("leaving", ())
    found = [a for a in view["addresses"] if a["port_id"] == row["id"] and a["address"] in going]
    for a in found:
        draft.deletes("address", network_id=a["network_id"], address=a["address"])
    if found:
        draft.changes_groups(members=row["group_ids"])
        draft.wakes(UUID(row["node_id"]), UUID(row["vm_id"]))
    return bool(found)


def give_back(row: Row, view: View, draft: Draft, now: datetime) -> None:
    """All that a port had: nothing of it is left on its node."""
    for a in view["addresses"]:
        if a["port_id"] == row["id"]:
            draft.deletes("address", network_id=a["network_id"], address=a["address"])
    draft.changes(
        "port", row, version=True, state=network.PortState.REMOVED.value, removed_at=now,
        observed_generation=row["generation"],
    )  # fmt: skip
    draft.changes_groups(members=row["group_ids"])
    _follow(row, view, "removed", row["generation"], None, draft, now)


def _follow(row: Row, view: View, state: str, observed: int, reason: str | None, draft: Draft, now: datetime) -> bool:
    touched = False
    for op in view["port_operations"]:
        if op["resource_id"] != row["id"]:
            continue
        wished = msgspec.convert(op["spec"], operation.Spec)
        becomes = operation.state(
            wished, was=operation.State(op["state"]), resource_state=state, observed_generation=observed, counted=None,
            wished="ready",
        )  # fmt: skip
        if state == "removed" and becomes not in operation.TERMINAL:
            becomes, reason = operation.State.OVERTAKEN, "the port is gone"
        before = operation_report.status_of(op)
        after = msgspec.structs.replace(before, reason=None if becomes is operation.State.DONE else reason)
        touched |= operation_report.write(op, becomes, before, after, draft, now)
    return touched
