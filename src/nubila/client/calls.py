"""One call to an API: keys, bounded repetition, pages, and waiting for operations. The base of both clients.

Invariant: a write is repeated only with the Idempotency-Key of its first try, so it is carried out once at most.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from nubila.client.answers import ConnectionFailed, ProblemError, Response, expect
from nubila.client.transport import Query, Transport

Json = dict[str, Any]

ATTEMPTS = 4  # of one call, in all
PATIENCE_S = 45.0  # no further attempt begins later than this
PAUSE_S = 0.25  # before the second attempt; doubled each time
PAUSE_MAX_S = 5.0
PAGE_MAX = 1000
SLICE_S = 20.0  # one long poll
GRACE_S = 15.0  # longer than a long poll, before the answer counts as lost
OPEN = frozenset({"waiting", "running"})  # the states of an operation that has not ended


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """How a write is sent. `key` is made when it is not given."""

    plan: bool = False  # only show what would happen
    wait_s: float | None = None  # answer when the operation has ended, or after this time
    if_match: str | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Find:
    """Which objects of a list, and how many at most (None: all)."""

    name: str | None = None
    state: str | None = None
    labels: tuple[str, ...] = ()  # 'key=value'
    limit: int | None = None
    more: tuple[tuple[str, str | None], ...] = ()  # filters of one noun: 'node' of vms, 'resource' of operations

    def query(self) -> Json:
        page = None if self.limit is None else max(1, min(self.limit, PAGE_MAX))
        return {"name": self.name, "state": self.state, "label": self.labels, "limit": page, **dict(self.more)}


NOW = How()
ALL = Find()


class Calls:
    """One listener with one credential. `sleep` and `clock` are the test's, if it has its own."""

    def __init__(
        self,
        transport: Transport,
        *,
        attempts: int = ATTEMPTS,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.transport = transport
        self._attempts, self._sleep, self._clock = attempts, sleep, clock
        self.moment: Json = {}  # 'as_of' and 'until' of every read

    def get(self, path: str, query: Query | None = None) -> Any:
        """The JSON at `path`."""
        return self.send("GET", path, query={**self.moment, **(query or {})}).json()

    def tagged(self, path: str) -> tuple[Json, str | None]:
        """The JSON at `path`, and its ETag for If-Match."""
        response = self.send("GET", path, query=self.moment)
        return response.json(), response.headers.get("etag")

    def write(self, method: str, path: str, body: object = None, how: How = NOW) -> Json:
        """Send a write, again if need be, and return its JSON ({} if it has none)."""
        headers = {"Idempotency-Key": how.key or new_key()}
        if how.if_match is not None:
            headers["If-Match"] = how.if_match
        query: Json = {"plan": 1 if how.plan else None, "wait": how.wait_s}
        data = None if body is None else json.dumps(body).encode()
        wait_s = self.transport.timeout_s + (how.wait_s or 0)
        response = self.send(method, path, query=query, body=data, headers=headers, timeout_s=wait_s)
        found: Json = response.json() if response.body else {}
        return found

    def pages(self, path: str, find: Find = ALL, **only: str | None) -> Iterator[Json]:
        """Every object of a list, page after page, up to `find.limit`. `only`: filters that this list alone has."""
        left = find.limit
        query: Query = {**find.query(), **{k: v for k, v in only.items() if v is not None}}
        while True:
            page = self.get(path, query)
            for item in page["items"]:
                if left is not None:
                    if left <= 0:
                        return
                    left -= 1
                yield item
            following = page.get("next")
            if not following or left == 0:
                return
            # Only its query: an answer does not decide where the credential is sent.
            query = dict(parse_qsl(urlsplit(following).query))

    def send(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Response:
        """One request, repeated while its failure may pass; reads, and writes with a key, only."""
        began = self._clock()
        pause_s = PAUSE_S
        for attempt in range(1, self._attempts + 1):
            try:
                return expect(
                    self.transport.request(method, path, query=query, body=body, headers=headers, timeout_s=timeout_s)
                )
            except (ProblemError, ConnectionFailed) as e:
                asked_s = e.retry_after_s if isinstance(e, ProblemError) else None
                wait_s = min(max(pause_s, asked_s or 0.0), PAUSE_MAX_S)
                late = self._clock() - began + wait_s > PATIENCE_S
                if attempt == self._attempts or late or not may_pass(e):
                    raise
                self._sleep(wait_s)
                pause_s *= 2
        raise AssertionError("unreachable")

    def follow(self, operation_id: str, *, timeout_s: float, slice_s: float = SLICE_S) -> Iterator[Json]:
        """The operation as it changes, until it has ended or the time is over; the caller looks at its last state.

        A server that is away meanwhile is waited for: the operation goes on without it.
        """
        end = self._clock() + timeout_s
        path = f"/v1/operations/{operation_id}"
        while True:
            left_s = end - self._clock()
            wait_s = max(0.0, min(slice_s, left_s))
            try:
                query = {"wait": round(wait_s, 3)} if wait_s else None
                found = expect(self.transport.request("GET", path, query=query, timeout_s=wait_s + GRACE_S)).json()
            except (ProblemError, ConnectionFailed) as e:
                if not may_pass(e) or left_s <= 0:
                    raise
                self._sleep(min(1.0, max(left_s, 0.05)))
                continue
            yield found
            if found.get("state") not in OPEN or self._clock() >= end:
                return


def may_pass(error: ProblemError | ConnectionFailed) -> bool:
    """The same request may succeed later."""
    return isinstance(error, ConnectionFailed) or error.transient


def new_key() -> str:
    """A random UUID (version 4) for an Idempotency-Key. Not by `uuid`, whose import costs 20 ms of the CLI's start."""
    b = bytearray(os.urandom(16))
    b[6], b[8] = b[6] & 0x0F | 0x40, b[8] & 0x3F | 0x80
    h = b.hex()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"
