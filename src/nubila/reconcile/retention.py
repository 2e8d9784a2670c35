"""Keeps the change log as long as the setting says: one process at a time trims it, by the hour."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from nubila.errors import NubilaError
from nubila.store.database import Database
from nubila.store.retention import Trimmed, trim
from nubila.store.work import WorkStore
from nubila.telemetry import log

PERIOD_S = 3600.0
FIRST_S = 60.0  # after its start a process has other things to do
LEASE_S = 7200.0  # a first trim of a long log takes its time


class Trimmer:
    """`kept`: how old a change may become; zero for no limit."""

    def __init__(self, database: Database, work: WorkStore, holder: str, kept: timedelta):
        self._database, self._work, self._holder, self._kept = database, work, holder, kept

    async def run(self, stop: asyncio.Event) -> None:
        pause_s = FIRST_S
        while self._kept and not stop.is_set():
            try:
                await asyncio.wait_for(stop.wait(), pause_s)
            except TimeoutError:
                await self._attempt()
            pause_s = PERIOD_S

    async def _attempt(self) -> None:
        try:
            await self.once()
        except NubilaError as e:
            log.get().warning("trim.failed", slug=e.slug, inside=str(e))
        except Exception:
            log.get().exception("trim.failed")

    async def once(self) -> Trimmed | None:
        """Trim what is too old; None while another process does."""
        if await self._work.lead("trim", self._holder, LEASE_S) is None:
            return None
        try:
            trimmed = await trim(self._database, await self._work.now() - self._kept)
            if trimmed.gone:
                log.get().info("trim.done", gone=trimmed.gone, kept=trimmed.kept, since=str(trimmed.since))
            return trimmed
        finally:
            await self._work.release("trim", self._holder)
