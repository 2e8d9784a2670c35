"""Volumes' bytes on their way to the image store: copied once, then sent part after part until the store has all of them.

A wish for it stands in the volume's own wish, and is gone when the image has its content or is not wanted any more.
Nothing is kept beside the export itself: whether one is there says the pool, how much of it came says the store. Called
by the core, in the event loop's thread; the work is done in threads of its own, so that it takes no worker from vms.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Callable
from queue import SimpleQueue
from threading import Event, Thread
from typing import BinaryIO, Protocol

import msgspec

from nubila.agent.disk_hands import DiskHands
from nubila.agent.plan import backoff_s
from nubila.client.answers import ConnectionFailed, ProblemError
from nubila.drivers import DriverError
from nubila.drivers.hypervisor.base import Hypervisor
from nubila.drivers.storage.base import Storage
from nubila.drivers.storage.base import Volume as Wish
from nubila.protocol import Export, ExportReport, Volume
from nubila.telemetry import log

LOG = log.get(part="agent")

THREADS = 2
PART_BYTES = 16 << 20
COPYING, SENDING = "copying the volume", "sending the image"
# What the store says of an image that it does not wait for: it is whole, was cancelled, or is gone.
OVER = ("conflict", "not-found")
# What trying again does not change.
HOPELESS = ("invalid", "too-large")


class Store(Protocol):
    """What of the link is used: the internal API's image store."""

    def image_received(self, image_id: str) -> int | None:
        """How many bytes of the image's content have come; None when it waits for none."""

    def image_append(self, image_id: str, part: bytes, *, offset: int, size_bytes: int, sha256: str) -> None: ...


class GivenUp(Exception):
    """The export is not wished any more."""


class Work(msgspec.Struct, kw_only=True, eq=False):
    """One export. Written by its thread but for `dropped`."""

    volume: Volume
    export: Export
    dropped: Event = msgspec.field(default_factory=Event)
    doing: str | None = None
    progress: float | None = None
    reason: str | None = None
    failures: int = 0
    hopeless: bool = False


