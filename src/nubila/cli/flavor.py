"""`nubila flavor`: the sizes in which VMs come. Operators make them."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from nubila.cli import flow, history, values
from nubila.cli.options import Either, Listing, Write, named, noun, verb
from nubila.cli.session import Session

app = noun("flavor", "Sizes in which VMs come.")


@verb(app, "list", "nubila flavor list")
def list_(*, options: Listing = Listing()) -> int:
    """List flavors."""
    session = Session(options)
    return flow.listing(
        "flavor", lambda: session.either(options.as_).flavors(options.find()), options, session.plane(options.as_)
    )


@verb(app, "show", "nubila flavor show small")
def show(flavor: Annotated[str, named("flavor")], /, *, options: Either = Either()) -> int:
    """Show a flavor."""
    return flow.one(Session(options).either(options.as_).flavor(flavor), options)


@verb(app, "create", "nubila flavor create small --cores 1 --memory-mib 1024 --disk-gib 10")
def create(
    name: str,
    /,
    *,
    cores: int,
    memory_mib: int,
    disk_gib: int,
    label: Annotated[list[str] | None, Parameter(negative="", help="KEY=VALUE; repeatable.")] = None,
    options: Write = Write(),
) -> int:
    """Create a flavor (operators)."""
    session = Session(options)
    body = values.given(
        name=name,
        cores=cores,
        memory_mib=memory_mib,
        disk_gib=disk_gib,
        labels=values.labels(label),
    )
    return flow.change(
        lambda how: session.operator.create_flavor(body, how), options, session, "created", plane="operator"
    )


@verb(app, "delete", "nubila flavor delete small")
def delete(flavor: Annotated[str, named("flavor")], /, *, options: Write = Write()) -> int:
    """Delete a flavor (operators). VMs made with it keep their size."""
    session = Session(options)
    return flow.change(
        lambda how: session.operator.delete_flavor(flavor, how), options, session, "deleted", plane="operator"
    )


history.of(app, "flavor", "flavors", plane="operator")
