"""`nubila node` and `nubila join-token`: the machines of the fabric, and how new ones come in. For operators."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Annotated
from urllib.parse import urlsplit

from cyclopts import Parameter

from nubila.cli import exits, flow, history, values
from nubila.cli.exits import Failure
from nubila.cli.options import Listed, Listing, Past, Send, Write, flag, named, noun, verb
from nubila.cli.session import Session
from nubila.cli.terminal import line

app = noun("node", "Machines of the fabric (operators).")
join_token = noun("join-token", "One-use tokens with which machines join (operators).")
HELD = {"vms": "VM", "volumes": "volume"}
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

Node = Annotated[str, named("node")]
Why = Annotated[str, Parameter(name="--reason", help="Why, for whoever looks at it later.")]


@verb(app, "list", "nubila node list", "nubila node list -o wide", "nubila node list --zone a --rack r1")
def list_(
    *,
    zone: Annotated[str | None, Parameter(help="Only nodes of this zone.")] = None,
    rack: Annotated[str | None, Parameter(help="Only nodes of this rack.")] = None,
    options: Listing = Listing(),
) -> int:
    """List nodes."""
    find = replace(options.find(), more=(("zone", zone), ("rack", rack)))
    return flow.listing("node", lambda: Session(options).operator.nodes(find), options, "operator")


@verb(app, "show", "nubila node show host1")
def show(node: Node, /, *, options: Past = Past()) -> int:
    """Show a node with all that it reports."""
    return flow.one(Session(options).operator.node(node), options)


@verb(
    app,
    "change",
    "nubila node change host1 --cpu-overcommit 2 --reserved-memory-mib 2048",
    "nubila node change host1 --zone a --rack r1",
    "nubila node change host1 --role hypervisor --role storage --address storage=10.2.0.7 --address backup=10.3.0.7",
)
def change(
    node: Node,
    /,
    *,
    cpu_overcommit: Annotated[float | None, Parameter(help="Virtual cores per physical core.")] = None,
    reserved_memory_mib: Annotated[int | None, Parameter(help="Kept for the machine itself.")] = None,
    reserved_disk_gib: Annotated[
        int | None, Parameter(help="Kept free for the machine itself; a fifth, at most 10, if it was never said.")
    ] = None,
    zone: Annotated[str | None, Parameter(help="Zone that it stands in; VMs may wish theirs.")] = None,
    rack: Annotated[str | None, Parameter(help="Rack that it stands in; '' if that is not known.")] = None,
    role: Annotated[list[str] | None, Parameter(negative="", help="What it does; repeatable, replaces all.")] = None,
    address: Annotated[
        list[str] | None,
        Parameter(negative="", help="PURPOSE=ADDRESS: management, underlay, storage, backup; '' takes it away."),
    ] = None,
    other_machine: Annotated[
        bool | None, Parameter(help="Its next session may come from another machine: its disk moved there.")
    ] = None,
    label: Annotated[list[str] | None, Parameter(negative="", help="KEY=VALUE; repeatable, replaces all.")] = None,
    options: Write = Write(),
) -> int:
    """Change how much of a node is offered, where it stands, or what it does."""
    session = Session(options)
    pairs = [a.partition("=") for a in address or ()]
    body = values.given(
        cpu_overcommit=cpu_overcommit,
        reserved_memory_mib=reserved_memory_mib,
        reserved_disk_gib=reserved_disk_gib,
        zone=zone,
        rack=rack,
        roles=role,
        other_machine=other_machine,
        addresses={p: a or None for p, _, a in pairs} or None,
        labels=values.labels(label),
    )
    if not body:
        raise Failure("Nothing to change was given.", code=exits.USAGE)
    return flow.change(
        lambda how: session.operator.change_node(node, body, how), options, session, "changed", plane="operator"
    )


@verb(app, "approve", "nubila node approve host4")
def approve(node: Node, /, *, options: Write = Write()) -> int:
    """Let a machine in that waits for it, after a look at it: `nubila node show`. One that is not wanted: `retire`."""
    session = Session(options)
    return flow.change(
        lambda how: session.operator.approve_node(node, how), options, session, "approved", plane="operator"
    )


@verb(app, "drain", "nubila node drain host1 --reason 'new disks'", "nubila node drain host1 --plan")
def drain(node: Node, /, *, reason: Why = "", options: Write = Write()) -> int:
    """Let nothing new come to a node that is to be emptied, and say how much is still there."""
    session = Session(options)
    return flow.change(
        lambda how: session.operator.drain_node(node, reason, how),
        options,
        session,
        "drained",
        plane="operator",
        after=_still_there,
    )


def _still_there(answer: flow.Json) -> None:
    holds, name = answer.get("holds") or {}, line(answer.get("name"))
    parts = [f"{holds[k]} {word}{'s' if holds[k] > 1 else ''}" for k, word in HELD.items() if holds.get(k)]
    if parts:
        print(f"Still there: {' and '.join(parts)}; `nubila vm list --as operator --node {name}` lists them.")
    else:
        print(f"Nothing is left there: `nubila node maintenance {name}`, or `nubila node retire {name}`.")


@verb(app, "maintenance", "nubila node maintenance host1 --reason 'new disks'")
def maintenance(node: Node, /, *, reason: Why = "", options: Write = Write()) -> int:
    """Put a node into maintenance: it keeps what it has and gets nothing new."""
    session = Session(options)
    return flow.change(
        lambda how: session.operator.maintain_node(node, reason, how), options, session, "changed", plane="operator"
    )


@verb(app, "return", "nubila node return host1")
def return_(node: Node, /, *, options: Write = Write()) -> int:
    """Let a node get VMs again: after draining, maintenance, or after it was lost and came back."""
    session = Session(options)
    return flow.change(
        lambda how: session.operator.return_node(node, how), options, session, "returned", plane="operator"
    )


@verb(app, "lost", "nubila node lost host1 --reason 'its power supply burnt'", "nubila node lost host1 --plan")
def lost(node: Node, /, *, reason: Why = "", options: Write = Write()) -> int:
    """Say of a silent node that it does not come back by itself. If it speaks after all, it stands in maintenance."""
    session = Session(options)
    return flow.change(
        lambda how: session.operator.lose_node(node, reason, how), options, session, "declared lost", plane="operator"
    )


@verb(app, "retire", "nubila node retire host1", "nubila node retire host1 --plan")
def retire(node: Node, /, *, options: Write = Write()) -> int:
    """Take a machine out of the fabric for good. Refused while VMs or volumes are on it."""
    session = Session(options)
    return flow.change(
        lambda how: session.operator.retire_node(node, how), options, session, "retired", plane="operator"
    )


@verb(join_token, "list", "nubila join-token list")
def join_token_list(*, options: Listed = Listed()) -> int:
    """List join tokens, used and unused, without their secrets."""
    return flow.listing(
        "join-token", lambda: Session(options).operator.join_tokens(options.find()), options, "operator"
    )


@verb(join_token, "delete", "nubila join-token delete join-01k...")
def join_token_delete(
    ident: Annotated[str, named("join-token", "Id of the join token.")], /, *, options: Write = Write()
) -> int:
    """Delete a join token: no machine can join with it any more."""
    session = Session(options)
    return flow.change(
        lambda how: session.operator.delete_join_token(ident, how), options, session, "deleted", plane="operator"
    )


@verb(
    join_token,
    "create",
    "nubila join-token create",
    "nubila join-token create --ask",
    "nubila join-token create --ttl 600 --role hypervisor",
)
def join_token_create(
    *,
    ttl_s: Annotated[int | None, Parameter(name="--ttl", help="Seconds until it ends, from 60.")] = None,
    role: Annotated[list[str] | None, Parameter(negative="", help="What the machine will do; repeatable.")] = None,
    zone: str | None = None,
    name: Annotated[str | None, Parameter(help="Name of the node, if not its host name.")] = None,
    ask: Annotated[bool, flag("The machine waits for `nubila node approve`.", "Output")] = False,
    options: Send = Send(),
) -> int:
    """Make a token with which one machine's agent may join; it is alone on the last line."""
    session = Session(options)
    body = values.given(ttl_s=ttl_s, roles=role, zone=zone, name=name, approve=False if ask else None)
    return flow.one(session.operator.create_join_token(body, options.how()), options, partial(_join, ask=ask))


def _join(answer: flow.Json, *, ask: bool) -> str:
    """The token stays alone on the last line: a command line with it would be seen by all of that machine."""
    until, where = line(answer.get("expires_at") or "it is used"), line(answer.get("internal_url") or "")
    how = f"On one machine, until {until}, in a clone of this version; it asks for the token:\n\nsudo make join CONTROL={where}\n"
    if urlsplit(where).hostname in LOOPBACK:
        how = (
            f"For one machine, until {until}. This control plane listens on loopback alone, where no other machine reaches "
            "it: set listen in its nubila.toml first, then 'make down' and 'make up'.\n"
        )
    if ask:
        how += "\nIt then waits: 'nubila node list' shows it, 'nubila node approve NAME' lets it in.\n"
    return f"{how}\n{line(answer.get('token'))}"


history.of(app, "node", "nodes", plane="operator")
