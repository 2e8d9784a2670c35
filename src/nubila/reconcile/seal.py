"""Seals the change log: one process at a time, at most every 100 ms, only when there is something to seal."""

from __future__ import annotations

import asyncio
import time

from nubila.errors import NubilaError
from nubila.store.notify import CHANGED, Hub
from nubila.store.seal import SealStore
from nubila.store.work import WorkStore
from nubila.telemetry import log

SPACING_S = 0.1
CLOCK_S = 1.0  # also without a hint
LEASE_S = 5.0


class Sealer:
    def __init__(self, seals: SealStore, work: WorkStore, hub: Hub, holder: str):
        self._seals, self._work, self._hub, self._holder = seals, work, hub, holder

    async def run(self, stop: asyncio.Event) -> None:
        led_until = 0.0
        while not stop.is_set():
            expected, sealed = self._hub.expect(CHANGED), False
            try:
                asked = time.monotonic()
                if asked >= led_until and await self._work.lead("seal", self._holder, LEASE_S) is not None:
                    led_until = asked + LEASE_S / 2
                sealed = asked < led_until and await self._seals.seal() is not None  # then there may be more
            except NubilaError as e:
                log.get().warning("seal.failed", slug=e.slug, inside=str(e))
            except Exception:
                log.get().exception("seal.failed")
            await asyncio.sleep(SPACING_S)
            await expected.wait(0 if sealed else CLOCK_S)
