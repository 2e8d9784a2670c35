"""Strong ETags from numbers, and the two headers that carry them (RFC 9110, 13.1). For handlers and framework."""

from __future__ import annotations

import re

from nubila.errors import BadRequest

ANY = "*"
_LIST = re.compile(r'\s*(?:(W/)?"([\x21\x23-\x7e\x80-\xff]*)"\s*(?:,\s*|$))')


def of(*numbers: int) -> str:
    """The text between the quotes: `of(3, 17)` is '3.17'."""
    return ".".join(map(str, numbers))


def parse(header: str, name: str) -> tuple[str, ...]:
    """The tags of If-Match or If-None-Match. Weak ones keep their 'W/', since If-Match must not accept them."""
    if header.strip() == ANY:
        return (ANY,)
    tags: list[str] = []
    at = 0
    while at < len(header):
        m = _LIST.match(header, at)
        if m is None:
            break
        tags.append(("W/" if m[1] else "") + m[2])
        at = m.end()
    if not tags or at < len(header) or header.rstrip().endswith(","):
        raise BadRequest(f"{name} is not a list of entity tags.", fix=f'Send {name}: "TAG" as given in ETag, or *.')
    return tuple(tags)


def matches(if_match: tuple[str, ...] | None, etag: str) -> bool:
    """If-Match, by strong comparison. True when the header was not given."""
    return if_match is None or ANY in if_match or etag in if_match


def unchanged(if_none_match: tuple[str, ...], etag: str) -> bool:
    """If-None-Match, by weak comparison: the client has this version already."""
    return ANY in if_none_match or any(tag.removeprefix("W/") == etag for tag in if_none_match)
