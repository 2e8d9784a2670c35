"""Placement decisions: where VMs went and why, and what found no node. Operators only."""

from __future__ import annotations

from typing import Any

import msgspec

from nubila.api.context import ApiCall, after_of, listed
from nubila.api.route import Answer
from nubila.model.ids import text
from nubila.store.database import Record


class DecisionQuery(msgspec.Struct, frozen=True):
    """`refused`: only those that found no node, or only the others."""

    refused: bool | None = None


async def list_decisions(call: ApiCall) -> Answer:
    """List placement decisions, newest first: where VMs went and why, and what found no node and by how much."""
    after = after_of(call, "decision")
    rows = await call.context.carrier.ledger.decisions(after, call.query.refused, call.page.limit + 1)
    return listed(call, "decision", rows, _shown)


def _shown(row: Record) -> dict[str, Any]:
    return {
        "id": text("decision", row["id"]),
        "kind": "decision",
        "decided_at": row["created_at"],
        "project_id": text("project", row["project_id"]),
        "project": row["project_name"],
        "vm_id": None if row["vm_id"] is None else text("vm", row["vm_id"]),
        "node": row["node_name"],
        **msgspec.json.decode(row["answer"]),
    }
