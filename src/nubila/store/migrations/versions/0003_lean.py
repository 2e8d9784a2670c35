"""Leaner functions: less of PostgreSQL's time for each commit."""

from nubila.store.migrate import run_file

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    run_file("0003_lean.sql")
    run_file("0003_functions.sql")
