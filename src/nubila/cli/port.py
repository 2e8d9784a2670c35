"""`nubila port`: the ports of a project."""

from __future__ import annotations

from nubila.cli import flow
from nubila.cli.options import Listing, noun, verb
from nubila.cli.session import Session

app = noun("port", "Where VMs are connected to networks.")


@verb(app, "list", "nubila port list", "nubila port list -o json")
def list_(*, options: Listing = Listing()) -> int:
    """List ports."""
    session = Session(options)
    items = session.either(options.as_).ports(options.find())
    return flow.listing("port", items, options, session.plane(options.as_))
