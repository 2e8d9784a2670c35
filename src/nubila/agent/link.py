"""The link to the control plane: one session, a long poll for what is wanted, one request at a time for what is told.

Called by the core; it has two threads of its own and calls back in the event loop's thread. Wake-ups are hints: when
the control plane says nothing the poll ends by the clock and begins anew. Invariant: nothing older than what was
accepted before, of another session or of another installation reaches the core.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

import msgspec

from nubila.agent.wish import Floor
from nubila.client.answers import ConnectionFailed, ProblemError, Response, expect
from nubila.protocol import Answer, Hello, Received, Reported, Reports, Wanted, Welcome
from nubila.telemetry import log

LOG = log.get(part="agent")

ROOT = "/internal/v1"
BACKOFF_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
SEND_TIMEOUT_S = 30.0
UPLOAD_TIMEOUT_S = 3600.0  # with its last part the whole content is checked
POLL_SLACK_S = 15.0
FULL_EVERY_S = 900.0  # everything is asked for by the clock too, whatever was said to have changed
T = TypeVar("T")


class Wire(Protocol):
    """What of `client.transport.Transport` is used; tests give their own."""

    def request(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, object] | None = None,
        body: bytes | None = None,
        timeout_s: float | None = None,
    ) -> Response: ...

    def stream(self, method: str, path: str, *, timeout_s: float | None = None) -> AbstractContextManager[Any]: ...

    def upload(
        self,
        method: str,
        path: str,
        source: Iterable[bytes],
        *,
        length: int,
        query: dict[str, object] | None = None,
        timeout_s: float | None = None,
    ) -> Response: ...

    def close(self) -> None: ...


class Listener(Protocol):
    """The core, in the event loop's thread."""

    def on_session(self, welcome: Welcome) -> None: ...

    def on_wanted(self, wanted: Wanted) -> None: ...

    def on_refused(self) -> None:
        """A newer session of this node exists."""


def judge(answer: Wanted, *, session: int, region: str, floor: Floor, since: int, late: bool = False) -> str:
    """'take', or why not. PURE. `late`: it lay there longer than anybody waits, since this machine stood still."""
    if late:
        return "that came too late"
    if answer.region != region:
        return "of another installation"
    if answer.session != session:
        return "of another session"
    if (answer.fabric_epoch, answer.timeline) < floor.token:
        return "of an older database than one seen before"
    if answer.revision < since and (answer.fabric_epoch, answer.timeline) == floor.token:
        return "older than one seen before"
    return "take"


