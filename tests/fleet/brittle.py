"""An API process that can be told where to die: at any await of a request, by SIGKILL.

`python -m tests.fleet.brittle RECORD` has everything imported and forks a `serve user operator` for each line that it
reads: a number, 0 for never. Counted are, in requests that carry the header x-brittle only, each time that the request
or its commit stops to wait, each time that it goes on, and each piece of the answer, before and after it is sent.
"""

from __future__ import annotations

import contextvars
import os
import signal
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import uvloop

from nubila import main
from nubila.api.app import App
from nubila.config import load
from nubila.store.database import Database
from nubila.telemetry import log
from tests.forks import serve

HEADER = (b"x-brittle", b"1")
_COUNTED: contextvars.ContextVar[bool] = contextvars.ContextVar("counted", default=False)


class Points:
    def __init__(self, at: int, record: Path):
        self._at, self._number = at, 0
        self._record = record.open("wb", buffering=0)

    def passed(self, what: str) -> None:
        if not _COUNTED.get():
            return
        self._number += 1
        self._record.write(f"{what}\n".encode())
        if self._number == self._at:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)  # the kernel needs a moment; nothing more is done in it


class Stepped:
    """Awaits a coroutine and sees each of its stops."""

    def __init__(self, coroutine: Any, points: Points):
        self._coroutine, self._points = coroutine, points

    def __await__(self) -> Generator[Any, Any, Any]:
        value: Any = None
        error: BaseException | None = None
        while True:
            try:
                got = self._coroutine.send(value) if error is None else self._coroutine.throw(error)
            except StopIteration as e:
                return e.value
            self._points.passed("waits")
            try:
                value, error = (yield got), None
            except BaseException as e:
                error = e
            self._points.passed("goes on")


def brittle(points: Points) -> None:
    answer, commit = App.__call__, Database._commit

    async def answered(app: App, scope: Any, receive: Any, send: Any) -> None:
        _COUNTED.set(HEADER in scope.get("headers", ()))

        async def sent(message: Any) -> None:
            points.passed("sends")
            await send(message)
            points.passed("has sent")

        await Stepped(answer(app, scope, receive, sent), points)

    async def committed(database: Database, encoded: str) -> Any:
        return await Stepped(commit(database, encoded), points)

    App.__call__ = answered  # type: ignore[method-assign]
    Database._commit = committed  # type: ignore[method-assign]


def live(line: str) -> None:
    brittle(Points(int(line), Path(sys.argv[1])))
    settings = load(None)
    log.setup(settings.log_level)
    uvloop.run(main.run(settings, ["user", "operator"]))


if __name__ == "__main__":
    sys.exit(serve(live))
