"""Nouns without a life on a host: list and show for all of them, and the writes of projects, users, tokens, keys, flavors."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from nubila import errors
from nubila.access import tokens
from nubila.api.context import (
    ApiCall,
    Show,
    carried,
    drafting,
    drafting_in_project,
    etag_of,
    filtered,
    found,
    is_operator,
    listed,
    matching,
    project_of,
    seen,
)
from nubila.api.noun.shown import SHOWN, one_shown
from nubila.api.route import Answer, Handler, answers
from nubila.intent import catalog as intent
from nubila.intent.asking import Asking, Outcome
from nubila.intent.carry import Done
from nubila.model.catalog import ProjectRole
from nubila.model.fields import Name
from nubila.model.ids import text
from nubila.represent import openapi

RANK = {ProjectRole.READER: 0, ProjectRole.MEMBER: 1, ProjectRole.OWNER: 2}


class ListQuery(msgspec.Struct, frozen=True):
    """Filters that every list has."""

    name: str | None = None
    state: str | None = None
    label: list[str] = []


def lister(kind: str, words: str, *, own: bool = False) -> Handler:
    """The list of a kind. `own`: only what the account itself made."""

    @answers(openapi.Listing)
    async def handler(call: ApiCall) -> Answer:
        more = {"account_id": call.principal.account_id} if own and not is_operator(call) else {}
        rows = await call.context.resources.list(kind, filtered(call, kind, **more))
        return listed(call, kind, rows, lambda r: SHOWN[kind](call, r))

    handler.__doc__ = f"List {words}."
    return handler


def shower(kind: str, words: str) -> Handler:
    @answers(openapi.Resource)
    async def handler(call: ApiCall) -> Answer:
        row = await seen(call, kind, call.params[kind])
        return Answer(body=SHOWN[kind](call, row), etag=etag_of(row))

    handler.__doc__ = f"Show {words}."
    return handler


def showing(kind: str) -> Show:
    """After a write: the object itself, as if it had been read."""

    async def show(call: ApiCall, done: Done) -> dict[str, Any]:
        object_id = done.refers[kind]
        assert object_id is not None
        return await one_shown(call, kind, object_id) or {}

    return show


def remover(kind: str, permission: str, words: str) -> Handler:
    async def handler(call: ApiCall) -> Answer:
        async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
            row = await found(call, kind, call.params[kind], project_id=project_of(call))
            matching(call, row)
            return intent.remove(kind, row, asking(await call.context.accounts.now()))

        answer = await carried(call, permission, attempt, showing(kind))
        return answer

    handler.__doc__ = f"Remove {words}; refused while it is used."
    return handler


async def create_project(call: ApiCall) -> Answer:
    """Create a project with the default quota."""
    return await carried(
        call, "project.create", drafting(call, lambda a: intent.create_project(call.body, a)), showing("project")
    )


async def change_project(call: ApiCall) -> Answer:
    """Rename, describe or suspend a project."""

    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        row = await found(call, "project", call.params["project"])
        matching(call, row)
        return intent.change_project(call.body, row, asking(await call.context.accounts.now()))

    return await carried(call, "project.change", attempt, showing("project"))


async def own_project(call: ApiCall) -> Answer:
    """Your project: your role in it, its members and its quota."""
    project_id = project_of(call)
    assert project_id is not None
    row = await call.context.resources.one("project", object_id=project_id)
    if row is None:
        raise errors.NotFound("Your project does not exist any more.")
    members = await call.context.accounts.members(project_id)
    return Answer(
        body={
            **SHOWN["project"](call, row),
            "role": call.principal.role,
            "members": [{"user": m["name"], "role": m["role"]} for m in members],
            "quota": await _quota(call, project_id),
        }
    )


async def _quota(call: ApiCall, project_id: UUID) -> dict[str, Any]:
    return {
        r["class"]: {"limit": r["amount"], "used": r["used"]}
        for r in await call.context.carrier.ledger.quota(project_id)
    }


async def show_quota(call: ApiCall) -> Answer:
    """Show a project's quota and what of it is used."""
    row = await found(call, "project", call.params["project"])
    return Answer(body={"project_id": text("project", UUID(row["id"])), "quota": await _quota(call, UUID(row["id"]))})


