"""`nubila operation`: what was asked for and is, or was, under way."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from nubila.cli import exits, flow, history, progress, table
from nubila.cli.options import Either, Listed, WriteEither, named, noun, verb
from nubila.cli.session import Session
from nubila.cli.terminal import line
from nubila.client.calls import Find, Json

app = noun("operation", "Work under way, and what became of it.")

Operation = Annotated[str, named("operation", "Id of the operation.")]


@verb(app, "list", "nubila operation list", "nubila operation list --state running", "nubila operation list --vm web")
def list_(
    *,
    state: Annotated[str | None, Parameter(help="Only operations in this state.")] = None,
    vm: Annotated[str | None, named("vm", "Only operations on this VM.")] = None,
    options: Listed = Listed(),
) -> int:
    """List operations."""
    session = Session(options)
    api = session.either(options.as_)
    about = None if vm is None else str(api.vm(vm)["id"])
    find = Find(state=state, limit=options.limit, more=(("resource", about),))
    return flow.listing("operation", lambda: api.operations(find), options, session.plane(options.as_))


@verb(app, "show", "nubila operation show op-01k...")
def show(operation: Operation, /, *, options: Either = Either()) -> int:
    """Show an operation."""
    return flow.one(Session(options).either(options.as_).operation(operation), options)


@verb(app, "why", "nubila operation why op-01k...")
def why(operation: Operation, /, *, options: Either = Either()) -> int:
    """Say what an operation waits for, since when, until when, and what to do."""
    return flow.one(Session(options).either(options.as_).operation_why(operation), options, _why)


@verb(app, "cancel", "nubila operation cancel op-01k...")
def cancel(operation: Operation, /, *, options: WriteEither = WriteEither()) -> int:
    """Ask for an operation to be given up. Legal in every state; the answer says what will become of it."""
    session = Session(options)
    plane = session.plane(options.as_)
    answer = session.either(plane).cancel_operation(operation, options.how())
    if options.plan:
        return flow.change(lambda _: answer, options, session, "cancelled", plane=plane)
    flow.one(answer, options, _cancelled)
    return exits.CONFLICT if answer.get("cancelled") == "no" else exits.OK


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
    if options.as_json:
        flow.print_json(found)
    else:
        print(progress.words(found))
    return exits.OK


def _cancelled(found: Json) -> str:
    """The operation as it is now, and what becomes of the wish."""
    words = progress.words(found.get("operation") or found)
    return f"{words}. {line(found['detail'])}" if found.get("detail") else words


def _why(found: Json) -> str:
    """The sentence first, then the chain of who waits for what."""
    parts = [line(found.get("summary") or "")]
    if table.is_rows(found.get("chain")):
        parts.append(table.rows(found["chain"]))
    rest = {k: v for k, v in found.items() if k not in ("summary", "chain") and v is not None}
    return "\n\n".join(p for p in [*parts, table.anything(rest)] if p)


history.of(app, "operation", "operations")
