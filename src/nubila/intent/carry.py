"""The generic commit of any intent: replay, draft, plan or commit, with up to three new drafts when a claim is lost.

This is the only way anything is changed. A plain call is draft + commit; a plan is the stored draft; apply is the commit
of exactly that draft. Called by the APIs' handlers and by the reconcile loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from nubila import errors
from nubila.fleet.fleet import Fleet
from nubila.intent import planned, refusing
from nubila.intent.asking import Asking, Outcome, stamp
from nubila.model.draft import Draft, Drafted, Row
from nubila.model.ids import Mint, parse, text
from nubila.model.shapes import TENANT_KINDS
from nubila.store.database import Database, Retry
from nubila.store.ledger import Ledger
from nubila.store.notify import Notifier

DRAFTS = 4  # the first and up to three more

Attempt = Callable[[Callable[[datetime], Asking]], Awaitable[Outcome]]

# kinds that tenants may not learn of, not even from what changed
_HIDDEN = frozenset({"node", "inventory", "allocation", "node_seen", "plan"})


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who calls, and how this call wants to be carried out."""

    actor: str
    request: str
    action: str  # the route's permission, for the call's row
    fingerprint: str = ""
    project_id: UUID | None = None
    account_id: UUID | None = None
    operator: bool = False
    idempotency_key: str | None = None
    plan: bool = False
    reason: str = ""


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """It is committed. `refers` names what to show: kind -> id."""

    status: int
    refers: dict[str, UUID | None]
    secret: dict[str, str] = {}
    replayed: bool = False
    rows: dict[str, Row] = {}  # kind -> what a reader would find now; saves reading it


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing is changed; this is the plan."""

    shown: dict[str, Any]


class Carrier:
    """One per process. `mint` makes ids from this process's clock and randomness."""

    def __init__(self, database: Database, notifier: Notifier, fleet: Fleet, mint: Mint):
        self.database = database
        self.ledger = Ledger(database)
        self.notifier = notifier
        self.fleet = fleet
        self.mint = mint

    async def carry(self, caller: Caller, attempt: Attempt) -> Done | Planned:
        if caller.plan:
            return await self._plan(caller, await self._attempt(caller, attempt))
        if (done := await self._replay(caller)) is not None:
            return done
        try:
            return await self._drafted_anew(caller, attempt)
        except errors.NubilaError:
            # The same call may have been carried out meanwhile by another connection: then this is its answer.
            if (done := await self._replay(caller)) is not None:
                return done
            raise

    async def _drafted_anew(self, caller: Caller, attempt: Attempt) -> Done:
        """Draft and commit; when somebody took a claim first, draft again, up to three times."""
        for n in range(DRAFTS):
            try:
                return await self._commit(caller, await self._attempt(caller, attempt))
            except Retry as e:
                if e.claim == "idempotency" or n == DRAFTS - 1 or _users(e):
                    raise await self._stale(caller, e) from e
                self.fleet.outdated()
        raise AssertionError("unreachable")

    async def apply(self, caller: Caller, plan_id: UUID) -> Done:
        """Commit the stored draft, unchanged, once. Raises Stale with 'was / is now' when its facts no longer hold."""
        if (done := await self._replay(caller)) is not None:
            return done
        row = await self.ledger.plan(plan_id, caller.actor)
        if row is None:
            raise errors.NotFound(
                "There is no such plan: it was applied, discarded, is older than 15 minutes, or is not yours.",
                fix="Plan again.",
            )
        kept = msgspec.json.decode(row["draft"], type=_Kept)
        kept.draft.request, kept.draft.actor = caller.request, caller.actor
        kept.draft.facts.setdefault("plan", []).append({"id": plan_id, "w": 2})
        kept.draft.deletes("plan", id=plan_id)
        refers = {k: None if v is None else parse(k, v) for k, v in kept.refers.items()}
        drafted = Drafted(draft=kept.draft, status=kept.status, refers=refers, hints=kept.hints)
        try:
            return await self._commit(caller, drafted)
        except Retry as e:
            raise await self._stale(caller, e) from e

    async def _attempt(self, caller: Caller, attempt: Attempt) -> Drafted:
        def asking(now: datetime) -> Asking:
            return Asking(
                actor=caller.actor,
                request=caller.request,
                now=now,
                mint=self.mint,
                project_id=caller.project_id,
                account_id=caller.account_id,
                operator=caller.operator,
                reason=caller.reason or caller.action,  # a verb says why, unless somebody says more
            )

        outcome = await attempt(asking)
        if isinstance(outcome, errors.NubilaError):
            raise outcome
        return outcome

    async def _commit(self, caller: Caller, drafted: Drafted) -> Done:
        draft = drafted.draft
        if draft.is_empty():
            # What was wished is so already; perhaps by this same call, carried out meanwhile for another connection.
            if (done := await self._replay(caller)) is not None:
                return done
            return Done(status=drafted.status, refers=drafted.refers, secret=drafted.secret)
        kind, object_id = next(iter(drafted.refers.items()), (None, None))
        draft.inserts(
            "call",
            id=self.mint(),
            actor=caller.actor,
            project_id=caller.project_id,
            request=caller.request,
            action=caller.action,
            outcome="accepted",
            kind=kind,
            object_id=object_id,
        )
        if caller.idempotency_key is not None:
            draft.inserts(
                "idempotency",
                principal=caller.actor,
                key=caller.idempotency_key,
                request_sha256=caller.fingerprint,
                status=drafted.status,
                answer={k: None if v is None else text(k, v) for k, v in drafted.refers.items()},
            )
        at = await self.database.commit(draft)
        self.notifier.tell(list(dict.fromkeys([*drafted.hints, *(f"node:{n}" for n in draft.woken)])))
        rows = {kind: {**row, "created_at": at, "updated_at": at} for kind, row in drafted.rows.items()}
        return Done(status=drafted.status, refers=drafted.refers, secret=drafted.secret, rows=rows)

    async def _replay(self, caller: Caller) -> Done | None:
        """What this call answered before, if its key was used; raises KeyReused for another request under that key."""
        if caller.idempotency_key is None:
            return None
        row = await self.ledger.replay(caller.actor, caller.idempotency_key)
        if row is None:
            return None
        if row["request_sha256"] != caller.fingerprint:
            raise errors.KeyReused()
        answer: dict[str, str | None] = msgspec.json.decode(row["answer"])
        return Done(
            status=row["status"],
            refers={k: None if v is None else parse(k, v) for k, v in answer.items()},
            replayed=True,
        )

    async def _plan(self, caller: Caller, drafted: Drafted) -> Planned:
        plan_id = self.mint()
        effects = [
            {**msgspec.to_builtins(e), "details": {**e.details, **(e.operator_details if caller.operator else {})}}
            for e in drafted.effects
        ]
        for e in effects:
            del e["operator_details"]
        facts = [
            {"kind": kind, "id": text(kind, _uuid(f["id"])), "generation": f.get("g")}
            for kind, rows in drafted.draft.facts.items()
            if caller.operator or kind not in _HIDDEN
            for f in rows
        ]
        shown: dict[str, Any] = {
            "id": text("plan", plan_id),
            "kind": "plan",
            "action": caller.action,
            "effects": effects,
            "rows": planned.rows(drafted.draft, None if caller.operator else TENANT_KINDS),
            "facts": facts,
            "quota_left": await self._quota_left(drafted.draft),
            "answer": {k: None if v is None else text(k, v) for k, v in drafted.refers.items()},
        }
        kept = _Kept(draft=drafted.draft, status=drafted.status, refers=shown["answer"], hints=drafted.hints)
        row = await self.ledger.keep_plan(plan_id, caller.actor, msgspec.json.encode(kept).decode(), shown)
        await self.ledger.call(
            self.mint(),
            actor=caller.actor,
            project_id=caller.project_id,
            request=caller.request,
            action=caller.action,
            outcome="planned",
            kind="plan",
            object_id=plan_id,
        )
        return Planned(shown={**shown, "created_at": stamp(row["now"]), "expires_at": stamp(row["expires_at"])})

    async def _quota_left(self, draft: Draft) -> dict[str, Any]:
        left: dict[str, Any] = {}
        for project_id in {q["p"] for q in draft.quota}:
            for row in await self.ledger.quota(_uuid(project_id)):
                asked = sum(q["a"] for q in draft.quota if q["p"] == project_id and q["c"] == row["class"])
                left[row["class"]] = {
                    "limit": row["amount"],
                    "used": row["used"],
                    "after": row["amount"] - row["used"] - asked,
                }
        return left

    async def _stale(self, caller: Caller, lost: Retry) -> errors.Conflict:
        """What changed, as far as the caller may see it; for a removal, who uses what was to be removed."""
        if users := _users(lost):
            used = users[0]
            named = await self.ledger.named([(used["kind"], used["id"])], None)
            rows = await self.ledger.named(
                [(u["user_kind"], u["user"]) for u in users], None if caller.operator else caller.project_id
            )
            return refusing.in_use(used["kind"], named[0]["name"] if named else "", rows, len(users), caller.operator)
        changed = []
        for c in lost.changed:
            if c["kind"] in _HIDDEN and not caller.operator:
                changed.append({"kind": "capacity", "was": "enough", "is_now": "not enough there: plan again"})
            else:
                shown = dict(c)
                if "id" in c and (known := _typed(c["kind"], c["id"])) is not None:
                    shown["id"] = known
                changed.append(shown)
        return errors.Stale(changed=changed)


class _Kept(msgspec.Struct):
    """A plan as it is stored."""

    draft: Draft
    status: int
    refers: dict[str, str | None]
    hints: list[str]


def _users(lost: Retry) -> list[dict[str, Any]]:
    """What a removal was refused for."""
    return [c for c in lost.changed if "user_kind" in c]


def _uuid(value: UUID | str) -> UUID:
    return value if isinstance(value, UUID) else UUID(value)


def _typed(kind: str, value: str) -> str | None:
    try:
        return text(kind, UUID(value))
    except (KeyError, ValueError):
        return None