async def change_quota(call: ApiCall) -> Answer:
    """Set limits of a project, class by class."""

    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        row = await found(call, "project", call.params["project"])
        present = {
            r["class"]: [r["amount"], r["used"]] for r in await call.context.carrier.ledger.quota(UUID(row["id"]))
        }
        return intent.set_quota(call.body, row, present, asking(await call.context.accounts.now()))

    async def show(call: ApiCall, done: Done) -> dict[str, Any]:
        project_id = done.refers["project"]
        assert project_id is not None
        return {"project_id": text("project", project_id), "quota": await _quota(call, project_id)}

    return await carried(call, "quota.change", attempt, show)


async def create_user(call: ApiCall) -> Answer:
    """Create a user. It can do nothing before it is a member of a project and has a token."""
    return await carried(
        call, "user.create", drafting(call, lambda a: intent.create_account("user", call.body, a)), showing("user")
    )


async def change_user(call: ApiCall) -> Answer:
    """Suspend a user, or lift that."""

    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        row = await found(call, "user", call.params["user"])
        matching(call, row)
        return intent.change_user(call.body, row, asking(await call.context.accounts.now()))

    return await carried(call, "user.change", attempt, showing("user"))


async def create_operator(call: ApiCall) -> Answer:
    """Create an operator; a token for it is made by itself or by another operator."""
    return await carried(
        call,
        "operator.create",
        drafting(call, lambda a: intent.create_account("operator", call.body, a)),
        showing("operator"),
    )


async def set_member(call: ApiCall) -> Answer:
    """Give a user a role in a project."""

    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        project, user = (
            await found(call, "project", call.params["project"]),
            await found(call, "user", call.params["user"]),
        )
        present = await call.context.accounts.role(UUID(project["id"]), UUID(user["id"]))
        return intent.set_member(call.body, project, user, present, asking(await call.context.accounts.now()))

    async def show(call: ApiCall, done: Done) -> dict[str, Any]:
        project_id, user_id = done.refers["project"], done.refers["user"]
        assert project_id is not None
        assert user_id is not None
        return {"project_id": text("project", project_id), "user_id": text("user", user_id), "role": call.body.role}

    return await carried(call, "member.change", attempt, show)


async def create_user_token(call: ApiCall) -> Answer:
    """Create a token with which a user acts in one project. The secret is shown once."""
    user = await found(call, "user", call.params["user"])
    if call.body.project is None:
        raise errors.Invalid("A user's token needs a project.", field="project")
    project = await found(call, "project", call.body.project)
    present = await call.context.accounts.role(UUID(project["id"]), UUID(user["id"]))
    if present is None:
        raise errors.Conflict(
            f"User '{user['name']}' is not a member of project '{project['name']}'.",
            fix="Make it a member first: PUT /v1/projects/PROJECT/members/USER.",
        )
    return await _token(call, "user", user, project, ProjectRole(present))


async def create_operator_token(call: ApiCall) -> Answer:
    """Create a token for another operator. The secret is shown once."""
    if call.body.project is not None or call.body.role is not None:
        raise errors.Invalid("An operator's token has neither project nor role.", field="project")
    return await _token(call, "operator", await found(call, "operator", call.params["operator"]), None, None)


async def create_own_token(call: ApiCall) -> Answer:
    """Create a further token for yourself, with at most the rights of the one you use. The secret is shown once."""
    p = call.principal
    assert p.account_id is not None
    if is_operator(call):
        if call.body.project is not None or call.body.role is not None:
            raise errors.Invalid("An operator's token has neither project nor role.", field="project")
        operator = await found(call, "operator", text("operator", p.account_id))
        return await _token(call, "operator", operator, None, None)
    assert p.project_id is not None
    project = await found(call, "project", text("project", p.project_id))
    if call.body.project is not None and call.body.project not in (project["name"], text("project", p.project_id)):
        raise errors.Forbidden("A token can only be made for the project that yours is for.")
    return await _token(
        call, "user", await found(call, "user", text("user", p.account_id)), project, ProjectRole(p.role)
    )


