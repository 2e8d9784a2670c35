"""`nubila token`, `user`, `operator`, `me`: who acts. A secret is shown once, when it is made, or saved to a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from nubila.cli import exits, flow, history, values
from nubila.cli.exits import Failure
from nubila.cli.options import Common, Either, Listing, Send, SendEither, Write, WriteEither, named, noun, verb
from nubila.cli.session import Session
from nubila.cli.terminal import line
from nubila.client.calls import Calls, Json

token = noun("token", "API tokens.")
user = noun("user", "People with accounts (operators).")
operator = noun("operator", "Who operates the machines (operators).")
me = noun("me", "Who you are.")

Role = Literal["owner", "member", "reader"]
Save = Annotated[Path | None, Parameter(help="Write the secret to this new file, mode 0600, instead of printing it.")]
Expires = Annotated[int | None, Parameter(name="--expires-in", help="Seconds until it ends, from 60.")]


@verb(token, "create", "nubila token create laptop", "nubila token create ci --role member --save ci.token")
def token_create(
    name: str,
    /,
    *,
    role: Annotated[Role | None, Parameter(help="At most your own.")] = None,
    expires_in_s: Expires = None,
    save: Save = None,
    options: SendEither = SendEither(),
) -> int:
    """Make a token for yourself. Its secret is shown once."""
    session = Session(options)
    plane = session.plane(options.as_)
    body = values.given(name=name, role=role, expires_in_s=expires_in_s)
    api = session.either(plane)
    with _Secret(save) as secret:
        return flow.change(
            lambda how: api.create_token(body, how), options, session, "created", plane=plane, after=secret
        )


@verb(token, "list", "nubila token list")
def token_list(*, options: Listing = Listing()) -> int:
    """List tokens, without their secrets."""
    session = Session(options)
    return flow.listing(
        "token", lambda: session.either(options.as_).tokens(options.find()), options, session.plane(options.as_)
    )


@verb(token, "delete", "nubila token delete tok-01k...")
def token_delete(
    ident: Annotated[str, named("token", "Id of the token, or its name if no other has it.")],
    /,
    *,
    options: WriteEither = WriteEither(),
) -> int:
    """Revoke a token at once."""
    session = Session(options)
    plane = session.plane(options.as_)
    api = session.either(plane)
    return flow.change(lambda how: api.delete_token(ident, how), options, session, "revoked", plane=plane)


@verb(user, "create", "nubila user create ada --email ada@example.org")
def user_create(name: str, /, *, email: str | None = None, options: Write = Write()) -> int:
    """Create a user."""
    session = Session(options)
    body = values.given(name=name, email=email)
    return flow.change(
        lambda how: session.operator.create_user(body, how), options, session, "created", plane="operator"
    )


@verb(user, "list", "nubila user list")
def user_list(*, options: Listing = Listing()) -> int:
    """List users."""
    return flow.listing("user", lambda: Session(options).operator.users(options.find()), options, "operator")


@verb(user, "show", "nubila user show ada")
def user_show(name_or_id: Annotated[str, named("user")], /, *, options: Common = Common()) -> int:
    """Show a user."""
    return flow.one(Session(options).operator.user(name_or_id), options)


@verb(user, "change", "nubila user change ada --suspended")
def user_change(
    name_or_id: Annotated[str, named("user")],
    /,
    *,
    email: str | None = None,
    suspended: Annotated[bool | None, Parameter(help="A suspended user's tokens are refused.")] = None,
    options: Write = Write(),
) -> int:
    """Suspend a user, or lift that."""
    session = Session(options)
    body = values.given(email=email, suspended=suspended)
    if not body:
        raise Failure("Nothing to change was given.", code=exits.USAGE)
    return flow.change(
        lambda how: session.operator.change_user(name_or_id, body, how),
        options,
        session,
        "changed",
        plane="operator",
    )


@verb(user, "delete", "nubila user delete ada", "nubila user delete ada --plan")
def user_delete(name_or_id: Annotated[str, named("user")], /, *, options: Write = Write()) -> int:
    """Delete a user, with all its memberships and tokens."""
    session = Session(options)
    return flow.change(
        lambda how: session.operator.delete_user(name_or_id, how), options, session, "deleted", plane="operator"
    )


@verb(user, "token", "nubila user token ada laptop --project web --role owner --save ada.token")
def user_token(
    name_or_id: Annotated[str, named("user")],
    name: Annotated[str, Parameter(help="Name of the token.")],
    /,
    *,
    project: Annotated[str, named("project")],
    role: Role | None = None,
    expires_in_s: Expires = None,
    save: Save = None,
    options: Send = Send(),
) -> int:
    """Make a token for a user in a project. Its secret is shown once."""
    session = Session(options)
    body = values.given(name=name, project=project, role=role, expires_in_s=expires_in_s)
    with _Secret(save) as secret:
        return flow.change(
            lambda how: session.operator.create_user_token(name_or_id, body, how),
            options,
            session,
            "created",
            plane="operator",
            after=secret,
        )


@verb(operator, "create", "nubila operator create grace")
def operator_create(name: str, /, *, email: str | None = None, options: Write = Write()) -> int:
    """Create an operator."""
    session = Session(options)
    body = values.given(name=name, email=email)
    return flow.change(
        lambda how: session.operator.create_operator(body, how), options, session, "created", plane="operator"
    )


@verb(operator, "list", "nubila operator list")
def operator_list(*, options: Listing = Listing()) -> int:
    """List operators."""
    return flow.listing("operator", lambda: Session(options).operator.operators(options.find()), options, "operator")


@verb(operator, "show", "nubila operator show grace")
def operator_show(name_or_id: Annotated[str, named("operator")], /, *, options: Common = Common()) -> int:
    """Show an operator."""
    return flow.one(Session(options).operator.operator(name_or_id), options)


@verb(operator, "delete", "nubila operator delete grace")
def operator_delete(name_or_id: Annotated[str, named("operator")], /, *, options: Write = Write()) -> int:
    """Delete an operator with its tokens. The last one that can act stays."""
    session = Session(options)
    return flow.change(
        lambda how: session.operator.delete_operator(name_or_id, how), options, session, "deleted", plane="operator"
    )


@verb(operator, "token", "nubila operator token grace laptop --save grace.token")
def operator_token(
    name_or_id: Annotated[str, named("operator")],
    name: Annotated[str, Parameter(help="Name of the token.")],
    /,
    *,
    expires_in_s: Expires = None,
    save: Save = None,
    options: Send = Send(),
) -> int:
    """Make a token for an operator. Its secret is shown once."""
    session = Session(options)
    body = values.given(name=name, expires_in_s=expires_in_s)
    with _Secret(save) as secret:
        return flow.change(
            lambda how: session.operator.create_operator_token(name_or_id, body, how),
            options,
            session,
            "created",
            plane="operator",
            after=secret,
        )


me.help_epilogue = "Examples:\n  nubila me\n  nubila me --as operator"


@me.default
def me_show(*, options: Either = Either()) -> int:
    """Show whose token this is, and what it may do."""
    api: Calls = Session(options).either(options.as_)
    found: Json = api.get("/v1/me")
    return flow.one(found, options, flow.describe)


class _Secret:
    """Shows the secret of an answer, or writes it to a file that is opened before the secret is made.

    So a file that cannot be written costs no token; and one that came to nothing leaves no empty file.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path.expanduser() if path else None
        self._handle: int | None = None
        self._kept = False

    def __enter__(self) -> _Secret:
        if self._path is not None:
            try:
                self._handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except OSError as e:
                raise Failure(f"{self._path} cannot be made: {e.strerror}.", code=exits.USAGE) from None
        return self

    def __call__(self, answer: Json) -> None:
        found = answer.get("secret")
        if not found:
            # The first answer was lost on its way; a repeated one never shows a secret.
            made = flow.subject(answer)
            raise Failure(
                "The token was made, but its secret was lost on the way.",
                fix=f"`nubila token delete {line(made.get('id'))}`, then make another one.",
            )
        if self._handle is not None:
            os.write(self._handle, f"{line(found)}\n".encode())
            self._kept = True
            print(f"The secret is in {self._path}.")
        else:
            print("The secret, shown this once:")
            print(line(found))

    def __exit__(self, *error: object) -> None:
        if self._handle is not None:
            os.close(self._handle)
            if not self._kept and self._path is not None:
                self._path.unlink(missing_ok=True)


history.of(user, "user", "users", plane="operator")
history.of(operator, "operator", "operators", plane="operator")
