"""`nubila port`: the ports of a project."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

from nubila.cli import flow, history, values
from nubila.cli.options import Common, Listing, Write, named, noun, verb
from nubila.cli.session import Session

app = noun("port", "Where VMs are connected to networks.")

Port = Annotated[str, named("port", "Name or id of the port.")]
Groups = Annotated[list[str] | None, named("security-group", "Group that it shall be in; repeatable.")]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Limits:
    in_kbit: Annotated[int | None, Parameter(help="Most that reaches the guest, in kbit/s; 0 is no limit.")] = None
    out_kbit: Annotated[int | None, Parameter(help="Most that it sends, in kbit/s; 0 is no limit.")] = None
    burst_kib: Annotated[int | None, Parameter(help="KiB that may go at once, beyond the rate.")] = None


@verb(app, "list", "nubila port list", "nubila port list -o json")
def list_(*, options: Listing = Listing()) -> int:
    """List ports."""
    session = Session(options)
    return flow.listing(
        "port", lambda: session.either(options.as_).ports(options.find()), options, session.plane(options.as_)
    )


@verb(app, "show", "nubila port show port-01k...")
def show(port: Port, /, *, options: Common = Common()) -> int:
    """Show a port."""
    return flow.one(Session(options).user.port(port), options)


@verb(
    app,
    "change",
    "nubila port change port-01k... --security-group web --security-group default",
    "nubila port change port-01k... --in-kbit 100000 --out-kbit 20000 --plan",
)
def change(
    port: Port,
    /,
    *,
    security_group: Annotated[
        list[str] | None, named("security-group", "Group it shall be in, instead of those now; repeatable.")
    ] = None,
    limits: Limits = Limits(),
    options: Write = Write(),
) -> int:
    """Change a port's security groups and limits, on a running VM at once."""
    session = Session(options)
    body = values.given(security_groups=security_group, **asdict(limits))
    return flow.change(lambda how: session.user.change_port(port, body, how), options, session, "changed")


@verb(
    app,
    "add",
    "nubila port add web --network backend",
    "nubila port add web --network backend --security-group db --in-kbit 100000 --plan",
)
def add(
    vm: Annotated[str, named("vm")],
    /,
    *,
    network: Annotated[str, named("network", "Network of the project that it leads to.")],
    security_group: Groups = None,
    limits: Limits = Limits(),
    options: Write = Write(),
) -> int:
    """Give a VM one more port; a running guest sees a new interface at once."""
    session = Session(options)
    body = values.given(network=network, security_groups=security_group, **asdict(limits))
    return flow.change(lambda how: session.user.create_port(vm, body, how), options, session, "added")


@verb(app, "remove", "nubila port remove port-01k...", "nubila port remove port-01k... --plan")
def remove(port: Port, /, *, options: Write = Write()) -> int:
    """Remove a port; a running guest lets go of its interface first."""
    session = Session(options)
    return flow.change(lambda how: session.user.delete_port(port, how), options, session, "removed")


@verb(
    app,
    "assign",
    "nubila port assign port-01k...",
    "nubila port assign port-01k... 10.77.0.50",
    "nubila port assign port-01k... --family 6 --plan",
)
def assign(
    port: Port,
    address: Annotated[str | None, Parameter(help="Address of its network; any free one if not given.")] = None,
    /,
    *,
    family: Annotated[Literal[4, 6] | None, Parameter(help="Of which family, if no address is given.")] = None,
    options: Write = Write(),
) -> int:
    """Give a port one more address. Its guest has to take it: it stands in the metadata."""
    session = Session(options)
    body = values.given(address=address, family=family)
    return flow.change(lambda how: session.user.assign_address(port, body, how), options, session, "changed")


@verb(app, "unassign", "nubila port unassign port-01k... 10.77.0.50")
def unassign(
    port: Port, address: Annotated[str, Parameter(help="One of its addresses.")], /, *, options: Write = Write()
) -> int:
    """Take an address from a port, on a running VM at once."""
    session = Session(options)
    return flow.change(lambda how: session.user.unassign_address(port, address, how), options, session, "changed")


history.of(app, "port", "ports", plane="user")
