"""Connections: one bounded pool per process, opened and warmed at start; commits shielded from cancellation.

Everything that reads or writes goes through `Database.fetch*` or `Database.commit`; no other module holds a connection.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, cast

import asyncpg
import msgspec

from nubila import errors
from nubila.model.draft import Draft
from nubila.store import together
from nubila.store.connections import USES_MAX, Connections, Held
from nubila.store.ddl import COMMIT, STALE, TRANSITION

Record = Mapping[str, Any]

COMMIT_LIMIT_S = 20.0
WAIT_S = together.WAIT_S  # for a connection that nobody uses, or a turn to commit
SETTINGS = {
    "application_name": "nubila",
    "jit": "off",
    "timezone": "UTC",
    # Every statement is short and goes by an index. Plans are made once, often while tables are still empty, and a
    # sequential scan chosen then would stay when they are not.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
}

# how a connection says that its server went away, or that it was broken off in the middle
LOST: tuple[type[Exception], ...] = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
)

# constraint -> the claim that it stands for; everything else that is unique is a fault of ours
CLAIMS: dict[str, tuple[type[errors.NubilaError], str]] = {
    "idempotency_pk": (errors.Conflict, "idempotency"),
    "address_pk": (errors.Conflict, "address"),
    "port_mac_key": (errors.Conflict, "mac"),
    "attachment_active_key": (errors.Conflict, "attachment"),
    "attachment_epoch_key": (errors.Conflict, "attachment"),
    "subnet_cidr_key": (errors.Conflict, "subnet"),
    "drift_thing_key": (errors.Conflict, "drift"),
}
_NAME_KEY = re.compile(r"(\w+)_name_key")


class Retry(errors.Transient):
    """Somebody else took a claim first; a new draft may succeed."""

    slug = "claim-lost"

    def __init__(self, claim: str, changed: list[dict[str, Any]]):
        self.claim = claim
        self.changed = changed
        super().__init__(inside=f"{claim}: {changed}")


class Database:
    def __init__(self, connections: Connections):
        self.connections = connections
        # Commits of a project wait for each other's rows; a quarter of the connections is left to all else.
        self.commits_at_once = max(1, connections.size - max(1, connections.size // 4))
        self._turns = asyncio.Semaphore(self.commits_at_once)
        self._together = together.Together(self._write)

    @classmethod
    async def open(cls, *, host: str, database: str = "nubila", user: str = "nubila", size: int = 8) -> Database:
        """Connect `size` times over the unix socket in `host` and warm each connection. Raises DatabaseAway."""
        try:
            pool = await asyncpg.create_pool(
                host=host,
                database=database,
                user=user,
                min_size=size,
                max_size=size,
                init=_warm,
                reset=_as_it_is,
                timeout=10,
                command_timeout=30,
                max_queries=USES_MAX,
                server_settings=SETTINGS,
            )
        except (OSError, asyncpg.PostgresError, TimeoutError) as e:
            raise errors.DatabaseAway(inside=str(e)) from e
        return cls(Connections(pool, size))

    async def answers(self) -> bool:
        return bool(await self.value("select true"))

    async def close(self) -> None:
        await self.connections.close(5)

    def connection(self) -> AbstractAsyncContextManager[asyncpg.Connection]:
        """One that nobody else uses meanwhile. Raises Busy, DatabaseAway or DatabaseFull, also for what is done with it."""
        return _Use(self.connections)

    async def fetch(self, sql: str, *args: Any) -> list[Record]:
        async with self.connection() as c:
            rows: list[Record] = await c.fetch(sql, *args)
            return rows

    async def row(self, sql: str, *args: Any) -> Record | None:
        async with self.connection() as c:
            row: Record | None = await c.fetchrow(sql, *args)
            return row

    async def value(self, sql: str, *args: Any) -> Any:
        async with self.connection() as c:
            return await c.fetchval(sql, *args)

    async def execute(self, sql: str, *args: Any) -> str:
        async with self.connection() as c:
            tag: str = await c.execute(sql, *args)
            return tag

    async def commit(self, draft: Draft) -> datetime | None:
        """Carry out the draft, all of it or nothing; returns its moment by the database's clock, None for an empty one.

        `draft.woken` then names the nodes that have to be told.

        Raises Retry when a claim or fact no longer holds, QuotaExceeded, NameTaken, or OutcomeUnknown.
        """
        if draft.is_empty():
            return None
        written = await (self._together.write(draft) if together.joins(draft) else self._write(draft))
        draft.woken = written.woken
        return written.at

    async def _write(self, draft: Draft) -> together.Written:
        encoded = draft.encoded()
        await self._turn()
        sent = asyncio.ensure_future(self._commit(encoded))
        sent.add_done_callback(lambda _: self._turns.release())  # not before, whoever is still interested
        answer: dict[str, str] = msgspec.json.decode(await asyncio.shield(sent))
        return together.Written(at=msgspec.convert(answer["now"], datetime), woken=[k for k in answer if k != "now"])

    async def _turn(self) -> None:
        try:
            async with asyncio.timeout(WAIT_S):
                await self._turns.acquire()
        except TimeoutError as e:
            raise errors.Busy("The database did not answer in time.", inside="no turn to commit") from e

    async def _commit(self, encoded: str) -> str:
        for attempt in (1, 2):
            async with self.connection() as c:
                sent = asyncio.ensure_future(c.fetchval(f"select {COMMIT}($1::text::jsonb)::text", encoded))
                try:
                    # Never a cancel: a cancelled commit may be seen by others and still be lost.
                    done, _ = await asyncio.wait({sent}, timeout=COMMIT_LIMIT_S)
                    if not done:
                        c.terminate()
                        raise errors.OutcomeUnknown(inside="commit over its limit")
                    return cast(str, sent.result())
                except (asyncpg.DeadlockDetectedError, asyncpg.InvalidCachedStatementError):
                    if attempt == 2:
                        raise
                except LOST as e:
                    raise errors.OutcomeUnknown(inside=repr(e)) from e
                except asyncpg.PostgresError as e:
                    raise refusal(e) from e
        raise AssertionError("unreachable")


class _Use:
    """A class, since a generator would cost as much as taking the connection does."""

    __slots__ = ("_connections", "_held")

    def __init__(self, connections: Connections):
        self._connections = connections
        self._held: Held | None = None

    async def __aenter__(self) -> asyncpg.Connection:
        try:
            self._held = await self._connections.take(WAIT_S)
        except Exception as e:
            if (meant := _meant(e)) is not None:
                raise meant from e
            raise
        return self._held.connection

    async def __aexit__(self, kind: object, e: BaseException | None, trace: object) -> None:
        assert self._held is not None
        self._connections.give_back(self._held)
        if e is not None and (meant := _meant(e)) is not None:
            raise meant from e


def _meant(e: BaseException) -> errors.NubilaError | None:
    if isinstance(e, TimeoutError):
        return errors.Busy("The database did not answer in time.", inside=repr(e))
    if isinstance(e, LOST):
        return errors.DatabaseAway(inside=repr(e))
    if isinstance(e, asyncpg.DiskFullError):
        return errors.DatabaseFull(inside=repr(e))
    return None


async def _as_it_is(connection: asyncpg.Connection) -> None:
    """Nothing here leaves anything behind in a session, so the four statements of a reset would only cost a round trip."""


async def _warm(connection: asyncpg.Connection) -> None:
    await connection.fetchval(f"select {COMMIT}($1::text::jsonb)::text", "{}")


def refusal(e: asyncpg.PostgresError) -> errors.NubilaError:
    """What a failed commit means, by SQLSTATE and constraint; unknown ones are inside errors."""
    if isinstance(e, asyncpg.DiskFullError):
        return errors.DatabaseFull(inside=repr(e))
    if e.sqlstate == STALE:
        changed: list[dict[str, Any]] = msgspec.json.decode(e.detail or "[]")
        claim = str(e.args[0])  # as text the error carries its detail too
        if claim == "quota":
            return quota_exceeded(changed[0])
        return Retry(claim, changed)
    if e.sqlstate == TRANSITION:
        # Whoever drafted saw another state: it was changed meanwhile, and a new draft sees that.
        kind, _, rest = (e.detail or "").partition(" cannot go from ")
        is_now, _, becomes = rest.partition(" to ")
        return Retry("transition", [{"kind": kind, "was": f"able to become {becomes}", "is_now": is_now}])
    constraint = getattr(e, "constraint_name", None) or ""
    if constraint in CLAIMS:
        return Retry(CLAIMS[constraint][1], [{"kind": CLAIMS[constraint][1], "was": "free", "is_now": "taken"}])
    if m := _NAME_KEY.fullmatch(constraint):
        return errors.NameTaken(f"Another {m[1]} already has that name.", kind=m[1])
    return errors.NubilaError(inside=f"{e.sqlstate} {constraint} {e}")


def quota_exceeded(row: Mapping[str, Any]) -> errors.QuotaExceeded:
    left = max(0, row["limit"] - row["used"])
    return errors.QuotaExceeded(
        f"The project's quota of {row['class']} is {row['limit']}; {row['used']} are used, {left} left, and this needs {row['asked']}.",
        quota={"class": row["class"], "limit": row["limit"], "used": row["used"], "asked": row["asked"], "left": left},
    )
