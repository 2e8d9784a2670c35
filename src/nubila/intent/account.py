"""Taking rights away: a user, an operator, a membership, a join token. Pure.

Whatever a right hung on goes in the same commit: with a membership the tokens for that project, with a user all of its
memberships and tokens. So a right that is given anew brings no old token back to life.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from nubila import errors
from nubila.intent.asking import Asking, Outcome, stamp
from nubila.model.draft import Draft, Drafted, Effect, Row
from nubila.model.ids import text


def remove_account(
    kind: str, row: Row, members: list[Row], tokens: list[Row], others: list[Row], asking: Asking
) -> Outcome:
    """`others`: further operators, one of whom must stay."""
    draft = asking.draft()
    if kind == "operator":
        if not others:
            return errors.Conflict(
                f"'{row['name']}' is the only operator: nobody could operate Nubila any more.",
                fix="Create another operator and a token for it first.",
            )
        draft.rests_on("operator", others[0], compare=False)  # two cannot remove each other at the same moment
    draft.removes(kind, row, state="removed", removed_at=asking.now, generation=row["generation"] + 1)
    effects = [Effect(action="remove", kind=kind, id=text(kind, UUID(row["id"])), name=row["name"])]
    for m in members:
        effects.append(_without_member(draft, m["project_id"], m["project"], row, m["role"]))
    effects += _without_tokens(draft, tokens, asking)
    return Drafted(draft=draft, status=200, refers={kind: UUID(row["id"])}, effects=effects)


def remove_member(project: Row, user: Row, present: str | None, tokens: list[Row], asking: Asking) -> Outcome:
    if present is None:
        return errors.NotFound(
            f"User '{user['name']}' is not a member of project '{project['name']}'.",
            fix=f"See 'nubila project members {project['name']}'.",
        )
    draft = asking.draft()
    draft.rests_on("project", project, compare=False)
    draft.rests_on("user", user, compare=False)
    effects = [_without_member(draft, project["id"], project["name"], user, present)]
    effects += _without_tokens(draft, [t for t in tokens if t["project_id"] == project["id"]], asking)
    refers: dict[str, UUID | None] = {"project": UUID(project["id"]), "user": UUID(user["id"])}
    return Drafted(draft=draft, status=200, refers=refers, effects=effects)


def remove_join_token(row: Row, asking: Asking) -> Outcome:
    """What lets a machine in goes; the row stays for those who ask about the past."""
    draft = asking.draft()
    draft.rests_on("join_token", row, compare=False)
    spec = {**row["spec"], "removed_at": stamp(asking.now)}
    draft.updates("join_token", {"id": row["id"]}, spec=spec)
    draft.deletes("credential", id=row["id"])
    ident = text("join_token", UUID(row["id"]))
    effect = Effect(action="remove", kind="join_token", id=ident, details={"used": row["used_at"] is not None})
    return Drafted(draft=draft, status=200, refers={"join_token": UUID(row["id"])}, effects=[effect])


def _without_member(draft: Draft, project_id: Any, project: str, user: Row, role: str) -> Effect:
    draft.deletes("member", project_id=project_id, user_id=user["id"])
    details = {"project": project, "role": {"was": role, "becomes": None}}
    return Effect(action="remove", kind="member", id=text("user", UUID(user["id"])), name=user["name"], details=details)


def _without_tokens(draft: Draft, tokens: list[Row], asking: Asking) -> list[Effect]:
    effects = []
    for t in tokens:
        draft.changes("token", t, state="removed", removed_at=asking.now, generation=t["generation"] + 1)
        draft.deletes("credential", id=t["id"])
        effects.append(Effect(action="remove", kind="token", id=text("token", UUID(t["id"])), name=t["name"]))
    return effects
