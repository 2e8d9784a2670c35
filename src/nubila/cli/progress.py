"""Waiting for an operation, visibly: one line that changes on a terminal, plain lines elsewhere. On standard error."""

from __future__ import annotations

import sys
import time
from typing import Any

from nubila.cli import exits, table
from nubila.cli.exits import Failure
from nubila.cli.terminal import line
from nubila.client.calls import OPEN, Calls

Json = dict[str, Any]

SLICE_TTY_S = 1.0  # the line's seconds go on
SLICE_S = 5.0
ERASE = "\r\x1b[K"


def wait(api: Calls, operation: Json, *, timeout_s: float, again: str = "") -> Json:
    """Follow an operation to its end. A Failure when it failed, was cancelled or overtaken, or is still under way."""
    last = operation
    if operation.get("state") in OPEN:
        shown = Line()
        try:
            for last in api.follow(str(operation["id"]), timeout_s=timeout_s, slice_s=shown.slice_s):
                shown.show(words(last))
        except KeyboardInterrupt:
            shown.end()
            on = f"The operation goes on; `nubila operation wait {operation['id']}{again}` waits for it again."
            raise Failure("Interrupted.", fix=on, code=exits.INTERRUPTED) from None
        finally:
            shown.end()
    return judge(last, timeout_s, again)


def judge(operation: Json, timeout_s: float, again: str = "") -> Json:
    state, about = str(operation.get("state")), f"{_verb(operation)}"
    why = f"`nubila operation why {operation.get('id')}{again}` says why."
    if state in OPEN:
        wait_line = f"`nubila operation wait {operation.get('id')}{again}` waits on."
        detail = f"{about} is not done after {timeout_s:g} s{_because(operation)}; it goes on."
        raise Failure(detail, fix=f"{wait_line} {why}", code=exits.TIMEOUT)
    if state != "done":
        raise Failure(f"{about}: {state}{_because(operation)}.", fix=why, code=exits.FAILED)
    return operation


def words(operation: Json) -> str:
    """'create web: copying the image, 40%'."""
    if operation.get("state") not in OPEN:
        return f"{_verb(operation)}: {line(operation.get('state'))}{_because(operation)}"
    doing = table.pick(operation, "doing") or table.pick(operation, "reason") or operation.get("state")
    part = table.pick(operation, "progress")
    share = f", {part:.0%}" if isinstance(part, (int, float)) else ""
    late = " (overdue)" if table.pick(operation, "overdue") else ""
    return line(f"{_verb(operation)}: {doing}{share}{late}")


class Line:
    """Shows the newest of a series of texts."""

    def __init__(self) -> None:
        self.tty = sys.stderr.isatty()
        self._began = time.monotonic()
        self._last = ""
        self.slice_s = SLICE_TTY_S if self.tty else SLICE_S

    def show(self, text: str) -> None:
        if self.tty:
            sys.stderr.write(f"{ERASE}{text} ({table.span(time.monotonic() - self._began)})")
            sys.stderr.flush()
        elif text != self._last:
            print(text, file=sys.stderr, flush=True)
        self._last = text

    def end(self) -> None:
        if self.tty and self._last:
            sys.stderr.write(ERASE)
            sys.stderr.flush()
        self._last = ""


def _verb(operation: Json) -> str:
    name = table.pick(operation, "resource_name|resource_id") or operation.get("id")
    return line(f"{table.pick(operation, 'verb') or 'operation'} {name}")


def _because(operation: Json) -> str:
    reason = table.pick(operation, "reason")
    return f" ({line(reason)})" if reason else ""
