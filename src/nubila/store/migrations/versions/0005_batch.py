"""Rows of one kind are written by one statement, and found by keys. commit_2, to which a draft's claims need not be summed
yet, stays for processes of the version before; the next migration drops it."""

from nubila.store.migrate import run_file

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    run_file("0005_batch.sql")
    run_file("0005_functions.sql")
