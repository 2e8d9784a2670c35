"""The one loop of background work: woken by a hint, run by the clock; reads a snapshot, asks the pure step, commits.

One process at a time holds the lease and works. What a step wants is committed as a draft like anybody's: should two
work all the same, the slower one's draft finds its facts changed. An object that cannot be worked on delays no other:
what raises is parked after a few tries, what hangs is waited for by nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

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
ALONGSIDE = 4  # commits under way at once, of the process's few connections
PATIENCE_S = 1.0  # without anything coming to its end; then the pass goes on without what is under way
HOUSEKEEPING_EVERY = 150  # periods
TRIES = 3
PARKED_S = 600.0  # then one more try: what was wrong may have been repaired

Thing = tuple[str, str]  # noun, id


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
        self._tries: dict[Thing, int] = {}
        self._parked: dict[Thing, bool] = {}  # as of this pass -> whether it rests
        self._under_way: dict[Thing, asyncio.Task[int]] = {}
        self._places = asyncio.Semaphore(ALONGSIDE)

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
        self._parked = await self._work.resting()
        for noun in NOUNS:
            alone = {*self._under_way, *(thing for thing, rests in self._parked.items() if rests)}
            left_alone = [i for n, i in alone if n == noun.name]
            rows = await self._work.snapshot(noun.name, [UUID(i) for i in left_alone])
            now = await self._work.now()
            done += await self._all([(noun, c) for row in rows for c in await self._commands(noun, row, now)])
        self._round += 1
        if self._round % HOUSEKEEPING_EVERY == 1:
            await self._carrier.ledger.forget()
        return done

    async def _commands(self, noun: Noun, row: Row, now: datetime) -> list[Any]:
        """Row by row, so that one which cannot be read spoils no other."""
        try:
            return noun.step([row], now)
        except Exception as e:
            await self._failed((noun.name, str(row["id"])), e)
            return []

    async def _all(self, commands: Sequence[tuple[Noun, Any]]) -> int:
        tasks: set[asyncio.Task[int]] = set()
        for noun, command in commands:
            thing = noun.name, str(getattr(command, noun.name)["id"])
            task = self._under_way[thing] = asyncio.create_task(self._in_turn(noun, command, thing))
            task.add_done_callback(lambda _, thing=thing: self._under_way.pop(thing, None))  # type: ignore[misc]
            tasks.add(task)
        done = 0
        while tasks:
            ended, tasks = await asyncio.wait(tasks, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
            if not ended:
                break
            done += sum(task.result() for task in ended)
        return done

    async def _in_turn(self, noun: Noun, command: Any, thing: Thing) -> int:
        async with self._places:
            try:
                done = await self._carry(noun, command)
            except Retry:
                return 0
            except Exception as e:
                await self._failed(thing, e)
                return 0
        if self._tries.pop(thing, 0) >= TRIES or thing in self._parked:
            with contextlib.suppress(NubilaError):
                await self._work.unpark(thing[0], UUID(thing[1]))
        return done

    async def _failed(self, thing: Thing, e: Exception) -> None:
        """Set aside after a few tries, with the reason, so that others go on; operators see it."""
        reason = f"{type(e).__name__}: {e}"[:500]
        self._tries[thing] = self._tries.get(thing, 0) + 1
        if self._tries[thing] < TRIES:
            log.get().warning("reconcile.poisoned", noun=thing[0], id=thing[1], reason=reason)
            return
        log.get().error("reconcile.parked", noun=thing[0], id=thing[1], reason=reason, again_s=PARKED_S)
        with contextlib.suppress(NubilaError):  # then the next pass fails on it and says so again
            await self._work.park(thing[0], UUID(thing[1]), reason, PARKED_S)

    async def _carry(self, noun: Noun, command: Any) -> int:
        asking = Asking(
            actor=f"system:{noun.name}",
            request="",
            now=await self._work.now(),
            mint=self._carrier.mint,
            reason="reconcile",
            operator=True,
        )
        draft = noun.draft(command, asking)
        await self._carrier.database.commit(draft)
        if noun.say:
            log.get().warning(noun.say, **{noun.name: getattr(command, noun.name)["name"]})
        self._carrier.notifier.tell([f"node:{w['n']}" for w in draft.wake])
        return 1
