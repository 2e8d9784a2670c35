"""`nubila plan`: what `--plan` made; apply carries out exactly that, or says what has changed since."""

from __future__ import annotations

from typing import Annotated

from nubila.cli import exits, flow, planning
from nubila.cli.options import Either, Listed, WaitEither, named, noun, verb
from nubila.cli.session import Session

app = noun("plan", "Changes that were planned with --plan.")

Plan = Annotated[str, named("plan", "Id of the plan, as --plan printed it.")]


@verb(app, "list", "nubila plan list")
def list_(*, options: Listed = Listed()) -> int:
    """List your plans that can still be applied."""
    session = Session(options)
    return flow.listing(
        "plan", lambda: session.either(options.as_).plans(options.find()), options, session.plane(options.as_)
    )


@verb(app, "show", "nubila plan show plan-01k...")
def show(plan: Plan, /, *, options: Either = Either()) -> int:
    """Show a plan again, with the facts that it rests on."""
    session = Session(options)
    found = session.either(options.as_).plan(plan)
    line = f"nubila plan apply {found.get('id', plan)}{session.again(session.plane(options.as_))}"
    return flow.one(found, options, lambda p: planning.whole(p, line, facts=True))


@verb(app, "apply", "nubila plan apply plan-01k...")
def apply(plan: Plan, /, *, options: WaitEither = WaitEither()) -> int:
    """Carry out a plan exactly as shown; refused when what it rests on has changed."""
    session = Session(options)
    plane = session.plane(options.as_)
    api = session.either(plane)
    return flow.change(lambda how: api.apply_plan(plan, how), options, session, "done as planned", plane=plane)


@verb(app, "discard", "nubila plan discard plan-01k...")
def discard(plan: Plan, /, *, options: Either = Either()) -> int:
    """Forget a plan. It would expire by itself."""
    answer = Session(options).either(options.as_).discard_plan(plan)
    if options.as_json:
        flow.print_json(answer)
    else:
        print(f"plan {plan} discarded")
    return exits.OK
