"""Rights taken away and looked at: members of projects, users and operators that go, join tokens. Operators only."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from nubila import errors
from nubila.api.context import ApiCall, after_of, carried, found, listed, matching
from nubila.api.noun.simple import showing
from nubila.api.route import Answer, Handler
from nubila.intent import account as intent
from nubila.intent.asking import Asking, Outcome
from nubila.intent.carry import Done
from nubila.model.ids import text
from nubila.store.account import Rights
from nubila.store.database import Record


def account_remover(kind: str, words: str) -> Handler:
    async def handler(call: ApiCall) -> Answer:
        async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
            row = await found(call, kind, call.params[kind])
            matching(call, row)
            members, tokens, others = await Rights(call.context.database).of(kind, UUID(row["id"]))
            return intent.remove_account(kind, row, members, tokens, others, asking(await call.context.accounts.now()))

        return await carried(call, f"{kind}.remove", attempt, showing(kind))

    handler.__doc__ = f"Remove {words}, with its tokens and memberships."
    return handler


async def list_members(call: ApiCall) -> Answer:
    """List who may act in a project, and as what."""
    project = await found(call, "project", call.params["project"])
    rows = await call.context.accounts.members(UUID(project["id"]))
    return Answer(body={"items": [_member(r) for r in rows], "next": None})


def _member(row: Record) -> dict[str, Any]:
    return {"kind": "member", "user_id": text("user", row["id"]), "user": row["name"], "role": row["role"]}


async def remove_member(call: ApiCall) -> Answer:
    """Take a user's role in a project away, and with it the user's tokens for that project."""

    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        project = await found(call, "project", call.params["project"])
        user = await found(call, "user", call.params["user"])
        present = await call.context.accounts.role(UUID(project["id"]), UUID(user["id"]))
        _, tokens, _ = await Rights(call.context.database).of("user", UUID(user["id"]))
        return intent.remove_member(project, user, present, tokens, asking(await call.context.accounts.now()))

    async def show(call: ApiCall, done: Done) -> dict[str, Any]:
        project_id, user_id = done.refers["project"], done.refers["user"]
        assert project_id is not None
        assert user_id is not None
        return {"project_id": text("project", project_id), "user_id": text("user", user_id), "role": None}

    return await carried(call, "member.remove", attempt, show)


async def list_join_tokens(call: ApiCall) -> Answer:
    """List join tokens, used and unused, without their secrets."""
    after = after_of(call, "join_token")
    rows = await Rights(call.context.database).join_tokens(after, call.page.limit + 1)
    return listed(call, "join_token", rows, _join_token)


def _join_token(row: Record) -> dict[str, Any]:
    spec = msgspec.json.decode(row["spec"])
    spec.pop("key_sha256", None)
    state = "used" if row["used_at"] is not None else "expired" if row["expired"] else "open"
    return {
        "id": text("join_token", row["id"]),
        "kind": "join_token",
        "state": state,
        "spec": spec,
        "node": row["node_name"],
        "node_id": None if row["node_id"] is None else text("node", row["node_id"]),
        "created_at": row["created_at"],
        "expires_at": row["expires_at"],
        "used_at": row["used_at"],
    }


async def remove_join_token(call: ApiCall) -> Answer:
    """Remove a join token: no machine can join with it any more. A node that did stays."""

    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        row = await call.context.accounts.join_token(call.ids["join_token"])
        if row is None:
            raise errors.NotFound(
                f"There is no join token '{call.params['join_token']}'.", fix="See 'nubila join-token list'."
            )
        return intent.remove_join_token(msgspec.json.decode(row["token"]), asking(row["now"]))

    async def show(call: ApiCall, done: Done) -> dict[str, Any]:
        return {"id": call.params["join_token"], "kind": "join_token", "state": "removed"}

    return await carried(call, "join_token.remove", attempt, show)
