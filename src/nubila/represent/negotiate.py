"""Content negotiation: which representation an Accept header asks for, out of a literal table. For the framework."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from nubila.errors import NotAcceptable
from nubila.represent import json

# media type -> how a body becomes bytes. MessagePack, HTML and CSV are one function and one line each.
REPRESENTATIONS: dict[str, Callable[[object], bytes]] = {
    "application/json": json.encode,
}


@lru_cache(maxsize=512)
def choose(accept: str, offered: tuple[str, ...]) -> str:
    """The media type to answer with, or NotAcceptable. Malformed parts of the header are skipped, as if not sent."""
    ranges = _ranges(accept)
    best, best_q = "", 0.0
    for media in offered:
        q = _quality(media, ranges)
        if q > best_q:
            best, best_q = media, q
    if not best:
        raise NotAcceptable(
            f"This address answers only with {' or '.join(offered)}.",
            fix=f"Accept {offered[0]}.",
            offered=list(offered),
        )
    return best


def _ranges(accept: str) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for part in accept.lower().split(",")[:50]:
        media, *parameters = (p.strip() for p in part.split(";"))
        if media.count("/") != 1:
            continue
        q = 1.0
        for p in parameters:
            if p.startswith("q="):
                try:
                    q = min(max(float(p[2:]), 0.0), 1.0)
                except ValueError:
                    q = 0.0
        found.append((media, q if q == q else 0.0))
    return found


def _quality(media: str, ranges: list[tuple[str, float]]) -> float:
    """Of the most specific range that fits the type (RFC 9110, 12.5.1)."""
    for pattern in (media, media.split("/")[0] + "/*", "*/*"):
        fitting = [q for name, q in ranges if name == pattern]
        if fitting:
            return max(fitting)
    return 0.0
