"""Looks at the world in bulk and by the clock. Called by the core; it has a thread of its own, so that a look that
hangs delays no vm.

It decides how often to look: the hypervisor every 2 s, five times a second while a guest is being waited for; wires
and disks less often. What it saw is handed to the event loop together with the time at which the look began.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from nubila.agent.hands import Drivers
from nubila.drivers import DriverError, Scan
from nubila.drivers.hypervisor import base as hypervisor
from nubila.drivers.network import base as network
from nubila.drivers.storage import base as storage
from nubila.telemetry import log

LOG = log.get(part="agent")

HYPERVISOR_S = 2.0
HYPERVISOR_EAGER_S = 0.2
NETWORK_S = 5.0
NETWORK_EAGER_S = 0.5  # while a guest's address is waited for
STORAGE_S = 60.0
SHAPES_S = 5.0
SCAN_S = 30.0
AGAIN_S = 1.0  # after a look that failed
HUNG_S = 60.0
PAUSE_S = 0.1  # how soon it becomes eager


class Listener(Protocol):
    """The core, in the event loop's thread."""

    def on_domains(self, seen: hypervisor.Observed, begun_s: float) -> None: ...

    def on_wires(self, seen: network.Observed, begun_s: float) -> None: ...

    def on_disks(self, seen: storage.Observed, begun_s: float) -> None: ...

    def on_shapes(self, seen: tuple[hypervisor.Shaped, ...], begun_s: float) -> None: ...

    def on_scan(self, seen: dict[str, Scan], begun_s: float) -> None: ...

    def waits_for_guest(self) -> bool: ...

    def waits_for_address(self) -> bool: ...


class Observer:
    def __init__(self, loop: asyncio.AbstractEventLoop, drivers: Drivers, listener: Listener, name: str = ""):
        self._loop, self._drivers, self._listener = loop, drivers, listener
        self._stopped = threading.Event()
        self.last_s = {"hypervisor": 0.0, "network": 0.0, "storage": 0.0, "shapes": 0.0, "scan": 0.0}  # 0: look now
        self._thread = threading.Thread(target=self._run, name=f"observer{name}", daemon=True)
        self.looking_since_s: float | None = None

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join(2.0)

    def soon(self, kind: str) -> None:
        """Look at the next opportunity; whoever asks while a look begins asks again when that is over."""
        self.last_s[kind] = 0.0

    def hangs(self, now_s: float) -> bool:
        since_s = self.looking_since_s
        return since_s is not None and now_s - since_s > HUNG_S

    def _run(self) -> None:
        # Disks first: nothing is started before it is known which are here.
        looks: dict[str, tuple[Callable[[], Any], Callable[..., None], Callable[[], float]]] = {
            "storage": (self._drivers.storage.observe, self._listener.on_disks, lambda: STORAGE_S),
            "network": (self._drivers.network.observe, self._listener.on_wires, self._network_s),
            "hypervisor": (self._drivers.hypervisor.observe, self._listener.on_domains, self._hypervisor_s),
            "shapes": (self._drivers.hypervisor.shapes, self._listener.on_shapes, lambda: SHAPES_S),
            "scan": (self._scan, self._listener.on_scan, lambda: SCAN_S),
        }
        failing: set[str] = set()
        while not self._stopped.is_set():
            for kind, (look, tell, interval_s) in looks.items():
                begun_s = time.monotonic()
                if begun_s >= self.last_s[kind] + (AGAIN_S if kind in failing else interval_s()):
                    self.last_s[kind] = begun_s
                    if self._look(kind, look, tell, begun_s):
                        failing.discard(kind)
                    else:
                        failing.add(kind)
            self._stopped.wait(PAUSE_S)

    def _look(self, kind: str, look: Callable[[], Any], tell: Callable[..., None], begun_s: float) -> bool:
        self.looking_since_s = begun_s
        try:
            seen = look()
        except DriverError as e:
            LOG.warning("observation.failed", kind=kind, reason=e.reason)
            return False
        except Exception:
            LOG.exception("observation.failed", kind=kind)
            return False
        finally:
            self.looking_since_s = None
        try:
            self._loop.call_soon_threadsafe(tell, seen, begun_s)
        except RuntimeError:  # the loop is closed: the agent ends
            self._stopped.set()
        return True

    def _scan(self) -> dict[str, Scan]:
        d = self._drivers
        return {"hypervisor": d.hypervisor.scan(), "network": d.network.scan(), "storage": d.storage.scan()}

    def _hypervisor_s(self) -> float:
        return HYPERVISOR_EAGER_S if self._listener.waits_for_guest() else HYPERVISOR_S

    def _network_s(self) -> float:
        return NETWORK_EAGER_S if self._listener.waits_for_address() else NETWORK_S
