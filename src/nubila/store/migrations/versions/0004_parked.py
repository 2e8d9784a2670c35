"""What background work has set aside, for operators to see; networks of one range come to a node one at a time."""

from nubila.store.migrate import run_file

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    run_file("0004_parked.sql")
    run_file("0004_functions.sql")
