"""The end of a log that is moved aside when it is full: what drivers keep of a guest's console."""

from __future__ import annotations

import os
from pathlib import Path


def read_log(log: Path, max_bytes: int) -> bytes:
    """The newest bytes of a log and of the full one that was moved aside."""
    text = b""
    for path in (log, log.with_name(log.name + ".0")):
        if len(text) < max_bytes:
            text = tail(path, max_bytes - len(text)) + text
    return text


def tail(path: Path, max_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - max_bytes))
            return file.read(max_bytes)
    except FileNotFoundError:
        return b""
