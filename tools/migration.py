"""Writes the newest migration's generated half: triggers and functions that follow from the tables."""

from pathlib import Path

from nubila.store import ddl

VERSIONS = Path(ddl.__file__).parent / "migrations" / "versions"

if __name__ == "__main__":
    newest = sorted(VERSIONS.glob("*_functions.sql"))[-1]
    newest.write_text(ddl.functions())
