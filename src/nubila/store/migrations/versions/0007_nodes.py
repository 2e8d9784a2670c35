"""Nodes are drained, and can be lost; none goes while anything is counted there. commit_4, which looks at VMs and volumes
alone, stays for processes of the version before; the next migration drops it."""

from nubila.store.migrate import run_file

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    run_file("0007_nodes.sql")
    run_file("0007_functions.sql")
