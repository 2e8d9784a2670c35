"""Who asks, and with which ids and moment: everything that a pure intent would otherwise take from the outside."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from nubila.errors import NubilaError
from nubila.model import operation
from nubila.model.draft import Draft, Drafted, Row
from nubila.model.ids import Mint, text

Outcome = Drafted | NubilaError


class Asking(msgspec.Struct, frozen=True, kw_only=True):
    """One request. `now` is the database's; `mint` gives ids; `entropy` gives 64 random bits at each call."""

    actor: str
    request: str
    now: datetime
    mint: Mint
    project_id: UUID | None = None  # None: an operator
    account_id: UUID | None = None
    operator: bool = False
    reason: str = ""

    def draft(self) -> Draft:
        return Draft(actor=self.actor, request=self.request, reason=self.reason)


def stamp(moment: datetime) -> str:
    """A moment as every answer writes it: UTC, ending in Z."""
    return str(msgspec.to_builtins(moment))


def builtins(struct: Any) -> Any:
    """A struct as the JSON values that a row holds."""
    return msgspec.to_builtins(struct)


def wish(
    asking: Asking,
    draft: Draft,
    verb: operation.Verb,
    *,
    kind: str,
    row: Row,
    generation: int,
    count: int | None = None,
    stood: int | None = None,
    deadline_s: float | None = None,
) -> Row:
    """Write the operation that follows one wish put to a resource on a node."""
    seconds = operation.DEADLINE_S[verb] if deadline_s is None else deadline_s
    spec = operation.Spec(
        verb=verb,
        resource_kind=kind,
        resource_id=text(kind, row["id"] if isinstance(row["id"], UUID) else UUID(row["id"])),
        resource_name=row["name"],
        generation=generation,
        count=count,
        stood=stood,
        deadline_s=seconds,
    )
    return draft.inserts(
        "operation",
        id=asking.mint(),
        project_id=row["project_id"],
        name=f"{verb.value} {kind} {row['name']}",
        spec=builtins(spec),
        generation=1,
        state=operation.State.WAITING.value,
        resource_kind=kind,
        resource_id=row["id"],
        node_id=row["node_id"],
        deadline_at=datetime.fromtimestamp(asking.now.timestamp() + seconds, asking.now.tzinfo),
    )


def next_number(wished: int, row: Row, counter: str) -> int:
    """The number of a wish that is counted: never one that was given before.

    A cancel goes back to the number that stood before, though the node may have done the cancelled one and not said so:
    given again, it would be taken for done. The generation grows with every wish and never goes back, so it is the number."""
    done: int = (row["status"] or {}).get(counter, 0)
    generation: int = row["generation"]
    return max(wished, done, generation) + 1


def end_operation(asking: Asking, draft: Draft, row: Row, state: operation.State, reason: str) -> None:
    """An operation whose wish no longer stands ends here, with the reason."""
    status = {**(row["status"] or {}), "reason": reason}
    draft.updates("operation", {"id": row["id"]}, state=state.value, status=status, ended_at=asking.now)
