"""Pages of lists: `?limit=` and an opaque `?after=`, and the `next` link. Used by the framework and the list handlers.

A cursor is the sort key of the last row shown, so pages stay right while rows come and go. It is not secret and not
signed: whoever forges one only names another place in a list that they may read anyway.
"""

from __future__ import annotations

import base64
import binascii
from urllib.parse import parse_qsl, urlencode

import msgspec

from nubila.errors import BadRequest

LIMIT_DEFAULT = 100
LIMIT_MAX = 1000
CURSOR_MAX = 1024

Key = str | int | bool | float | None


class Page(msgspec.Struct, frozen=True):
    limit: int = LIMIT_DEFAULT
    after: tuple[Key, ...] | None = None  # the sort key after which to begin


FIRST = Page()
_CURSOR = msgspec.json.Decoder(tuple[Key, ...])


def encode(key: tuple[Key, ...]) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(key)).rstrip(b"=").decode()


def decode(text: str, length: int | None = None) -> tuple[Key, ...]:
    """The sort key in a cursor; `length`: how many parts the list's sort key has."""
    try:
        if not 0 < len(text) <= CURSOR_MAX:
            raise ValueError("length")
        raw = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        key = _CURSOR.decode(raw)
        if not key or (length is not None and len(key) != length) or not all(map(_storable, key)):
            raise ValueError("parts")
        return key
    except (ValueError, binascii.Error, RecursionError):
        raise foreign() from None


def foreign() -> BadRequest:
    """The answer to a cursor that this list never gave out."""
    return BadRequest(
        "The cursor in 'after' is not one of this list.",
        fix="Follow the 'next' link of the previous page, or leave 'after' out to begin again.",
    )


def _storable(part: Key) -> bool:
    if isinstance(part, str):
        return "\x00" not in part
    return not isinstance(part, int) or -(1 << 63) <= part < 1 << 63


def next_link(path: str, query_text: str, key: tuple[Key, ...]) -> str:
    """The relative address of the page after `key`: relative, so that no request header decides where it leads."""
    pairs = [(k, v) for k, v in parse_qsl(query_text, keep_blank_values=True) if k != "after"]
    return f"{path}?{urlencode([*pairs, ('after', encode(key))])}"
