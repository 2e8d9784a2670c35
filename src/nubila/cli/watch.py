"""`--watch` on a list: the list, and then a line for each object that becomes another one, told by the API's events.

Events say only that something happened: what is shown is read anew, so that it is always the list's own line. Many
events are one reading.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from typing import Any

from nubila.cli import columns, complete, exits, table
from nubila.cli.exits import Failure
from nubila.cli.options import Listed, Plane
from nubila.cli.session import Session
from nubila.cli.terminal import line, paint, state_colour

Json = dict[str, Any]
Items = Callable[[], Iterable[Json]]

# noun -> the kinds whose changes show in its list, beside its own
ALSO: dict[str, tuple[str, ...]] = {"vm": ("port",), "network": ("subnet",)}
UNLOGGED = {"plan": "plans are", "decision": "decisions are", "parked": "what is parked is"}
# changes by itself, which is no news
QUIET = frozenset({"AGE", "LAST REPORT s"})


def watched(noun: str, items: Items, options: Listed, plane: Plane) -> int:
    """Until Ctrl-C, or until the API ends the stream."""
    if noun in UNLOGGED or options.as_of is not None or options.until is not None:
        what = "the past does not change" if noun not in UNLOGGED else f"{UNLOGGED[noun]} not in the change log"
        raise Failure(f"--watch cannot be used here: {what}.", code=exits.USAGE)
    shown = Shown(noun, options, plane)
    for _ in _news(Session(options), noun, plane):
        for text in shown.lines(list(items())):
            print(text, flush=True)
    return exits.OK


def _news(session: Session, noun: str, plane: Plane) -> Iterator[None]:
    """Once at the beginning, and then whenever something happened; raises what ended the stream."""
    kinds = (noun.replace("-", "_"), *(ALSO.get(noun, ())))
    queue: SimpleQueue[Json | Exception] = SimpleQueue()
    api = session.either(plane)

    def follow() -> None:
        try:
            for event in api.events({"kind": kinds}):
                queue.put(event)
        except Exception as e:
            queue.put(e)

    threading.Thread(target=follow, daemon=True).start()
    while True:
        told = [queue.get()]
        while not queue.empty():
            told.append(queue.get())
        ends = [e for e in told if isinstance(e, Exception) or e.get("event") == "end"]
        if len(told) > len(ends):
            yield
        for e in ends:
            raise e if isinstance(e, Exception) else Failure(line(e["data"].get("detail")), code=exits.DENIED)


class Shown:
    """What was printed of each object last."""

    def __init__(self, noun: str, options: Listed, plane: Plane):
        self._noun, self._options = noun, options
        self._columns = columns.of(noun, wide=options.output == "wide", operator=plane == "operator")
        self._last: dict[str, tuple[str, tuple[object, ...]]] | None = None  # id -> name, what may change

    def lines(self, items: list[Json]) -> Iterator[str]:
        """What there is to print now: all at the first time, then what is new, became another, or is gone."""
        now = {self._key(i): (str(i.get("name") or i.get("id") or ""), self._news(i)) for i in items}
        first, last = self._last is None, self._last or {}
        self._last = now
        texts = self._texts(items)
        if first and texts:
            yield from texts[:1] if len(texts) > len(items) else ()
        for item, text in zip(items, texts[len(texts) - len(items) :], strict=True):
            if now[self._key(item)] != last.get(self._key(item)):
                yield text
        for key, (name, _) in last.items():
            if key not in now:
                yield (
                    json.dumps({"id": key, "gone": True})
                    if self._options.as_json
                    else paint(f"{line(name)} is gone from the list ({line(key)})", "dim")
                )

    def _texts(self, items: list[Json]) -> list[str]:
        """A line for each, after a header if there is one."""
        if self._options.as_json:
            return [json.dumps(i) for i in items]
        if self._options.output == "name":
            return [line(i.get("id") if self._noun in complete.BY_ID else i.get("name") or i.get("id")) for i in items]
        painted = {n: state_colour for n, c in enumerate(self._columns) if c.header == "STATE"}
        rows = [[c.of(i) for c in self._columns] for i in items]
        return table.render([c.header for c in self._columns], rows, painted).splitlines()

    def _key(self, item: Json) -> str:
        return str(item.get("id") or item.get("user_id") or item.get("name"))

    def _news(self, item: Json) -> tuple[object, ...]:
        if self._options.as_json:
            return (json.dumps(item),)
        return tuple(table.cell(c.of(item)) for c in self._columns if c.header not in QUIET)
