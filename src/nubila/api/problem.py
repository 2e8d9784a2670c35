"""Errors as problem+json (RFC 9457): the only place that maps an exception to a status and to words for the outside.

What is not a NubilaError or a decoding error is `internal`: its text stays in the log, under the request id.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from nubila.api import words
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


def undecodable(error: Exception, kind: Any, raw: bytes = b"") -> NubilaError:
    """One of UNDECODABLE, about a JSON body that was to be a `kind` and came as `raw`."""
    if isinstance(error, msgspec.ValidationError):
        return invalid(error, where="body", kind=kind, sent=_decoded(raw))
    if isinstance(error, RecursionError):
        return TooLarge("The body is nested too deeply.")
    if isinstance(error, UnicodeDecodeError):
        return BadRequest(f"The body is not valid JSON: byte {error.start} is not UTF-8.")
    said = str(error).removeprefix("JSON is malformed: ")
    if "surrogate" in said or ("truncated" in said and _whole(raw)):
        said = "half of a surrogate pair (an escape from \\ud800 to \\udfff alone) is no character"
    elif "truncated" in said:
        said = f"it ends after {len(raw)} bytes, in the middle"
    return BadRequest(f"The body is not valid JSON: {said[:WORDS_MAX]}.")


def invalid(error: msgspec.ValidationError, *, where: str, kind: Any = None, sent: Any = None) -> Invalid:
    """`kind`: the struct that was wanted, for saying what a field takes; `sent`: what came, for naming keys in it."""
    field, sentence = words.told(error, where, kind, sent)
    return Invalid(sentence, field=field, where=where)


def _whole(raw: bytes) -> bool:
    """Whether nothing is missing at its end: another decoder, which lets half surrogates pass, gets through."""
    try:
        json.loads(raw)
    except ValueError:
        return False
    return True


def _decoded(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except UNDECODABLE:
        return None


def _encode(body: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(body, enc_hook=str)
    except (UnicodeEncodeError, RecursionError, ValueError, TypeError):
        # A field of the error cannot be shown; the error itself must be.
        return msgspec.json.encode({k: body[k] for k in ("type", "title", "status", "slug", "request_id")})
