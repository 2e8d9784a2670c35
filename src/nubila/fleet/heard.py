"""What nodes say in passing, kept once per node and written in batches: that they live, and the newest seal they saw."""

from __future__ import annotations

import asyncio
import time
from uuid import UUID

from nubila.errors import NubilaError
from nubila.store.node import NodeStore
from nubila.store.seal import SealStore, SeenSeal
from nubila.telemetry import log

FLUSH_S = 2.0


class Heard:
    def __init__(self, store: NodeStore, seals: SealStore):
        self._store, self._seals = store, seals
        self._heard: dict[UUID, tuple[int, int, float]] = {}
        self._anchors: dict[UUID, SeenSeal] = {}

    def note(self, node_id: UUID, session: int, revision: int) -> None:
        before = self._heard.get(node_id)
        self._heard[node_id] = (
            session,
            max(revision, before[1] if before and before[0] == session else 0),
            time.monotonic(),
        )

    def saw(self, node_id: UUID, seal: SeenSeal) -> None:
        """The newest seal of the change log that a node says it saw."""
        self._anchors[node_id] = seal

    async def run(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush()

    async def flush(self) -> None:
        """What cannot be written is put back, unless it is known newer already; the next flush writes it."""
        heard, self._heard = self._heard, {}
        anchors, self._anchors = self._anchors, {}
        now = time.monotonic()
        try:
            if heard:
                await self._store.seen([(n, s, r, now - at) for n, (s, r, at) in heard.items()])
            if anchors:
                await self._seals.anchor(anchors)
        except Exception as e:  # whatever it is: without this loop every node would seem silent
            if not isinstance(e, NubilaError):
                log.get().exception("heard.failed")
            self._heard = {**heard, **self._heard}
            self._anchors = {**anchors, **self._anchors}
