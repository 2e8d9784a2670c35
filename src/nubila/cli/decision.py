"""`nubila decision`: where VMs were placed and why, and what found no node. For operators."""

from __future__ import annotations

from typing import Annotated

from nubila.cli import flow
from nubila.cli.options import Listed, flag, noun, verb
from nubila.cli.session import Session

app = noun("decision", "Where VMs were placed and why, and what found no node (operators).")


@verb(
    app,
    "list",
    "nubila decision list --limit 20",
    "nubila decision list --refused",
    "nubila decision list --refused --limit 1 -o wide",
)
def list_(
    *,
    refused: Annotated[
        bool, flag("Only what found no node, with what the nearest one was short of.", "Output")
    ] = False,
    options: Listed = Listed(),
) -> int:
    """List placement decisions, newest first; -o wide says of each host why it could not have it.

    One VM's, with every score: 'nubila vm placement VM_ID --as operator'.
    """
    only = "true" if refused else None
    return flow.listing(
        "decision",
        lambda: Session(options).operator.decisions(options.find(), refused=only),
        options,
        "operator",
    )
