"""What may reach the terminal: text without control sequences, and colour only where it is wanted.

Names, labels, reasons and console output come from other people; a control sequence in them could rewrite what the
reader sees. Invariant: everything printed that came from an API went through `clean` or `line`.
"""

from __future__ import annotations

import os
import re
import sys
from typing import TextIO

_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"  # CSI: cursor, colour, erase
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"  # OSC, DCS, SOS, PM, APC
    r"|\x1b[ -/]*[0-~]?"  # every other escape
)
_RETURN = re.compile(r"\r+\n?")
# C0 but tab and newline, DEL, C1, and the characters that turn the direction of reading
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")

COLOURS: dict[str, str] = {"red": "31", "green": "32", "yellow": "33", "blue": "34", "dim": "2", "bold": "1"}
STATE_COLOURS: dict[str, str] = {
    "running": "green",
    "ready": "green",
    "active": "green",
    "done": "green",
    "failed": "red",
    "removing": "red",
    "cancelled": "red",
    "unknown": "yellow",
    "pending": "yellow",
    "starting": "yellow",
    "stopping": "yellow",
    "rebooting": "yellow",
    "suspended": "yellow",
    "crashed": "red",
    "waiting": "yellow",
    "enrolling": "yellow",
    "maintenance": "yellow",
    "draining": "yellow",
    "lost": "red",
    "overtaken": "dim",
    "stopped": "dim",
}


def clean(text: str) -> str:
    """Text without terminal control sequences; line ends are newlines."""
    return _CONTROL.sub("", _RETURN.sub("\n", _SEQUENCE.sub("", text)))


def line(value: object) -> str:
    """One line of clean text."""
    return " ".join(clean(str(value)).split())


def coloured(stream: TextIO) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str | None, stream: TextIO | None = None) -> str:
    if colour is None or not coloured(stream or sys.stdout):
        return text
    return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m"


def state_colour(state: str) -> str | None:
    return STATE_COLOURS.get(state.split(" ", 1)[0])
