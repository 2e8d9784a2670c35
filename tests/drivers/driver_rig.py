"""What the hypervisor suite has of each driver: a rig, which is the driver and a hand behind its back that does to domains
what the world does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import driver_guests

from nubila.drivers.hypervisor.base import Domain, DomainDisk, DomainNic, Found, Hypervisor, Shape

UID = 1_900_001
PATIENCE_S = 30.0


def wait_for(what: Callable[[], Any], within_s: float = PATIENCE_S) -> Any:
    limit = time.monotonic() + within_s
    while True:
        got = what()
        if got:
            return got
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.02)


def vm_id(number: int) -> str:
    return f"vm-01{number:024d}"


class Rig(Protocol):
    driver: Hypervisor
    method: str

    def again(self) -> Hypervisor: ...
    def domain(self, number: int, kind: str = driver_guests.DEAF, epoch: int = 1) -> Domain: ...
    def disk(self, number: int, volume_id: str) -> DomainDisk: ...
    def nic(self, number: int) -> DomainNic: ...
    def target(self, number: int) -> str: ...
    def inside(self, volume_id: str) -> tuple[int, tuple[str, ...]]: ...
    def crash(self, vm_id: str) -> None: ...
    def guest_shutdown(self, vm_id: str) -> None: ...
    def panic(self, vm_id: str) -> None: ...
    def boots(self, vm_id: str) -> int: ...
    def ticks(self, vm_id: str) -> int: ...
    def medium(self, name: str) -> str: ...
    def in_drive(self, vm_id: str) -> str | None: ...
    def add_foreign(self, name: str) -> None: ...
    def change(self, vm_id: str) -> None: ...
    def meddle(self, vm_id: str, path: str) -> None: ...
    def has_foreign(self, name: str) -> bool: ...
    def done(self) -> None: ...


def found(driver: Hypervisor, vm_id: str) -> Found | None:
    return next((d for d in driver.observe().domains if d.vm_id == vm_id), None)


def shaped(rig: Rig, vm_id: str) -> tuple[Shape | None, Shape | None]:
    """As it is defined, and as it runs."""
    one = next(s for s in rig.driver.shapes() if s.vm_id == vm_id)
    return one.defined, one.live
