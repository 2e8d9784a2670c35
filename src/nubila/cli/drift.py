"""`nubila drift`, `orphans` and `parked`: what is not as it is wished, and what nobody works on. For operators."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from nubila.cli import flow, history
from nubila.cli.options import Common, Listed, Listing, Write, named, noun, verb
from nubila.cli.session import Session

app = noun("drift", "What hosts have and nobody wishes, or the reverse, field by field (operators).")
orphans = noun("orphans", "What Nubila left on hosts and nobody wishes any more (operators).")
parked = noun("parked", "What background work was set aside, with the reason (operators).")

Drift = Annotated[str, named("drift")]
Cause = Literal["changed-outside", "next-start", "missing", "foreign", "orphan"]
OnNode = Annotated[str | None, Parameter(help="Only on this node, by its id or name.")]


@verb(app, "list", "nubila drift list", "nubila drift list --cause changed-outside -o wide")
def list_(
    *,
    cause: Annotated[Cause | None, Parameter(help="Only what came about so.")] = None,
    node: OnNode = None,
    vm: Annotated[str | None, Parameter(help="Only of this VM, by its id.")] = None,
    options: Listing = Listing(),
) -> int:
    """List what differs from what is wished: fields of VMs changed from outside, foreign things, what was left."""
    return flow.listing(
        "drift",
        lambda: Session(options).operator.drifts(options.find(), cause=cause, node=node, vm=vm),
        options,
        "operator",
    )


@verb(app, "show", "nubila drift show drf-01k...")
def show(drift: Drift, /, *, options: Common = Common()) -> int:
    """Show one difference: wished, observed, since when, and why."""
    return flow.one(Session(options).operator.drift(drift), options)


@verb(app, "repair", "nubila drift repair drf-01k... --plan", "nubila drift repair drf-01k...")
def repair(drift: Drift, /, *, options: Write = Write()) -> int:
    """Have the node make the VM's domain as it is wished, as far as that is possible while it runs."""
    session = Session(options)
    return flow.change(
        lambda how: session.operator.repair_drift(drift, how), options, session, "repaired", plane="operator"
    )


@verb(app, "adopt", "nubila drift adopt drf-01k... --plan")
def adopt(drift: Drift, /, *, options: Write = Write()) -> int:
    """Wish what was seen: cores, memory or boot order that were changed on the host become those of the VM."""
    session = Session(options)
    return flow.change(
        lambda how: session.operator.adopt_drift(drift, how), options, session, "adopted", plane="operator"
    )


@verb(app, "ignore", "nubila drift ignore drf-01k... --hours 72 --reason 'moved on Monday'")
def ignore(
    drift: Drift,
    /,
    *,
    hours: Annotated[float, Parameter(help="For so long; then it is open again.")] = 24.0,
    reason: Annotated[str, Parameter(help="Why.")] = "",
    options: Write = Write(),
) -> int:
    """Let a difference rest for a time."""
    session = Session(options)
    body = {"hours": hours, "reason": reason}
    return flow.change(
        lambda how: session.operator.ignore_drift(drift, body, how), options, session, "ignored", plane="operator"
    )


@verb(app, "heed", "nubila drift heed drf-01k...")
def heed(drift: Drift, /, *, options: Write = Write()) -> int:
    """End the ignoring of a difference."""
    session = Session(options)
    return flow.change(
        lambda how: session.operator.heed_drift(drift, how), options, session, "heeded", plane="operator"
    )


@verb(orphans, "list", "nubila orphans list", "nubila orphans list --node host1")
def list_orphans(*, node: OnNode = None, options: Listing = Listing()) -> int:
    """List what is Nubila's on hosts and wished by nobody. Each node removes its own after a time of grace."""
    return flow.listing(
        "drift",
        lambda: Session(options).operator.drifts(options.find(), cause="orphan", node=node),
        options,
        "operator",
    )


@verb(parked, "list", "nubila parked list", "nubila parked list --json")
def list_parked(*, options: Listed = Listed()) -> int:
    """List objects on which Nubila's own background work failed: why, since when, and when it is tried again."""
    return flow.listing("parked", lambda: Session(options).operator.parked(options.find()), options, "operator")


history.of(app, "drift", "drifts", plane="operator")
