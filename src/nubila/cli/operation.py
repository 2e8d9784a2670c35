"""`nubila operation`: what was asked for and is, or was, under way."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from nubila.cli import exits, flow, progress
from nubila.cli.options import Either, Listing, WriteEither, named, noun, verb
from nubila.cli.session import Session

app = noun("operation", "Work under way, and what became of it.")

Operation = Annotated[str, named("operation", "Id of the operation.")]


@verb(app, "list", "nubila operation list", "nubila operation list --state running")
def list_(*, options: Listing = Listing()) -> int:
    """List operations."""
    session = Session(options)
    items = session.either(options.as_).operations(options.find())
    return flow.listing("operation", items, options, session.plane(options.as_))


@verb(app, "show", "nubila operation show op-01k...")
def show(operation: Operation, /, *, options: Either = Either()) -> int:
    """Show an operation."""
    return flow.one(Session(options).either(options.as_).operation(operation), options)


@verb(app, "why", "nubila operation why op-01k...")
def why(operation: Operation, /, *, options: Either = Either()) -> int:
    """Say what an operation waits for, since when, until when, and what to do."""
    return flow.one(Session(options).either(options.as_).operation_why(operation), options)


@verb(app, "cancel", "nubila operation cancel op-01k...")
def cancel(operation: Operation, /, *, options: WriteEither = WriteEither()) -> int:
    """Ask for an operation to be given up. Legal in every state; the answer says what will become of it."""
    session = Session(options)
    plane = session.plane(options.as_)
    how = options.how()
    answer = session.either(plane).cancel_operation(operation, how)
    if options.plan:
        return flow.change(lambda _: answer, options, session, "cancelled", plane=plane)
    return flow.one(answer, options)


@verb(app, "wait", "nubila operation wait op-01k... --timeout 60")
def wait(
    operation: Operation,
    /,
    *,
    timeout_s: Annotated[float, Parameter(name="--timeout", help="At most so many seconds.")] = 300.0,
    options: Either = Either(),
) -> int:
    """Wait until an operation has ended; the exit code says how."""
    session = Session(options)
    api = session.either(options.as_)
    again = session.again(options.as_)
    found = progress.wait(api, api.operation(operation), timeout_s=timeout_s, again=again)
    if options.json:
        flow.print_json(found)
    else:
        print(progress.words(found))
    return exits.OK
