"""Progress for people: one line for each step, with its seconds. Standard output; on a terminal the line fills up."""

from __future__ import annotations

import time
from collections.abc import Callable

WIDTH = 44


class Progress:
    """`changed` counts the steps that did something."""

    def __init__(self) -> None:
        self.changed = 0
        self.began = time.monotonic()

    def step(self, title: str, act: Callable[[], str]) -> str:
        """Run one step; it answers with what it did, '' for nothing."""
        print(f"  {title} ".ljust(WIDTH, "."), end=" ", flush=True)
        start = time.monotonic()
        try:
            did = act()
        except BaseException:
            print(f"failed after {time.monotonic() - start:.1f} s", flush=True)
            raise
        self.changed += bool(did)
        print(f"{did or 'unchanged'} ({time.monotonic() - start:.1f} s)", flush=True)
        return did

    def end(self, done: str, nothing: str) -> str:
        """The last line: how long it took, or that nothing was changed and why not."""
        if self.changed:
            return f"{done} after {self.seconds():.0f} s."
        return f"Nothing was changed: {nothing} ({self.seconds():.1f} s)."

    def seconds(self) -> float:
        return time.monotonic() - self.began
