"""Errors as problem+json (RFC 9457): the only place that maps an exception to a status and to words for the outside.

What is not a NubilaError or a decoding error is `internal`: its text stays in the log, under the request id.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from nubila.errors import (
    BadRequest,
    Invalid,
    MethodNotAllowed,
    NubilaError,
    TooLarge,
    Transient,
    Unauthenticated,
)

MEDIA = "application/problem+json"
RETRY_AFTER_S = 1
WORDS_MAX = 500  # of what is repeated from a request

_AT = re.compile(r"^(.*?)(?: - at `(.*)`)?$", re.DOTALL)


class Problem(msgspec.Struct, frozen=True):
    status: int
    slug: str
    body: bytes
    headers: dict[str, str]


def problem(error: BaseException, request_id: str) -> Problem:
    known = known_error(error)
    headers = {k: v for kind, more in HEADERS.items() if isinstance(known, kind) for k, v in more.items()}
    fields = dict(known.fields)
    if isinstance(known, MethodNotAllowed):
        headers["allow"] = ", ".join(fields.get("allow", ()))
    body = {
        **fields,
        "type": f"urn:nubila:problem:{known.slug}",
        "title": (type(known).__doc__ or "").strip().split("\n")[0],
        "status": known.status,
        "detail": known.detail[:4000],
        "slug": known.slug,
        "fix": known.how,
        "request_id": request_id,
    }
    return Problem(known.status, known.slug, _encode(body), headers)


# error -> headers that go with it
HEADERS: dict[type[NubilaError], Mapping[str, str]] = {
    Unauthenticated: {"www-authenticate": 'Bearer realm="nubila"'},
    Transient: {"retry-after": str(RETRY_AFTER_S)},
}


def known_error(error: BaseException) -> NubilaError:
    """The error as one of ours."""
    return error if isinstance(error, NubilaError) else NubilaError()


# What decoding may raise. Only around the decoding of what a client sent: elsewhere these are our own mistakes.
UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def undecodable(error: Exception, kind: Any) -> NubilaError:
    """One of UNDECODABLE, about a JSON body that was to be a `kind`."""
    if isinstance(error, msgspec.ValidationError):
        return invalid(error, where="body", kind=kind)
    if isinstance(error, RecursionError):
        return TooLarge("The body is nested too deeply.")
    return BadRequest(f"The body is not valid JSON: {str(error)[:WORDS_MAX]}.")


def invalid(error: msgspec.ValidationError, *, where: str, kind: Any = None) -> Invalid:
    """`kind`: the struct that was decoded, for naming what it knows and describing what a field takes."""
    m = _AT.match(str(error))
    said, path = (m[1], m[2] or "$") if m else (str(error), "$")
    field = path.removeprefix("$").removeprefix(".") or where
    field = field.replace("[...]", "[]")
    hint = _hint(kind, said, field)
    return Invalid(f"{field}: {said[:WORDS_MAX]}.{hint}", field=field, where=where)


def _hint(kind: Any, said: str, field: str) -> str:
    if kind is None:
        return ""
    fields = {f.encode_name: f for f in msgspec.inspect.type_info(kind).fields}  # type: ignore[attr-defined]
    if "unknown field" in said and field in ("body", "query"):
        return f" Known are: {', '.join(sorted(fields))}."
    info = fields[field].type if field in fields else None
    text = str((getattr(info, "extra_json_schema", None) or {}).get("description", ""))
    return f" It takes {text.rstrip('.')}." if text else ""


def _encode(body: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(body, enc_hook=str)
    except (UnicodeEncodeError, RecursionError, ValueError, TypeError):
        # A field of the error cannot be shown; the error itself must be.
        return msgspec.json.encode({k: body[k] for k in ("type", "title", "status", "slug", "request_id")})
