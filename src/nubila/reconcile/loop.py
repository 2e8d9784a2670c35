"""The one loop of background work: woken by a hint, run by the clock; reads a snapshot, asks the pure step, commits.

One process at a time holds the lease and works. What a step wants is committed as a draft like anybody's: should two
work all the same, the slower one's draft finds its facts changed. An object that cannot be worked on delays no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from nubila.errors import NubilaError
from nubila.intent.asking import Asking
from nubila.intent.carry import Carrier
from nubila.model.draft import Draft, Row
from nubila.reconcile import drift, operation, vm
from nubila.store.database import Retry
from nubila.store.work import WorkStore
from nubila.telemetry import log

PERIOD_S = 2.0
LEASE_S = 10.0
HOUSEKEEPING_EVERY = 150  # periods


class Noun(msgspec.Struct, frozen=True):
    name: str
    step: Callable[[Sequence[Row], datetime], list[Any]]
    draft: Callable[[Any, Asking], Draft]
    say: str = ""  # logged at each command, as a warning


NOUNS: tuple[Noun, ...] = (
    Noun("vm", vm.step, vm.draft),
    Noun("operation", operation.step, operation.draft, "operation.overdue"),
    Noun("drift", drift.step, drift.draft),
)


class Loop:
    def __init__(self, carrier: Carrier, work: WorkStore, holder: str):
        """`holder` names this process among those that may run the loop."""
        self._carrier = carrier
        self._work = work
        self._holder = holder
        self._round = 0

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                if await self._work.lead("reconcile", self._holder, LEASE_S):
                    await self.once()
            except NubilaError as e:
                log.get().warning("reconcile.failed", slug=e.slug, inside=str(e))
            except Exception:
                log.get().exception("reconcile.failed")
            try:
                await asyncio.wait_for(stop.wait(), PERIOD_S)
            except TimeoutError:
                continue

    async def once(self) -> int:
        """One pass over all nouns; returns how many commands were carried out."""
        done = 0
        for noun in NOUNS:
            for command in noun.step(await self._work.snapshot(noun.name), await self._work.now()):
                done += await self._carry(noun, command)
        self._round += 1
        if self._round % HOUSEKEEPING_EVERY == 1:
            await self._carrier.ledger.forget()
        return done

    async def _carry(self, noun: Noun, command: Any) -> int:
        asking = Asking(
            actor=f"system:{noun.name}",
            request="",
            now=await self._work.now(),
            mint=self._carrier.mint,
            reason="reconcile",
            operator=True,
        )
        try:
            draft = noun.draft(command, asking)
            await self._carrier.database.commit(draft)
        except Retry:
            return 0
        except Exception:
            log.get().exception("reconcile.poisoned", noun=noun.name)
            return 0
        if noun.say:
            log.get().warning(noun.say, **{noun.name: getattr(command, noun.name)["name"]})
        self._carrier.notifier.tell([f"node:{w['n']}" for w in draft.wake])
        return 1