async def _token(
    call: ApiCall, kind: str, account: dict[str, Any], project: dict[str, Any] | None, most: ProjectRole | None
) -> Answer:
    role = "operator" if most is None else (call.body.role or most)
    if most is not None and RANK[ProjectRole(role)] > RANK[most]:
        raise errors.Forbidden(f"The token would have the role {role}, which is more than {most.value}.")
    c = call.context
    token_id = c.carrier.mint()
    bearer, digest = tokens.make(
        tokens.Kind.OPERATOR if kind == "operator" else tokens.Kind.USER, token_id, c.random_bytes(tokens.ENTROPY_BYTES)
    )

    def make(asking: Asking) -> Outcome:
        return intent.create_token(
            call.body,
            asking,
            kind=kind,
            account=account,
            project=project,
            role=str(role),
            bearer=(bearer, digest.hex()),
            token_id=token_id,
        )

    async def show(call: ApiCall, done: Done) -> dict[str, Any]:
        made = done.refers["token"]
        assert made is not None
        return {"token": await one_shown(call, "token", made)}

    return await carried(call, "token.create", drafting(call, make), show)


async def remove_token(call: ApiCall) -> Answer:
    """Revoke a token, at once and everywhere."""

    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        own = {} if is_operator(call) else {"account_id": call.principal.account_id}
        row = await found(call, "token", call.params["token"], project_id=project_of(call), **own)
        matching(call, row)
        return intent.remove_token(row, asking(await call.context.accounts.now()))

    return await carried(call, "token.remove", attempt, showing("token"))


async def create_keypair(call: ApiCall) -> Answer:
    """Register an OpenSSH public key."""
    return await carried(
        call,
        "keypair.create",
        drafting_in_project(call, lambda a: intent.create_keypair(call.body, a)),
        showing("keypair"),
    )


async def create_flavor(call: ApiCall) -> Answer:
    """Create a size that VMs can be made in."""
    return await carried(
        call, "flavor.create", drafting(call, lambda a: intent.create_flavor(call.body, a)), showing("flavor")
    )


async def me(call: ApiCall) -> Answer:
    """Who you are, and with which rights."""
    p = call.principal
    kind = "operator" if is_operator(call) else "user"
    assert p.account_id is not None
    row = await call.context.resources.one(kind, object_id=p.account_id)
    project = None
    if p.project_id is not None:
        project = await call.context.resources.one("project", object_id=p.project_id)
    return Answer(
        body={
            "id": text(kind, p.account_id),
            "kind": kind,
            "name": None if row is None else row["name"],
            "role": p.role,
            "project_id": None if p.project_id is None else text("project", p.project_id),
            "project": None if project is None else project["name"],
            "region": call.context.region,
        }
    )


class FirstOperator(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Become the first operator, with the one-use secret that the control plane wrote to a file."""

    secret: str
    name: Name = "admin"


async def first_operator(call: ApiCall) -> Answer:
    """Make the first operator. Works once, with the secret from the control plane's file."""
    c = call.context
    file = c.settings.first_operator_file
    given = tokens.parse(call.body.secret)
    try:
        expected = tokens.parse(file.read_text().strip())
    except OSError:
        expected = None
    if given is None or expected is None or not tokens.fits(given.secret, tokens.digest(expected.secret)):
        raise errors.Unauthenticated(
            "That is not the secret for the first operator, or it was used already.",
            fix="Use the file that the control plane wrote, once.",
        )
    if await c.accounts.count_operators():
        raise errors.Conflict("There is an operator already.", fix="Ask an operator for an account.")
    token_id = c.carrier.mint()
    bearer, digest = tokens.make(tokens.Kind.OPERATOR, token_id, c.random_bytes(tokens.ENTROPY_BYTES))

    async def show(call: ApiCall, done: Done) -> dict[str, Any]:
        with contextlib.suppress(FileNotFoundError):
            file.unlink()
        return await showing("operator")(call, done)  # type: ignore[no-any-return]

    return await carried(
        call,
        "operator.first",
        drafting(call, lambda a: intent.first_operator(call.body.name, a, (bearer, digest.hex()), token_id)),
        show,
    )
