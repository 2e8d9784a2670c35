"""Reading requests: headers, query and body, each refused at the door when it is hostile. Called by `app.py` only.

Whatever passes here can be stored: no NUL (PostgreSQL refuses it in text), no lone surrogate, no integer beyond 64
bits, no nesting that a later encoder could trip over.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Annotated, Any
from urllib.parse import parse_qsl

import msgspec
from msgspec import inspect

from nubila.api import problem
from nubila.api.route import Receive
from nubila.errors import BadRequest, Invalid, TooLarge, UnsupportedMediaType
from nubila.represent import page

Pairs = list[tuple[bytes, bytes]]

QUERY_MAX_BYTES = 8192
QUERY_MAX_FIELDS = 64
DEPTH_MAX = 32
INT_MIN, INT_MAX = -(1 << 63), (1 << 63) - 1
BODY_TIMEOUT_S = 30.0  # for a whole JSON body
CHUNK_TIMEOUT_S = 60.0  # between two pieces of an upload

_LONG_NUMBER = re.compile(rb"\d{19}")
_KEY = re.compile(r"[\x21-\x7e]{1,128}")


Moment = Annotated[str, msgspec.Meta(max_length=64, description="a time (RFC 3339) or a cursor of the change log")]


class Common(msgspec.Struct, frozen=True):
    """The parameters that the framework itself understands; a route accepts those that make sense for it."""

    plan: bool = False
    wait: Annotated[float, msgspec.Meta(ge=0, le=300, description="seconds")] = 0.0
    limit: Annotated[int, msgspec.Meta(ge=1, le=page.LIMIT_MAX)] = page.LIMIT_DEFAULT
    after: str | None = None
    fields: str | None = None
    as_of: Moment | None = None
    until: Moment | None = None


NOTHING = Common()


class QueryReader:
    """Decodes the query string of one route; made once, at build."""

    def __init__(self, kind: type[Any], common: frozenset[str]):
        self._kind = kind
        self._common = common
        info: Any = inspect.type_info(kind)
        self._own = {f.encode_name: _repeats(f.type) for f in info.fields}
        if clash := common & self._own.keys():
            raise TypeError(f"{kind.__name__}: {', '.join(sorted(clash))} is a common parameter; leave it out")
        self.known = sorted(common | self._own.keys())
        # The usual case: nothing given. A struct that can be shared is made once.
        self._empty = None if any(f.required for f in info.fields) or not _frozen(kind) else kind()

    def read(self, text: str) -> tuple[Any, Common]:
        if not text and self._empty is not None:
            return self._empty, NOTHING
        values = self._values(text)
        mine = {k: v for k, v in values.items() if k in self._own}
        theirs = {k: v for k, v in values.items() if k not in self._own}
        query = _convert(mine, self._kind)
        common = _convert(theirs, Common) if theirs else NOTHING
        if _LONG_NUMBER.search(text.encode()):
            _bounded(query)
        return query, common

    def _values(self, text: str) -> dict[str, Any]:
        try:
            pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=QUERY_MAX_FIELDS)
        except ValueError:
            raise BadRequest(f"The query is not valid UTF-8, or has more than {QUERY_MAX_FIELDS} parameters.") from None
        values: dict[str, Any] = {}
        for key, value in pairs:
            if "\x00" in key or "\x00" in value:
                raise BadRequest("The query contains a NUL character.")
            if key not in self._own and key not in self._common:
                known = f"Known are: {', '.join(self.known)}." if self.known else "This address takes none."
                raise Invalid(f"Unknown query parameter '{key[:80]}'. {known}", field=key[:80], where="query")
            if self._own.get(key):
                values.setdefault(key, []).append(value)
            elif key in values:
                raise Invalid(f"The query parameter '{key}' is given twice.", field=key, where="query")
            else:
                values[key] = value
        return values


class BodyReader:
    """Decodes the JSON body of one route; made once, at build."""

    def __init__(self, kind: type[Any], *, strict: bool):
        info = inspect.type_info(kind)
        if strict and (loose := _tolerant(info, set())):
            raise TypeError(f"{loose}: a body's struct needs forbid_unknown_fields=True")
        self._kind = kind
        self._decoder = msgspec.json.Decoder(kind)
        self._any = _holds_any(info, set())
        self._strict = strict
        self.optional = isinstance(info, inspect.StructType) and not any(f.required for f in info.fields)

    def read(self, raw: bytes, content_type: str | None) -> Any:
        if not raw:
            if self.optional:
                return msgspec.convert({}, self._kind)
            raise BadRequest("A JSON body is needed.")
        _json_only(content_type)
        try:
            body = self._decoder.decode(raw)
            if self._suspicious(raw):
                check_storable(msgspec.json.decode(raw))
            if self._strict:
                json.loads(raw, object_pairs_hook=_each_once)
        except problem.UNDECODABLE as e:
            raise problem.undecodable(e, self._kind, raw) from None
        return body

    def _suspicious(self, raw: bytes) -> bool:
        """Whether the slow check is needed: hardly ever, and only when it looks so from the outside."""
        if b"\\u0000" in raw or _LONG_NUMBER.search(raw):
            return True
        return self._any and raw.count(b"{") + raw.count(b"[") > DEPTH_MAX


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys differ: of two values for one key, which is meant would be a guess."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
        raise Invalid(f"The key '{twice[:80]}' is given twice in one object.", field=twice[:80], where="body")
    return found


def check_storable(value: Any) -> None:
    """Raises unless the decoded JSON can be stored: run only on bodies that look suspicious."""
    todo: list[tuple[Any, int]] = [(value, 0)]
    while todo:
        item, depth = todo.pop()
        if depth > DEPTH_MAX:
            raise TooLarge(f"The body is nested more than {DEPTH_MAX} levels deep.")
        if isinstance(item, str):
            if "\x00" in item:
                raise Invalid("The body contains a NUL character.", field="body", where="body")
        elif isinstance(item, int):
            if not INT_MIN <= item <= INT_MAX:
                raise Invalid("The body contains an integer beyond 64 bits.", field="body", where="body")
        elif isinstance(item, dict):
            todo.extend((part, depth + 1) for pair in item.items() for part in pair)
        elif isinstance(item, list):
            todo.extend((part, depth + 1) for part in item)


class Intake:
    """The body of one request as it comes in: read once, bounded in size and in time."""

    __slots__ = ("_limit", "_seen", "done", "receive")

    def __init__(self, receive: Receive):
        self.receive = receive
        self._limit = 0
        self._seen = 0
        self.done = False  # everything has been read

    def expect(self, announced: int | None, limit: int) -> None:
        """`announced`: the Content-Length; None when only the body's end will tell."""
        self._limit = limit
        self.done = announced == 0
        if announced is not None and announced > limit:
            raise self._too_large()

    async def whole(self) -> bytes:
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                first = await self._piece()
                return first if self.done else first + b"".join([piece async for piece in self._rest()])
        except TimeoutError:
            raise BadRequest(f"The body did not come within {BODY_TIMEOUT_S:g} s.") from None

    async def chunks(self) -> AsyncIterator[bytes]:
        """The pieces of an upload; raises BadRequest when the client goes away or pauses for too long."""
        while not self.done:
            try:
                async with asyncio.timeout(CHUNK_TIMEOUT_S):
                    piece = await self._piece()
            except TimeoutError:
                raise BadRequest(f"Nothing of the body came for {CHUNK_TIMEOUT_S:g} s.") from None
            if piece:
                yield piece

    async def _rest(self) -> AsyncIterator[bytes]:
        while not self.done:
            yield await self._piece()

    async def _piece(self) -> bytes:
        message = await self.receive()
        if message["type"] == "http.disconnect":
            raise BadRequest("The connection ended before the whole body came.")
        piece: bytes = message.get("body", b"")
        self.done = not message.get("more_body", False)
        self._seen += len(piece)
        if self._seen > self._limit:
            raise self._too_large()
        return piece

    def _too_large(self) -> TooLarge:
        return TooLarge(f"The body is larger than {self._limit} bytes.", limit_bytes=self._limit)


