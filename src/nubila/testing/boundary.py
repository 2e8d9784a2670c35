"""The boundary between an agent and its machine: every side effect takes its time, and can be the last thing that happens.

Which methods those are follows from the drivers' contracts: what is not known to be a mere look is one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from nubila.agent.hands import Drivers
from nubila.drivers.hypervisor.base import Hypervisor
from nubila.drivers.network.base import NetworkDriver
from nubila.drivers.storage.base import Storage
from nubila.testing.stage import Stage

CONTRACTS: dict[str, type] = {"hypervisor": Hypervisor, "storage": Storage, "network": NetworkDriver}
# contract -> methods that change nothing
LOOKS: dict[str, frozenset[str]] = {
    "hypervisor": frozenset({"capabilities", "observe", "scan", "shapes", "read_console", "close"}),
    "storage": frozenset(
        {"capabilities", "observe", "scan", "find", "image_path", "open_export", "is_free", "free_gib"}
    ),
    "network": frozenset({"capabilities", "observe", "scan", "ranges", "close"}),
}
LOOKED_AT = frozenset(
    {"observe", "shapes", "scan"}
)  # looks that take their time: what they saw may be old when it is told
QUICK_S, SLOW_S = (0.002, 0.08), (0.5, 4.0)
SLOW = 0.03  # share of side effects


def effects() -> frozenset[str]:
    """Every side effect that the contracts know, by name."""
    found = set()
    for kind, contract in CONTRACTS.items():
        names = {n for n in vars(contract) if not n.startswith("_") and callable(getattr(contract, n))}
        found |= {f"{kind}.{n}" for n in names - LOOKS[kind]}
    return frozenset(found)


EFFECTS = effects()


class Machine(Protocol):
    """What the boundary tells, and asks what shall befall the call."""

    stage: Stage

    def before(self, effect: str, args: tuple[Any, ...]) -> None: ...

    def after(self, effect: str, args: tuple[Any, ...]) -> None: ...


def around(machine: Machine, drivers: Drivers) -> Drivers:
    return Drivers(**{kind: _Seen(kind, getattr(drivers, kind), machine) for kind in CONTRACTS})


class _Seen:
    """A driver behind the boundary."""

    def __init__(self, kind: str, driver: Any, machine: Machine):
        self._kind, self._driver, self._machine = kind, driver, machine

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._driver, name)
        if f"{self._kind}.{name}" in EFFECTS:
            found = self._effect(f"{self._kind}.{name}", found)
        elif name in LOOKED_AT:
            found = self._look(found)
        self.__dict__[name] = found
        return found

    def _effect(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def done(*args: Any, **more: Any) -> Any:
            machine, draw = self._machine, self._machine.stage.random
            assert machine.stage.in_fibre(), f"{name} would stop the agent's loop"
            machine.stage.sleep(draw.uniform(*(SLOW_S if draw.random() < SLOW else QUICK_S)))
            machine.before(name, args)
            try:
                return call(*args, **more)
            finally:
                machine.after(name, args)
                machine.stage.sleep(draw.uniform(*QUICK_S))

        return done

    def _look(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def seen() -> Any:
            answer = call()
            if self._machine.stage.in_fibre():
                self._machine.stage.sleep(self._machine.stage.random.uniform(*QUICK_S))
            return answer

        return seen
