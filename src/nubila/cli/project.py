"""`nubila project` and `nubila quota`: a project, what it may hold, and who may act in it."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from nubila.cli import exits, flow, history, planning, values
from nubila.cli.exits import Failure
from nubila.cli.options import Either, Listed, Listing, Past, Write, named, noun, verb
from nubila.cli.session import Session

app = noun("project", "Projects, which hold everything else.")
quota = noun("quota", "What a project may hold (operators).")

Project = Annotated[str, named("project")]


@verb(app, "show", "nubila project show", "nubila project show web --as operator")
def show(
    project: Annotated[str | None, named("project", "For operators; yours if not given.")] = None,
    /,
    *,
    options: Either = Either(),
) -> int:
    """Show a project with its quota: your own, or for operators any."""
    session = Session(options)
    if project is None and session.plane(options.as_) == "operator":
        raise Failure("Operators have no project of their own.", fix="Name one.", code=exits.USAGE)
    if project is None:
        return flow.one(session.user.project(), options, _text)
    if options.as_ == "user":
        raise Failure("Your project is the one of your token.", fix="Leave the name out.", code=exits.USAGE)
    found = session.operator.project(project)
    if not options.as_json and not found.get("quota"):
        found = {**found, "quota": classes(session.operator.quota(project))}
    return flow.one(found, options, _text)


@verb(app, "list", "nubila project list")
def list_(*, options: Listing = Listing()) -> int:
    """List projects (operators)."""
    session = Session(options)
    return flow.listing("project", lambda: session.operator.projects(options.find()), options, "operator")


@verb(app, "create", "nubila project create web --description 'the shop'")
def create(
    name: str,
    /,
    *,
    description: str | None = None,
    label: Annotated[list[str] | None, Parameter(negative="", help="KEY=VALUE; repeatable.")] = None,
    options: Write = Write(),
) -> int:
    """Create a project (operators)."""
    session = Session(options)
    body = values.given(name=name, description=description, labels=values.labels(label))
    return flow.change(
        lambda how: session.operator.create_project(body, how), options, session, "created", plane="operator"
    )


@verb(app, "change", "nubila project change web --name shop", "nubila project change web --suspended")
def change(
    project: Project,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    suspended: Annotated[bool | None, Parameter(help="A suspended project accepts no changes.")] = None,
    options: Write = Write(),
) -> int:
    """Rename, describe or suspend a project (operators)."""
    session = Session(options)
    body = values.given(name=name, description=description, suspended=suspended)
    if not body:
        raise Failure("Nothing to change was given.", code=exits.USAGE)
    return flow.change(
        lambda how: session.operator.change_project(project, body, how), options, session, "changed", plane="operator"
    )


@verb(app, "delete", "nubila project delete web")
def delete(project: Project, /, *, options: Write = Write()) -> int:
    """Delete a project that holds nothing (operators)."""
    session = Session(options)
    return flow.change(
        lambda how: session.operator.delete_project(project, how), options, session, "deleted", plane="operator"
    )


@verb(app, "members", "nubila project members web")
def members(project: Project, /, *, options: Listed = Listed()) -> int:
    """List who may act in a project, and as what (operators)."""
    return flow.listing(
        "member", lambda: Session(options).operator.members(project, options.find()), options, "operator"
    )


@verb(app, "member", "nubila project member web ada --role owner", "nubila project member web ada --remove")
def member(
    project: Project,
    user: Annotated[str, named("user")],
    /,
    *,
    role: Literal["owner", "member", "reader"] | None = None,
    remove: Annotated[
        bool, Parameter(negative="", show_default=False, help="Take the role away, with the tokens for the project.")
    ] = False,
    options: Write = Write(),
) -> int:
    """Let a user act in a project, or no more (operators)."""
    if (role is None) is not remove:
        raise Failure("Give either --role or --remove.", code=exits.USAGE)
    session = Session(options)
    if role is None:
        return flow.change(
            lambda how: session.operator.remove_member(project, user, how),
            options,
            session,
            "may not act there any more",
            plane="operator",
            what=f"user {user} of project {project}",
        )
    return flow.change(
        lambda how: session.operator.set_member(project, user, role, how),
        options,
        session,
        f"may act as {role}",
        plane="operator",
        what=f"user {user} of project {project}",
    )


@verb(quota, "show", "nubila quota show web")
def quota_show(project: Project, /, *, options: Past = Past()) -> int:
    """Show what a project holds and may hold (operators)."""
    found = Session(options).operator.quota(project)
    return flow.one(found, options, lambda q: planning.quota(classes(q)))


@verb(quota, "set", "nubila quota set web vms=50 cores=100", "nubila quota set web vms=50 --plan")
def quota_set(
    project: Project,
    /,
    *limits: Annotated[str, Parameter(help="CLASS=NUMBER; the others stay.")],
    options: Write = Write(),
) -> int:
    """Set what a project may hold (operators)."""
    session = Session(options)
    wanted = values.amounts(limits)
    if not wanted:
        raise Failure("No limit was given.", fix="Write limits as CLASS=NUMBER.", code=exits.USAGE)
    return flow.change(
        lambda how: session.operator.set_quota(project, wanted, how),
        options,
        session,
        "set",
        plane="operator",
        what=f"quota of project {project}",
        after=lambda answer: print(planning.quota(classes(answer))),
    )


def classes(found: flow.Json) -> flow.Json:
    """The classes of a quota, whether they stand alone or under 'quota'."""
    inner = found.get("quota")
    shown = inner if isinstance(inner, dict) else found
    return {k: v for k, v in shown.items() if isinstance(v, dict) and "limit" in v}


def _text(found: flow.Json) -> str:
    bars = planning.quota(classes(found)) if found.get("quota") else ""
    rest = {k: v for k, v in found.items() if k != "quota"}
    inner = rest.get("project")
    about = {**inner, **{k: v for k, v in rest.items() if k != "project"}} if isinstance(inner, dict) else rest
    return "\n\n".join(part for part in (flow.describe(about), bars) if part)


history.of(app, "project", "projects", plane="operator")
