"""Problems and failures on standard error: what happened, the numbers, what to do, and the request's id."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from nubila.cli import table
from nubila.cli.terminal import line, paint
from nubila.client.answers import ProblemError

STANDARD = frozenset({"type", "title", "status", "detail", "slug", "fix", "request_id", "instance", "field", "where"})


def show(error: ProblemError) -> None:
    """A problem of the API; what it carries beyond the standard fields is shown as lines and small tables."""
    text(error.detail)
    extra = {k: v for k, v in error.problem.items() if k not in STANDARD and v not in (None, [], {}, "", 0)}
    for name in sorted(extra, key=lambda k: k != "changed"):  # 'changed' first
        _extra(name, extra[name])
    hint(error.fix)
    if error.request_id:
        _say(f"request: {line(error.request_id)}")


def text(detail: str) -> None:
    _say(f"{paint('error:', 'red', sys.stderr)} {line(detail)}")


def hint(fix: str) -> None:
    if fix:
        _say(f"{paint('fix:', 'green', sys.stderr)} {line(fix)}")


def _extra(name: str, value: Any) -> None:
    words = line(name).replace("_", " ")
    if table.is_rows(value):
        _say(f"{words}:\n{table.shift(table.rows(value), '  ')}")
    elif isinstance(value, Mapping) and all(isinstance(v, Mapping) for v in value.values()):
        _say(f"{words}:\n{table.shift(table.rows([{'': k, **v} for k, v in value.items()]), '  ')}")
    elif isinstance(value, Mapping):
        _say(f"{words}:\n{table.anything(value, '  ')}")
    else:
        _say(f"{words}: {table.cell(value)}")


def _say(words: str) -> None:
    print(words, file=sys.stderr)