class Exports:
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        hypervisor: Hypervisor,
        storage: Storage,
        disks: DiskHands,
        store: Store,
        uid_of: Callable[[str], int],
        changed: Callable[[str], None],
    ):
        """`changed` is told the id of a volume of which there is more to report."""
        self._loop, self._hypervisor, self._storage, self._disks = loop, hypervisor, storage, disks
        self._store, self._uid_of, self._changed = store, uid_of, changed
        self._work: dict[str, Work] = {}  # image id -> what is wished
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._threads: list[Thread] = []

    def wish(self, volume: Volume) -> None:
        """A confirmed wish: begin what is new, drop what is not wished any more."""
        wished = {} if volume.gone else {e.image_id: e for e in volume.exports}
        for image_id, work in list(self._work.items()):
            if work.volume.volume_id == volume.volume_id and image_id not in wished:
                self._drop(image_id)
        for image_id, export in wished.items():
            if image_id not in self._work:
                self._work[image_id] = Work(volume=volume, export=export)
                self._begin(self._work[image_id])

    def forget(self, volume_id: str) -> None:
        for image_id in [i for i, w in self._work.items() if w.volume.volume_id == volume_id]:
            self._drop(image_id)

    def report(self, volume_id: str) -> tuple[ExportReport, ...]:
        return tuple(
            [
                ExportReport(
                    image_id=image_id,
                    doing=w.doing,
                    progress=None if w.progress is None else round(w.progress, 1),
                    reason=w.reason,
                    hopeless=w.hopeless,
                )
                for image_id, w in self._work.items()
                if w.volume.volume_id == volume_id and (w.doing or w.reason)
            ]
        )

    def close(self) -> None:
        for work in self._work.values():
            work.dropped.set()
        for _ in self._threads:
            self._queue.put(None)

    # --- the loop's side

    def _begin(self, work: Work) -> None:
        if self._work.get(work.export.image_id) is not work:
            return
        if len(self._threads) < THREADS:
            self._threads.append(Thread(target=self._run, name=f"export-{len(self._threads)}", daemon=True))
            self._threads[-1].start()
        self._queue.put(work)

    def _drop(self, image_id: str) -> None:
        """Its file goes with it: at once when nothing is being done, else when its thread has seen it."""
        work = self._work.pop(image_id)
        work.dropped.set()
        self._queue.put(work)

    def _again(self, work: Work) -> None:
        self._loop.call_later(backoff_s(work.failures), self._begin, work)

    # --- the threads

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            error = self._tried(work)
            work.doing, work.progress = None, None
            with contextlib.suppress(RuntimeError):  # the loop is closed: the agent ends
                if error is not None and not work.dropped.is_set():
                    work.failures += 1
                    work.reason, work.hopeless = error.reason, not error.again
                    self._tell(work)
                    if error.again:
                        self._loop.call_soon_threadsafe(self._again, work)

    def _tried(self, work: Work) -> DriverError | None:
        try:
            if work.dropped.is_set():
                self._storage.remove_export(work.export.image_id)
            else:
                self._carry_out(work)
        except GivenUp:
            return None  # its drop is queued behind
        except DriverError as e:
            return e
        except ConnectionFailed as e:
            return DriverError(f"the image store cannot be reached: {e.detail}")
        except ProblemError as e:
            return DriverError(e.detail.rstrip("."), again=e.slug not in HOPELESS)
        except Exception as e:
            LOG.exception("image.export-failed", image_id=work.export.image_id)
            return DriverError(f"internal error in the agent: {type(e).__name__}")
        return None

    def _carry_out(self, work: Work) -> None:
        image_id = work.export.image_id
        if self._store.image_received(image_id) is not None:
            self._say(work, COPYING)
            file = self._storage.open_export(image_id) or self._made(work)
            with file:
                self._send(work, file)
        self._storage.remove_export(image_id)

    def _made(self, work: Work) -> BinaryIO:
        """Copied under the volume's lock: nobody begins to write meanwhile. What runs is copied by its own QEMU, as the
        disk is at one moment."""
        volume_id, image_id, format_ = work.volume.volume_id, work.export.image_id, work.export.format
        with self._disks.holding([volume_id]):
            vm_id = self._disks.holder(volume_id)
            if vm_id is None:
                self._storage.export_volume(volume_id, image_id, format_)
            else:
                source = self._storage.find(volume_id)
                if source is None:
                    raise DriverError("the volume is not here")
                uid = self._uid_of(vm_id)
                place = Wish(volume_id=image_id, format=format_, size_gib=source.size_gib, uid=uid, gid=uid)
                self._hypervisor.copy_disk(vm_id, volume_id, self._storage.begin_copy(place), format_)
                self._storage.end_export(image_id, format_)
        file = self._storage.open_export(image_id)
        if file is None:
            raise DriverError("the copy has vanished")
        return file

    def _send(self, work: Work, file: BinaryIO) -> None:
        """From where the store says that it goes on. It checks the whole against the hash: parts of two copies never
        make an image."""
        image_id = work.export.image_id
        size, sha256 = _judged(file)
        began: int | None = None
        while (offset := self._store.image_received(image_id)) is not None:
            began = offset if began is None else began
            if work.dropped.is_set():
                raise GivenUp
            work.progress = offset / size if size else None
            self._say(work, SENDING)
            file.seek(min(offset, size))
            try:
                self._store.image_append(image_id, file.read(PART_BYTES), offset=offset, size_bytes=size, sha256=sha256)
            except ProblemError as e:
                if "received_bytes" in e.problem:
                    continue
                if e.slug in OVER and self._store.image_received(image_id) is None:
                    return
                if e.slug == "invalid" and began:  # what had come before was of another copy
                    raise DriverError(e.detail.rstrip(".")) from e
                raise

    def _say(self, work: Work, doing: str) -> None:
        work.doing, work.reason = doing, None
        self._tell(work)

    def _tell(self, work: Work) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._changed, work.volume.volume_id)


def _judged(file: BinaryIO) -> tuple[int, str]:
    """Size in bytes, and SHA-256."""
    digest, size = hashlib.sha256(), 0
    while block := file.read(1 << 20):
        digest.update(block)
        size += len(block)
    return size, digest.hexdigest()
