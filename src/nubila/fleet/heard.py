"""Freshness, kept once per node and written in batches: who was heard from since the last flush."""

from __future__ import annotations

import asyncio
import time
from uuid import UUID

from nubila.errors import NubilaError
from nubila.store.node import NodeStore
from nubila.telemetry import log

FLUSH_S = 2.0


class Heard:
    def __init__(self, store: NodeStore):
        self._store = store
        self._heard: dict[UUID, tuple[int, int, float]] = {}

    def note(self, node_id: UUID, session: int, revision: int) -> None:
        before = self._heard.get(node_id)
        self._heard[node_id] = (
            session,
            max(revision, before[1] if before and before[0] == session else 0),
            time.monotonic(),
        )

    async def run(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            heard, self._heard = self._heard, {}
            if heard:
                now = time.monotonic()
                try:
                    await self._store.seen([(n, s, r, now - at) for n, (s, r, at) in heard.items()])
                except Exception as e:  # whatever it is: without this loop every node would seem silent
                    if not isinstance(e, NubilaError):
                        log.get().exception("heard.failed")
                    # Put back what is not newer already; the next flush writes it.
                    self._heard = {**heard, **self._heard}
