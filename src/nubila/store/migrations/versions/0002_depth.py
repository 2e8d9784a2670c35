"""The core to its depth. commit_1 stays for processes of the version before; the next migration drops it."""

from nubila.store.migrate import run_file

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    run_file("0002_depth.sql")
    run_file("0002_functions.sql")
