"""`?as_of=` and `?until=`: a handler's answer as it was then, or what differs between two moments. Called by `app.py`."""

from __future__ import annotations

from typing import Any

import msgspec

from nubila.api.route import Answer, Call, Route
from nubila.errors import BadRequest, NotFound
from nubila.represent import difference, json, visibility
from nubila.represent.page import next_link

NOW = "now"


async def past_answer(route: Route, call: Call[Any, Any, Any], as_of: str | None, until: str | None) -> Answer:
    """What the handler would have answered; with `until`, how that differs from what it answered later."""
    if as_of is None:
        raise BadRequest("'until' needs 'as_of': the earlier moment.", fix="Give both, or only 'as_of'.")
    if until is None:
        return await _then(route, call, as_of)
    was, now = await _body(route, call, as_of), await _body(route, call, until)
    if was is None and now is None:
        raise NotFound(f"It was there neither as of {as_of} nor as of {until}.", fix="Ask for other moments.")
    if not route.listing:
        return Answer(body={"as_of": as_of, "until": until, "changes": difference.fields(was, now)})
    items, last = _both(was or {}, now or {})
    link = next_link(call.path, call.query_text, (last,)) if last is not None else None
    return Answer(body={"as_of": as_of, "until": until, "items": items, "next": link})


async def _then(route: Route, call: Call[Any, Any, Any], as_of: str) -> Answer:
    present = call.context
    if as_of == NOW:
        return await route.handler(call)
    call.context, call.as_of = await present.as_of(as_of), as_of
    try:
        return await route.handler(call)
    except NotFound as e:
        raise NotFound(
            f"{e.detail} It was asked for as of {as_of}: it did not exist then.",
            fix="Ask for another moment, or for the present without 'as_of'.",
        ) from None
    finally:
        call.context, call.as_of = present, None


async def _body(route: Route, call: Call[Any, Any, Any], as_of: str) -> dict[str, Any] | None:
    try:
        body = (await _then(route, call, as_of)).body
    except NotFound:
        return None
    raw = body if isinstance(body, bytes) else json.encode(visibility.visible(body, call.viewer))
    found: dict[str, Any] = msgspec.json.decode(raw)
    return found


def _both(was: dict[str, Any], now: dict[str, Any]) -> tuple[list[dict[str, Any]], str | None]:
    """The differences up to where both pages reach, and the id to go on from if one of them has a next."""
    ends = [page["items"][-1]["id"] for page in (was, now) if page.get("next")]
    last = min(ends, default=None)
    sides = [[o for o in page.get("items", ()) if last is None or o["id"] <= last] for page in (was, now)]
    return difference.objects(*sides), last
