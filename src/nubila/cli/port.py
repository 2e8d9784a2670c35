"""`nubila port`: the ports of a project."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from nubila.cli import flow, values
from nubila.cli.options import Common, Listing, Write, named, noun, verb
from nubila.cli.session import Session

app = noun("port", "Where VMs are connected to networks.")

Port = Annotated[str, named("port", "Name or id of the port.")]


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
    in_kbit: Annotated[int | None, Parameter(help="Most that reaches the guest, in kbit/s; 0 is no limit.")] = None,
    out_kbit: Annotated[int | None, Parameter(help="Most that it sends, in kbit/s; 0 is no limit.")] = None,
    burst_kib: Annotated[int | None, Parameter(help="KiB that may go at once, beyond the rate.")] = None,
    options: Write = Write(),
) -> int:
    """Change a port's security groups and limits, on a running VM at once."""
    session = Session(options)
    body = values.given(security_groups=security_group, in_kbit=in_kbit, out_kbit=out_kbit, burst_kib=burst_kib)
    return flow.change(lambda how: session.user.change_port(port, body, how), options, session, "changed")
