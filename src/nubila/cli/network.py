"""`nubila network`: the networks of a project."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from nubila.cli import exits, flow, history, values
from nubila.cli.exits import Failure
from nubila.cli.options import Either, Listing, Write, WriteEither, named, noun, verb
from nubila.cli.session import Session

app = noun("network", "Networks that VMs join.")

Network = Annotated[str, named("network")]


@verb(
    app,
    "create",
    "nubila network create back --subnet 10.20.0.0/24",
    "nubila network create back --subnet 10.20.0.0/24 --subnet fd20::/64 --no-nat --plan",
)
def create(
    name: str,
    /,
    *,
    subnet: Annotated[list[str], Parameter(negative="", help="CIDR, IPv4 or IPv6; repeatable.")],
    gateway: Annotated[
        list[str] | None, Parameter(negative="", help="Of the subnets in their order; the first address if not given.")
    ] = None,
    dns: Annotated[list[str] | None, Parameter(negative="", help="Name servers for its guests; repeatable.")] = None,
    nat: Annotated[bool | None, Parameter(help="Whether guests reach the outside.")] = None,
    mtu: int | None = None,
    label: Annotated[list[str] | None, Parameter(negative="", help="KEY=VALUE; repeatable.")] = None,
    options: Write = Write(),
) -> int:
    """Create a network with its subnets."""
    session = Session(options)
    if len(gateway or ()) > len(subnet):
        raise Failure(
            f"{len(gateway or ())} gateways were given for {len(subnet)} subnets.",
            fix="Give at most one --gateway for each --subnet, in their order.",
            code=exits.USAGE,
        )
    subnets = []
    for i, cidr in enumerate(subnet):
        own = gateway[i] if gateway is not None and i < len(gateway) else None
        same = [d for d in dns or () if (":" in d) == (":" in cidr)]  # of the subnet's address family
        subnets.append(values.given(cidr=cidr, gateway=own, dns=same))
    body = values.given(name=name, subnets=subnets, nat=nat, mtu=mtu, labels=values.labels(label))
    return flow.change(lambda how: session.user.create_network(body, how), options, session, "created")


@verb(app, "list", "nubila network list")
def list_(*, options: Listing = Listing()) -> int:
    """List networks."""
    session = Session(options)
    return flow.listing(
        "network", lambda: session.either(options.as_).networks(options.find()), options, session.plane(options.as_)
    )


@verb(app, "show", "nubila network show back")
def show(network: Network, /, *, options: Either = Either()) -> int:
    """Show a network."""
    return flow.one(Session(options).either(options.as_).network(network), options)


@verb(app, "delete", "nubila network delete back")
def delete(network: Network, /, *, options: WriteEither = WriteEither()) -> int:
    """Delete a network that nothing uses."""
    session = Session(options)
    plane = session.plane(options.as_)
    api = session.either(plane)
    return flow.change(lambda how: api.delete_network(network, how), options, session, "deleted", plane=plane)


history.of(app, "network", "networks")
