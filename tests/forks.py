"""A process that has everything imported and forks a copy of itself for each line that it is given: a start costs
milliseconds. Both ends of it: a line goes in, the copy's pid comes back, and 'ended' when that is over.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
FIRST_WITHIN_S = 60.0  # the first start imports everything


class Forks:
    """`module` is run with these words; it calls `serve`."""

    def __init__(self, module: str, *words: str, log: Path, environment: dict[str, str] | None = None):
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *words],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                bufsize=0,  # a line that was read ahead would not be seen by select
            )

    def start(self, line: bytes) -> int:
        """The new copy's pid."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")
        pid = self._line(FIRST_WITHIN_S)
        assert pid, "it does not answer"
        return int(pid)

    def ended(self, within_s: float) -> bool:
        """Whether the copy that was started last is over, waiting at most so long. Asked until it says so once."""
        said = self._line(within_s)
        assert said in ("", "ended"), said
        return bool(said)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(20)

    def _line(self, within_s: float) -> str:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], within_s)[0]:
            return ""
        line = self._process.stdout.readline().decode().strip()
        assert line, "it is gone"
        return line


def serve(live: Callable[[str], None]) -> int:
    """The other end: each copy lives by its line."""
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            os.dup2(2, 1)  # the log is not for whoever reads our answers
            try:
                live(line)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        print(pid, flush=True)
        os.waitpid(pid, 0)
        print("ended", flush=True)
    return 0
