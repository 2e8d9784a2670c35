"""Server-sent events, read line by line; a connection that is lost is opened again where it broke off."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator

from nubila.client.answers import ConnectionFailed, expect
from nubila.client.transport import Query, Transport

SILENCE_S = 40.0  # longer than two heartbeats: then the connection is dead
PAUSE_S = 1.0

Json = dict[str, object]


def following(
    transport: Transport, query: Query, *, sleep: Callable[[float], None] = time.sleep
) -> Iterator[dict[str, object]]:
    """Every event with its name under 'event'. Ends when the server says 'end', raises when it refuses."""
    last: str | None = None
    while True:
        headers = {"Accept": "text/event-stream, application/problem+json"}
        if last is not None:
            headers["Last-Event-ID"] = last
        try:
            with transport.stream("GET", "/v1/events", query=query, headers=headers, timeout_s=SILENCE_S) as stream:
                if stream.status != 200:
                    expect(stream.response())
                for event in parsed(stream.chunks()):
                    last = str(event["id"])
                    yield event
                    if event["event"] == "end":
                        return
        except ConnectionFailed:
            sleep(PAUSE_S)


def parsed(pieces: Iterable[bytes]) -> Iterator[Json]:
    """{id, event, data} of each event in a stream of bytes."""
    buffer, fields = b"", dict[str, str]()
    for piece in pieces:
        *lines, buffer = (buffer + piece).split(b"\n")
        for raw in lines:
            name, _, value = raw.decode().partition(":")
            if raw and name:
                fields[name] = value.removeprefix(" ")
            elif not raw and fields:
                yield {**fields, "data": json.loads(fields.get("data", "null"))}
                fields = {}
