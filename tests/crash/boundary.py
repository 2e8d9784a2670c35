"""The boundary between the agent and the world, instrumented: each side effect can be the last thing that the agent does.

A side effect is a driver's method that changes something, or a write into the agent's journal of wishes. Which methods
those are follows from the contracts: what is not known to be a mere look is one.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from nubila.agent.hands import Drivers
from nubila.drivers.hypervisor.base import Hypervisor
from nubila.drivers.network.base import NetworkDriver
from nubila.drivers.storage.base import Storage

CONTRACTS: dict[str, type] = {"hypervisor": Hypervisor, "storage": Storage, "network": NetworkDriver}
# contract -> methods that change nothing
LOOKS: dict[str, frozenset[str]] = {
    "hypervisor": frozenset({"capabilities", "observe", "scan", "shapes", "read_console", "close"}),
    "storage": frozenset(
        {"capabilities", "observe", "scan", "find", "image_path", "open_export", "is_free", "free_gib"}
    ),
    "network": frozenset({"capabilities", "observe", "scan", "ranges", "interfaces", "close"}),
}
JOURNAL = "journal.append"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What befalls the `number`-th call of `effect` since the agent started. mode: before | after | twice | hold."""

    effect: str = ""
    number: int = 0
    mode: str = ""
    forgets: str = ""  # a side effect that is said to be done and is not: a mutant
    grace_s: float = 60.0  # how long what nobody needs stays; short where the sweep itself is tried


def effects() -> frozenset[str]:
    """Every side effect that the contracts know, by name."""
    found = {JOURNAL}
    for kind, contract in CONTRACTS.items():
        names = {n for n in vars(contract) if not n.startswith("_") and callable(getattr(contract, n))}
        found |= {f"{kind}.{n}" for n in names - LOOKS[kind]}
    return frozenset(found)


class Boundary:
    """Counts side effects in a file, so that the count outlives this process; carries out the plan."""

    def __init__(self, plan: Plan, record: Path, held: Path):
        self.plan, self.held = plan, held
        self._record = record.open("ab", buffering=0)
        self._count: dict[str, int] = {}
        self._lock = threading.Lock()

    def around(self, name: str, call: Callable[[], Any]) -> Any:
        with self._lock:
            self._count[name] = number = self._count.get(name, 0) + 1
        self._record.write(f"{name}\n".encode())
        due = (name, number) == (self.plan.effect, self.plan.number)
        if due and self.plan.mode == "before":
            _die()
        if due and self.plan.mode == "hold":
            while self.held.exists():
                time.sleep(0.005)
        answer = None if name == self.plan.forgets else call()
        if due and self.plan.mode == "after":
            _die()
        return call() if due and self.plan.mode == "twice" else answer

    def drivers(self, real: Drivers) -> Drivers:
        return Drivers(**{kind: _Seen(kind, getattr(real, kind), self) for kind in CONTRACTS})

    def journal(self, wishes: Any) -> None:
        """Each line that the agent keeps is a side effect of its own."""
        append = wishes._append

        def seen(line: Any) -> None:
            def write() -> None:
                append(line)
                wishes.write()

            self.around(JOURNAL, write)

        wishes._append = seen


class _Seen:
    """A driver behind the boundary."""

    def __init__(self, kind: str, driver: Any, boundary: Boundary):
        self._kind, self._driver, self._boundary = kind, driver, boundary

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._driver, name)
        if f"{self._kind}.{name}" not in effects():
            return found
        return lambda *args, **kw: self._boundary.around(f"{self._kind}.{name}", lambda: found(*args, **kw))


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)  # the kernel needs a moment; nothing more is done in it
