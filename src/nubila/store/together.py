"""Decides which of the drafts that wait to be written go into one commit, and makes that commit's draft. Called by Database.

Many creates of one user wait for the same few rows (the project's quota, a node's revision), and a statement costs
PostgreSQL nearly the same for one row as for eight. So while commits are under way, drafts that only take and add are
gathered, and the next commit writes them all; the log says of each row which request it came with. A draft that is refused
spoils its company: then each is written alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime

import msgspec

from nubila import errors
from nubila.model.draft import Draft
from nubila.store.past_views import holder
from nubila.store.tables import TABLES

MOST = 16  # drafts in one commit
AT_ONCE = 2  # commits of one actor's drafts: while PostgreSQL flushes the one, it works on the other
WAIT_S = 10.0
_HOLDERS = {t.name: holder(t) for t in TABLES if t.logged}
# Nobody knows whether such a commit was carried out, or the database has no time: to try each alone would not help.
_WHOLE = (errors.OutcomeUnknown, errors.DatabaseAway, errors.DatabaseFull, errors.Busy)

Key = tuple[str, ...]


class Written(msgspec.Struct, frozen=True):
    at: datetime  # by the database's clock
    woken: list[str]  # nodes that have to be told


Write = Callable[[Draft], Awaitable[Written]]


class _Waiting:
    __slots__ = ("done", "draft", "own", "sent")

    def __init__(self, draft: Draft):
        self.draft, self.own, self.sent = draft, _own(draft), False
        self.done: asyncio.Future[Written] = asyncio.get_running_loop().create_future()


class Together:
    """The drafts that wait: a line for each actor and reason, since the log says these once for each commit."""

    def __init__(self, write: Write):
        self._write = write
        self._lines: dict[tuple[str, str], _Line] = {}

    async def write(self, draft: Draft) -> Written:
        """Whoever stops waiting before the draft is sent has not written it. Raises Busy when its turn does not come."""
        key = (draft.actor, draft.reason)
        if (line := self._lines.get(key)) is None:
            line = self._lines[key] = _Line(self._write, lambda: self._lines.pop(key))
        return await line.write(draft)


class _Line:
    def __init__(self, write: Write, over: Callable[[], object]):
        self._write, self._over = write, over
        self._waiting: list[_Waiting] = []
        self._working = 0
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself keeps no task alive

    async def write(self, draft: Draft) -> Written:
        mine = _Waiting(draft)
        self._waiting.append(mine)
        if self._working < AT_ONCE:
            self._working += 1
            task = asyncio.create_task(self._work())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            await asyncio.wait({mine.done}, timeout=WAIT_S)
            if not (mine.done.done() or mine.sent):
                raise errors.Busy("The database did not answer in time.", inside="no turn to commit")
            return await mine.done
        finally:
            mine.done.cancel()

    async def _work(self) -> None:
        try:
            while some := self._take():
                if len(some) == 1:
                    await self._alone(some[0])
                else:
                    await self._all(some)
        finally:
            # At once, not when the task is seen to be over: whoever comes between would rely on a worker that works no more.
            self._working -= 1
            if not (self._working or self._waiting):
                self._over()

    def _take(self) -> list[_Waiting]:
        """The next commit's, in the order in which they came; who would be in another's way waits for a later one."""
        some: list[_Waiting] = []
        later: list[_Waiting] = []
        taken: set[Key] = set()
        for w in self._waiting:
            if w.done.done():
                continue
            if len(some) < MOST and taken.isdisjoint(w.own):
                some.append(w)
                taken |= w.own
                w.sent = True
            else:
                later.append(w)
        self._waiting = later
        return some

    async def _alone(self, one: _Waiting) -> None:
        try:
            written = await self._write(one.draft)
        except Exception as e:
            if not one.done.done():
                one.done.set_exception(e)
        else:
            _tell([one], written)

    async def _all(self, some: list[_Waiting]) -> None:
        try:
            written = await self._write(united([w.draft for w in some]))
        except _WHOLE as e:
            for w in some:
                if not w.done.done():
                    w.done.set_exception(e)
        except Exception:
            await asyncio.gather(*(self._alone(w) for w in some if not w.done.done()))
        else:
            _tell(some, written)


def _tell(some: list[_Waiting], written: Written) -> None:
    for w in some:
        if not w.done.done():
            w.done.set_result(written)


def joins(draft: Draft) -> bool:
    """It changes and removes nothing, so it may be written before or after any other one that does not; and the log can
    say of each of its rows whose it is."""
    changes = draft.update or draft.delete or draft.unused or draft.groups.get("rules")
    named = (row.get(_HOLDERS[t]) for t, rows in draft.insert.items() if t in _HOLDERS for row in rows)
    return not changes and all(f["w"] == 0 for facts in draft.facts.values() for f in facts) and all(named)


def united(drafts: list[Draft]) -> Draft:
    """One draft that writes what these do, and knows of each object which request it came with."""
    one = Draft(actor=drafts[0].actor, request="", reason=drafts[0].reason)
    for draft in drafts:
        for table, rows in draft.insert.items():
            one.insert.setdefault(table, []).extend(rows)
        for kind, facts in draft.facts.items():
            known = one.facts.setdefault(kind, [])
            known += [f for f in facts if f not in known]
        one.capacity += draft.capacity
        one.quota += draft.quota
        one.wake += [w for w in draft.wake if w not in one.wake]
        one.ranges += [r for r in draft.ranges if r not in one.ranges]
        one.changes_groups(members=draft.groups.get("members", ()))
        one.requests |= dict.fromkeys(_objects(draft), draft.request)
    return one


def _objects(draft: Draft) -> set[str]:
    return {str(row[_HOLDERS[t]]) for t, rows in draft.insert.items() if t in _HOLDERS for row in rows}


def _own(draft: Draft) -> set[Key]:
    """What no other draft of the same commit may have: its objects in the log, and addresses, which two may have chosen."""
    addresses = {("address", str(r["network_id"]), str(r["address"])) for r in draft.insert.get("address", ())}
    return addresses | {("object", o) for o in _objects(draft)}
