"""Brings the content of images that are fetched from an address, and clears the image store of what nobody needs.

Run by the process that reconciles. The image itself is the work: its row says that it is to be brought, its lease that
somebody does, and its status what has come of it; a process that dies leaves a lease that lapses, and the next begins
anew. What is due is decided by the pure step in reconcile/image.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from uuid import UUID

import msgspec

from nubila import errors
from nubila.api.context import Context
from nubila.api.noun.image_content import arrived
from nubila.drivers import DriverError
from nubila.drivers.image_store.base import Stored
from nubila.drivers.image_store.fetch import Task, fetch
from nubila.intent import image as intent
from nubila.intent.asking import Asking
from nubila.model import image
from nubila.model.draft import Drafted, Row
from nubila.model.ids import parse, text
from nubila.reconcile import image as steps
from nubila.reconcile import image_lease
from nubila.store.database import Retry
from nubila.telemetry import log

LOG = log.get(part="images")

PERIOD_S = 1.0
PARALLEL = 2
LOOK_S = 1.0  # between two looks at the row: was it cancelled, is there progress to tell
SWEEP_S = 600.0
UPLOAD_KEPT_S = 7 * 86400.0
CONTENT_KEPT_S = 3600.0


class GivenUp(Exception):
    """Nobody wants this content any more."""


class Importer:
    def __init__(self, context: Context):
        self._c = context
        s = context.settings
        self._allow = tuple(s.image_fetch_allow.split())
        self._own_ports = (s.user_port, s.operator_port, s.internal_port)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._swept_s = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        try:
            while not stop.is_set():
                try:
                    await self.once()
                except errors.NubilaError as e:
                    LOG.warning("images.failed", slug=e.slug, inside=str(e))
                except Exception:
                    LOG.exception("images.failed")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), PERIOD_S)
        finally:
            for task in self._running.values():
                task.cancel()

    async def once(self) -> None:
        work = self._c.work
        self._running = {i: t for i, t in self._running.items() if not t.done()}
        for command in steps.step(await work.snapshot("image"), await work.now()):
            row = command.image
            if row["spec"]["origin"] == image.Origin.VOLUME:
                await self._look(row)
            elif row["id"] not in self._running and len(self._running) < PARALLEL:
                self._running[row["id"]] = asyncio.create_task(self._guarded(row))
        if time.monotonic() - self._swept_s > SWEEP_S:
            self._swept_s = time.monotonic()
            await self.sweep()

    async def _look(self, row: Row) -> None:
        """A node brings this one, from a volume; when that is gone, nobody will."""
        source = await self._c.image_rows.source(row)
        if source is None or source["spec"]["gone"]:
            with contextlib.suppress(GivenUp):
                await self._failed(row, "the volume was removed before all of it had come", again=False)

    # --- bringing one

    async def _guarded(self, row: Row) -> None:
        try:
            async with image_lease.writing(self._c.work, text("image", UUID(row["id"]))) as writer:
                if writer is not None:
                    await self._bring(row, writer)
        except GivenUp:
            LOG.info("image.given-up", image=row["name"])
        except errors.NubilaError as e:
            LOG.warning("image.not-brought", image=row["name"], inside=str(e))
        except Exception:
            LOG.exception("image.not-brought", image=row["name"])

    async def _bring(self, row: Row, writer: image_lease.Writer) -> None:
        spec = msgspec.convert(row["spec"], image.Spec)
        judged: list[intent.Arrived] = []

        async def check(stored: Stored) -> None:
            judged.append(arrived(spec, stored))
            await writer.holds(stored.sha256)

        try:
            stored = await self._c.images.put(self._stream(row, spec), check)
        except errors.Terminal as e:
            await self._failed(row, e.detail.rstrip("."), again=False)
            return
        except DriverError as e:
            await self._failed(row, e.reason, again=e.again)
            return
        try:
            await self._write(row, lambda fresh, ops, asking: _drafted(intent.fill(fresh, asking, judged[0], ops)))
        except (GivenUp, errors.Terminal):
            await writer.end()
            await image_lease.collect(self._c.work, self._c.image_rows, self._c.images, stored.sha256)
            raise

    async def _stream(self, row: Row, spec: image.Spec) -> AsyncIterator[bytes]:
        sizes = [spec.size_bytes or 0]
        task = Task(
            url=await self._url(row),
            max_bytes=spec.size_bytes or image.MAX_BYTES,
            allow=self._allow,
            own_ports=self._own_ports,
        )
        got, looked_s, told = 0, 0.0, -1.0
        async for piece in fetch(self._c.settings.fetch_socket, task, sizes.append):
            if time.monotonic() - looked_s > LOOK_S:
                looked_s = time.monotonic()
                part = round(got / sizes[-1], 1) if sizes[-1] else None
                told = await self._tell(row, part, told)
            got += len(piece)
            yield piece

    async def _url(self, row: Row) -> str:
        secret = await self._c.accounts.secret(UUID(row["fetch_secret"]))
        if secret is None:
            raise GivenUp
        nonce, sealed = bytes.fromhex(secret["nonce"]), bytes.fromhex(secret["sealed"])
        return self._c.vault.unseal(row["fetch_secret"], nonce, sealed).decode()

    async def _tell(self, row: Row, part: float | None, told: float) -> float:
        """Look whether the content is still wanted, and write the progress when it is another than told before."""
        if part == told:
            await self._fresh(row)
            return told

        def draft(fresh: Row, ops: list[Row], asking: Asking) -> Drafted:
            was = _status(fresh)
            now = msgspec.structs.replace(was, doing="fetching", progress=part, retry_at=None)
            return Drafted(draft=intent.progress(fresh, asking, now, ops), status=200, refers={})

        await self._write(row, draft)
        return told if part is None else part

    async def _failed(self, row: Row, reason: str, *, again: bool) -> None:
        LOG.warning("image.fetch-failed", image=row["name"], reason=reason, again=again)

        def draft(fresh: Row, ops: list[Row], asking: Asking) -> Drafted:
            status = steps.failed(_status(fresh), reason, asking.now, again=again)
            hints = [f"op:{op['id']}" for op in ops]
            return Drafted(draft=intent.progress(fresh, asking, status, ops), status=200, refers={}, hints=hints)

        await self._write(row, draft)

    async def _fresh(self, row: Row) -> Row:
        fresh = await self._c.resources.whole("image", object_id=UUID(row["id"]))
        if fresh is None or fresh["state"] != image.State.PENDING:
            raise GivenUp
        return fresh

    async def _write(self, row: Row, make: Callable[[Row, list[Row], Asking], Drafted]) -> None:
        """Commit what is made of the rows as they are now; anew when somebody changed them meanwhile."""
        c = self._c
        for _ in range(4):
            fresh = await self._fresh(row)
            asking = Asking(
                actor="system:image", request="", now=await c.work.now(), mint=c.carrier.mint, operator=True
            )
            drafted = make(fresh, await c.image_rows.operations(UUID(row["id"])), asking)
            with contextlib.suppress(Retry):
                await c.database.commit(drafted.draft)
                c.notifier.tell(drafted.hints)
                return
        raise errors.Transient("The image is changed all the time.")

    # --- clearing

    async def sweep(self) -> None:
        """Remove uploads that lead nowhere and bytes that no image has, when both are old enough to be nobody's work."""
        c = self._c
        with contextlib.suppress(DriverError):
            for partial in await c.images.uploads():
                image_id = parse("image", partial.upload_id)
                row = None if image_id is None else await c.resources.whole("image", object_id=image_id)
                wanted = row is not None and row["state"] == image.State.PENDING
                if partial.age_s > (UPLOAD_KEPT_S if wanted else CONTENT_KEPT_S):
                    async with image_lease.writing(c.work, partial.upload_id) as writer:
                        if writer is not None:
                            await c.images.discard(partial.upload_id)
            for content in await c.images.list():
                if content.age_s > CONTENT_KEPT_S:
                    await image_lease.collect(c.work, c.image_rows, c.images, content.sha256)


def _status(row: Row) -> image.Status:
    return image.Status() if row["status"] is None else msgspec.convert(row["status"], image.Status)


def _drafted(outcome: Drafted | errors.NubilaError) -> Drafted:
    if isinstance(outcome, errors.NubilaError):
        raise outcome
    return outcome