def octets_only(content_type: str | None) -> None:
    if (content_type or "").partition(";")[0].strip().lower() != "application/octet-stream":
        raise UnsupportedMediaType(
            "The content must be sent as application/octet-stream.", fix="Set that Content-Type."
        )


def _json_only(content_type: str | None) -> None:
    media, _, parameters = (content_type or "").lower().partition(";")
    charset = parameters.strip().removeprefix("charset=").strip('"')
    if media.strip() != "application/json" or charset not in ("", "utf-8"):
        raise UnsupportedMediaType("The body must be sent as application/json, in UTF-8.")


def idempotency_key(value: str) -> str:
    if not _KEY.fullmatch(value):
        raise BadRequest("The Idempotency-Key must be 1 to 128 visible ASCII characters without spaces.")
    return value


def content_length(value: str | None) -> int | None:
    if value is None:
        return None
    if not (value.isascii() and value.isdecimal() and len(value) <= 18):
        raise BadRequest("The Content-Length is not a number.")
    return int(value)


def query_text(raw: bytes) -> str:
    if len(raw) > QUERY_MAX_BYTES:
        raise TooLarge(f"The query is longer than {QUERY_MAX_BYTES} bytes.")
    try:
        return raw.decode("ascii")
    except UnicodeDecodeError:
        raise BadRequest("The query contains bytes that are not ASCII; encode them with %.") from None


