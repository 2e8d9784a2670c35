"""What a node's report on a volume does to its operations, from rows and reports alone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from nubila.intent import volume_report
from nubila.intent.asking import builtins
from nubila.model import operation, volume
from nubila.model.draft import Draft
from nubila.model.ids import text
from nubila.protocol import VolumeReport

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def ended(*, settled: bool, job: bool = True) -> dict[str, Any]:
    """id -> state of the operations and attachments that are written when a roll-back was reported as done."""
    volume_id, op_id, node_id = str(uuid4()), str(uuid4()), str(uuid4())
    spec = volume.Spec(size_gib=2, rollbacks=1, rollback_to="s")
    wish = operation.Spec(
        verb=operation.Verb.ROLL_BACK, resource_kind="volume", resource_id=volume_id, resource_name="v", generation=2, count=1
    )  # fmt: skip
    row = {
        "id": volume_id, "version": 5, "generation": 2, "observed_generation": 1, "state": "ready", "node_id": node_id,
        "spec": builtins(spec), "status": builtins(volume.Status(ready=True, size_gib=2)),
    }  # fmt: skip
    held = {"id": str(uuid4()), "version": 1, "vm_id": None, "operation_id": op_id, "state": "active"}
    op = {
        "id": op_id, "name": "roll back v", "resource_id": volume_id, "state": "running", "spec": builtins(wish), "status": None,
    }  # fmt: skip
    view = {
        "volume": row, "operations": [op], "attachments": [held] if job else [], "snapshots": [], "allocations": [],
    }  # fmt: skip
    report = VolumeReport(
        volume_id=text("volume", uuid4()), epoch=1, generation=2, ready=True, rollbacks=1, size_gib=2, settled=settled
    )
    draft = Draft(actor="node:1", request="r", reason="report")
    volume_report.apply(report, view, draft, NOW)
    written = [*draft.update.get("operation", []), *draft.update.get("attachment", [])]
    return {r["id"]: r["state"] for r in written} | {"op": op_id, "held": held["id"]}


@pytest.mark.parametrize("job", [True, False])
def test_done_is_said_when_the_next_wish_is_taken(job: bool) -> None:
    """A roll-back to a smaller size has the volume grown again: until then its job holds it."""
    found = ended(settled=False, job=job)
    assert found.get(found["op"], "running") == ("running" if job else "done")
    assert found["held"] not in found
    found = ended(settled=True, job=job)
    assert found[found["op"]] == "done"
    assert found.get(found["held"]) == ("revoked" if job else None)


def test_what_was_ready_once_is_known_to_have_been_made_whatever_is_told_later() -> None:
    """It is what keeps a node that lost it from making it anew."""
    spec = volume.Spec(size_gib=2)
    row = {
        "id": str(uuid4()), "version": 5, "generation": 1, "observed_generation": 1, "state": "ready", "node_id": str(uuid4()),
        "spec": builtins(spec), "status": None,
    }  # fmt: skip
    view: dict[str, Any] = {"operations": [], "attachments": [], "snapshots": [], "allocations": []}
    told = []
    for ready, failing in ((False, False), (True, False), (False, True), (False, False)):
        report = VolumeReport(
            volume_id=text("volume", uuid4()), epoch=1, generation=1, ready=ready, failing=failing, size_gib=2
        )
        draft = Draft(actor="node:1", request="r", reason="report")
        volume_report.apply(report, {**view, "volume": row}, draft, NOW)
        row = {**row, **draft.update["volume"][0]} if draft.update else row
        status = msgspec.convert(row["status"], volume.Status)
        told.append((status.ready, status.made))
    assert told == [(False, False), (True, True), (False, True), (False, True)]
