"""A commit can write several drafts, and the log knows of each row whose request it was. commit_3, which knows one request,
stays for processes of the version before; the next migration drops it."""

from nubila.store.migrate import run_file

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    run_file("0006_together.sql")
    run_file("0006_functions.sql")
