"""Rows of one kind are written by one statement; overlapping ranges are found by an index."""

from nubila.store.migrate import run_file

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    run_file("0005_batch.sql")
    run_file("0005_functions.sql")