def _convert(values: dict[str, Any], kind: type[Any]) -> Any:
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as e:
        raise problem.invalid(e, where="query", kind=kind, sent=values) from None


def _bounded(query: msgspec.Struct) -> None:
    for name in query.__struct_fields__:
        value = getattr(query, name)
        if isinstance(value, int) and not INT_MIN <= value <= INT_MAX:
            raise Invalid(f"{name}: the number is beyond 64 bits.", field=name, where="query")


def _frozen(kind: type[Any]) -> bool:
    return bool(kind.__struct_config__.frozen)


def _repeats(info: Any) -> bool:
    """Whether a query field takes a parameter that is given more than once."""
    if isinstance(info, inspect.Metadata):
        return _repeats(info.type)
    if isinstance(info, inspect.UnionType):
        return any(map(_repeats, info.types))
    return isinstance(info, (inspect.ListType, inspect.VarTupleType, inspect.SetType, inspect.FrozenSetType))


def _below(info: Any) -> list[Any]:
    """The types directly inside a type."""
    if isinstance(info, inspect.StructType):
        return [f.type for f in info.fields]
    if isinstance(info, (inspect.UnionType,)):
        return list(info.types)
    if isinstance(info, inspect.TupleType):
        return list(info.item_types)
    return [getattr(info, name) for name in ("type", "item_type", "key_type", "value_type") if hasattr(info, name)]


def _tolerant(info: Any, above: set[type]) -> str:
    """The name of a struct in there that would ignore unknown fields, or nothing."""
    if isinstance(info, inspect.StructType):
        if info.cls in above:
            return ""
        above.add(info.cls)
        if not info.forbid_unknown_fields:
            return info.cls.__name__
    return next(filter(None, (_tolerant(part, above) for part in _below(info))), "")


def _holds_any(info: Any, above: set[type]) -> bool:
    if isinstance(info, inspect.StructType):
        if info.cls in above:
            return True  # it can nest without end
        above = above | {info.cls}
    return isinstance(info, (inspect.AnyType, inspect.RawType)) or any(_holds_any(part, above) for part in _below(info))