class Link:
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        wire: Wire,
        listener: Listener,
        hello: Callable[[], Hello],
        *,
        region: str,
        floor: Floor,
        long_poll_s: float,
        name: str = "",
    ):
        self._loop, self.wire, self._listener, self._hello = loop, wire, listener, hello
        self._region, self._floor, self._long_poll_s = region, floor, long_poll_s
        self._session: Welcome | None = None
        self._since = 0
        self._full_due_s = 0.0
        self._outbox: SimpleQueue[tuple[str, bytes, type[Any] | None, Callable[[Any], None]] | None] = SimpleQueue()
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._poll_forever, name=f"poll{name}", daemon=True),
            threading.Thread(target=self._send_forever, name=f"send{name}", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._stopped.set()
        self._outbox.put(None)
        self.wire.close()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(2.0)

    def use(self, wire: Wire) -> None:
        """Go on with a new certificate: requests under way end on the old connections."""
        self.wire = wire

    # --- what is told

    def report(self, reports: Reports, done: Callable[[Reported | None], None]) -> None:
        self._outbox.put((f"{ROOT}/reports", msgspec.json.encode(reports), Reported, done))

    def answer(self, question_id: str, answer: Answer) -> None:
        """Lost when it does not arrive: then it is asked again."""
        self._outbox.put((f"{ROOT}/answers/{question_id}", msgspec.json.encode(answer), None, lambda _: None))

    def download(self, image_id: str, path: Path, progress: Callable[[float], None]) -> None:
        """An image's bytes, for the storage driver."""
        with self.wire.stream("GET", f"{ROOT}/images/{image_id}/content", timeout_s=60.0) as stream:
            if stream.status != 200:
                raise ConnectionFailed("", f"the image service answered with status {stream.status}")
            total, got = int(stream.headers.get("content-length") or 0), 0
            with path.open("wb") as file:
                for piece in stream.chunks():
                    if self._stopped.is_set():
                        raise ConnectionFailed("", "the agent ends")
                    file.write(piece)
                    got += len(piece)
                    if total:
                        progress(got / total)

    def image_received(self, image_id: str) -> int | None:
        """How many bytes of an image's content the store has; None when it does not wait for any from this node."""
        try:
            answer = expect(self.wire.request("GET", f"{ROOT}/images/{image_id}/upload", timeout_s=SEND_TIMEOUT_S))
        except ProblemError as e:
            if e.slug in ("not-found", "conflict"):
                return None
            raise
        return msgspec.json.decode(answer.body, type=Received).received_bytes

    def image_append(self, image_id: str, part: bytes, *, offset: int, size_bytes: int, sha256: str) -> None:
        """Send one part of it. Never sent twice by itself: what came of it, `image_received` says."""
        expect(
            self.wire.upload(
                "PATCH",
                f"{ROOT}/images/{image_id}/content",
                [part],
                length=len(part),
                query={"offset": offset, "size_bytes": size_bytes, "sha256": sha256},
                timeout_s=UPLOAD_TIMEOUT_S,
            )
        )

    # --- threads

    def _poll_forever(self) -> None:
        failures, said = 0, ""
        while not self._stopped.is_set():
            try:
                if self._session is None:
                    self._open()
                else:
                    self._poll(self._session)
                failures, said = 0, ""
                continue
            except ProblemError as e:
                if not self._survives(e):
                    return
                if e.slug != said:  # a machine may wait for its approval for days
                    LOG.warning("link.refused", status=e.status, slug=e.slug, detail=e.detail)
                said = e.slug
            except (ConnectionFailed, msgspec.MsgspecError, StaleAnswer) as e:
                if not self._stopped.is_set():
                    (LOG.info if failures else LOG.warning)("link.down", reason=str(e))
            except Exception:  # whatever it is, the next try may do better
                LOG.exception("link.failed")
            self._stopped.wait(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)] * random.uniform(0.5, 1.0))  # noqa: S311
            failures += 1

    def _survives(self, problem: ProblemError) -> bool:
        if problem.slug == "wrong-session":
            LOG.error("session.refused", reason="another agent has a newer session of this node: this one ends")
            self._tell(self._listener.on_refused)
            return False
        if problem.slug == "wrong-machine":
            LOG.error("session.refused", reason=problem.detail, fix=problem.fix)
            self._tell(self._listener.on_refused)
            return False
        if problem.slug in ("not-found", "no-session"):  # a database from before this session
            self._session = None
        return True

    def _open(self) -> None:
        hello = msgspec.json.encode(self._hello())
        answer = expect(self.wire.request("POST", f"{ROOT}/sessions", body=hello, timeout_s=SEND_TIMEOUT_S))
        welcome = msgspec.json.decode(answer.body, type=Welcome)
        if welcome.region != self._region:
            raise StaleAnswer("this is another installation")
        self._session, self._since = welcome, 0
        self._tell(self._listener.on_session, welcome)

    def _poll(self, session: Welcome) -> None:
        began_s = time.monotonic()
        since = self._since if began_s < self._full_due_s else 0
        answer = expect(
            self.wire.request(
                "GET",
                f"{ROOT}/wanted",
                query={
                    "since": since,
                    "session": session.session,
                    "wait": self._long_poll_s,
                    "seal": str(self._floor.seal),
                },
                timeout_s=self._long_poll_s + POLL_SLACK_S,
            )
        )
        wanted = msgspec.json.decode(answer.body, type=Wanted)
        late = time.monotonic() - began_s > self._long_poll_s + POLL_SLACK_S
        verdict = judge(wanted, session=session.session, region=self._region, floor=self._floor, since=since, late=late)
        if verdict != "take":
            raise StaleAnswer(f"an answer {verdict} is ignored")
        token = wanted.fabric_epoch, wanted.timeline
        newer = token > self._floor.token
        seal = self._floor.seal.after(wanted.seal)
        self._floor = Floor(fabric_epoch=token[0], timeline=token[1], revision=wanted.revision, seal=seal)
        self._since = 0 if newer and not wanted.full else wanted.revision  # its counters may have gone back
        if wanted.full:
            self._full_due_s = began_s + FULL_EVERY_S * random.uniform(0.8, 1.0)  # noqa: S311
        self._tell(self._listener.on_wanted, wanted)
        if not wanted.vms and not wanted.questions and not wanted.full and time.monotonic() - began_s < 0.01:
            self._stopped.wait(0.05)  # a control plane that does not hold the poll open is not asked in a tight loop

    def _send_forever(self) -> None:
        while (item := self._outbox.get()) is not None:
            path, body, kind, done = item
            answer: Any = None
            try:
                response = expect(self._send(path, body))
                if kind is not None:
                    answer = msgspec.json.decode(response.body, type=kind)
            except (ConnectionFailed, ProblemError, msgspec.MsgspecError) as e:
                if isinstance(e, ProblemError) and e.slug == "wrong-session":
                    self._tell(self._listener.on_refused)
                if not self._stopped.is_set():
                    LOG.info("link.post-failed", path=path, reason=str(e))
            except Exception:
                LOG.exception("link.post-failed", path=path)
            self._tell(done, answer)

    def _send(self, path: str, body: bytes) -> Response:
        """Once more on a connection that was closed while idle; a report may arrive twice, that does no harm."""
        try:
            return self.wire.request("POST", path, body=body, timeout_s=SEND_TIMEOUT_S)
        except ConnectionFailed as e:
            if e.slug == "no-answer" or self._stopped.is_set():
                raise
            return self.wire.request("POST", path, body=body, timeout_s=SEND_TIMEOUT_S)

    def _tell(self, call: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *args)
        except RuntimeError:  # the loop is closed: the agent ends
            self._stopped.set()


class StaleAnswer(Exception):
    """An answer that must not be believed."""
