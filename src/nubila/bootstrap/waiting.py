"""What the commands of `make` wait for did not come: how that is said. Called by each of them."""

from __future__ import annotations

from pathlib import Path


class NotComing(Exception):
    """Something that was waited for did not come; the text says what, and where to look."""


def tail(file: Path, lines: int = 15) -> str:
    try:
        return "\n".join(file.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return "(there is no such file)"
