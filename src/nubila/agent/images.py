"""Images for the whole node: each is fetched once, however many vms wait for it. Called by the lanes in the loop's
thread.

It has threads of its own, so that downloads take no worker from other vms; when one ends, all that waited go on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from nubila.agent import steps as p
from nubila.drivers import DriverError
from nubila.drivers.storage.base import Storage
from nubila.telemetry import log

LOG = log.get(part="agent")

THREADS = 2
Download = Callable[[str, Path, Callable[[float], None]], None]  # image id, where to, progress 0..1
Done = Callable[[DriverError | None], None]


class Images:
    def __init__(self, loop: asyncio.AbstractEventLoop, storage: Storage, download: Download, here: set[str]):
        """`here` gets the hash of each image that is there."""
        self._loop, self._storage, self._download, self._here = loop, storage, download, here
        self._waiting: dict[str, list[Done]] = {}
        self._progress: dict[str, float] = {}
        self._queue: SimpleQueue[p.Image | None] = SimpleQueue()
        self._threads: list[Thread] = []

    def want(self, image: p.Image, done: Done) -> None:
        waiting = self._waiting.setdefault(image.sha256, [])
        waiting.append(done)
        if len(waiting) > 1:
            return
        if len(self._threads) < THREADS:
            self._threads.append(Thread(target=self._run, name=f"image-{len(self._threads)}", daemon=True))
            self._threads[-1].start()
        self._queue.put(image)

    def progress(self, sha256: str) -> float | None:
        """Rounded, so that a report is not due for every block."""
        part = self._progress.get(sha256)
        return None if part is None else round(part, 1)

    def close(self) -> None:
        for _ in self._threads:
            self._queue.put(None)

    def _run(self) -> None:
        while (image := self._queue.get()) is not None:
            error = self._have(image)
            with contextlib.suppress(RuntimeError):  # the loop is closed: the agent ends
                self._loop.call_soon_threadsafe(self._done, image.sha256, error)

    def _have(self, image: p.Image) -> DriverError | None:
        def progress(part: float) -> None:
            self._progress[image.sha256] = part

        try:
            self._storage.ensure_image(image.sha256, lambda path: self._download(image.image_id, path, progress))
        except DriverError as e:
            return e
        except Exception as e:
            LOG.exception("image.fetch-failed", image_id=image.image_id)
            return DriverError(f"the image could not be fetched: {type(e).__name__}")
        return None

    def _done(self, sha256: str, error: DriverError | None) -> None:
        self._progress.pop(sha256, None)
        if error is None:
            self._here.add(sha256)
        for done in self._waiting.pop(sha256, []):
            done(error)
