"""`nubila volume`: the volumes of a project."""

from __future__ import annotations

from nubila.cli import flow
from nubila.cli.options import Listing, noun, verb
from nubila.cli.session import Session

app = noun("volume", "Disks.")


@verb(app, "list", "nubila volume list", "nubila volume list -o json")
def list_(*, options: Listing = Listing()) -> int:
    """List volumes."""
    session = Session(options)
    items = session.either(options.as_).volumes(options.find())
    return flow.listing("volume", items, options, session.plane(options.as_))
