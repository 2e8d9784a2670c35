"""Help pages: aligned, wrapped at the terminal's width, and examples on one line each so that they can be copied.

Plugged into the command parser as its formatter; plain text without colour. Imported by nothing that runs a command.
"""

from __future__ import annotations

import io
import os
import shutil
import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cyclopts.help import HelpEntry, HelpPanel
    from rich.console import Console, ConsoleOptions

WIDTH_MAX = 100
LABEL_MAX = 30
UNWRAPPED = 10_000


def console() -> Console:
    """One that breaks no line: this module has broken what should be."""
    from rich.console import Console

    return Console(width=UNWRAPPED, no_color=True, highlight=False, markup=False, emoji=False)


def wanted(argv: list[str]) -> bool:
    """Whether this command line asks for a help page: it names a flag for it, or stops before a verb."""
    own = argv[: argv.index("--")] if "--" in argv else argv
    return "--help" in own or "-h" in own or len(own) == 1


class Formatter:
    """The parser's help formatter."""

    def render_usage(self, console: Console, options: ConsoleOptions, usage: Any) -> None:
        self._say(console, textwrap.fill(f"Usage: {_plain(usage)}", _width(), subsequent_indent=" " * 7) + "\n")

    def render_description(self, console: Console, options: ConsoleOptions, description: Any) -> None:
        text = _plain(description)
        if text:
            paragraphs = [textwrap.fill(p, _width()) for p in text.split("\n\n")]
            self._say(console, "\n\n".join(paragraphs) + "\n")

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        entries = [(_label(e), _words(e)) for e in panel.entries]
        if not entries:
            return
        self._say(console, f"{_plain(panel.title)}:")
        indent = min(max(len(label) for label, _ in entries), LABEL_MAX) + 4
        for label, words in entries:
            lines = textwrap.wrap(words, max(_width() - indent, 20)) or [""]
            head = f"  {label}".ljust(indent)
            if len(label) + 4 > indent:
                self._say(console, head)
                head = " " * indent
            self._say(console, (head + lines[0]).rstrip())
            for line in lines[1:]:
                self._say(console, " " * indent + line)
        self._say(console, "")

    @staticmethod
    def _say(console: Console, text: str) -> None:
        print(text, file=console.file)


def _label(entry: HelpEntry) -> str:
    labels = ", ".join(entry.display_labels)
    return f"{labels} {entry.metavar}" if entry.metavar and entry.all_options else labels


def _words(entry: HelpEntry) -> str:
    parts = [_plain(entry.description)]
    if entry.choices:
        parts.append(f"One of: {', '.join(entry.choices)}.")
    if entry.default is not None:
        parts.append(f"[{_plain(entry.default)}]")
    if entry.required and entry.all_options:
        parts.append("(required)")
    return " ".join(p for p in parts if p)


def _plain(found: Any) -> str:
    if found is None or isinstance(found, str):
        return (found or "").strip()
    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=UNWRAPPED, no_color=True, highlight=False).print(found, end="")
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()).strip()


def _width() -> int:
    return min(shutil.get_terminal_size((WIDTH_MAX, 24)).columns, WIDTH_MAX) if os.environ.get("TERM") else WIDTH_MAX
