"""The OpenAPI 3.1 document of a plane, from its route table. Schemas are msgspec's own, so that it never says less than
the door checks. Called once per process, when somebody asks for it, and by the test that lets `/v1` only grow.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from nubila.errors import (
    BadRequest,
    Busy,
    Conflict,
    DatabaseFull,
    Forbidden,
    Invalid,
    KeyReused,
    NotAcceptable,
    NotFound,
    NubilaError,
    PreconditionFailed,
    TooLarge,
    Unauthenticated,
    UnsupportedMediaType,
)
from nubila.model import ids

REFERENCE = "#/components/schemas/{name}"
PROBLEM_REFERENCE = {"$ref": REFERENCE.format(name="Problem")}
OCTETS = "application/octet-stream"

PRINTABLE = r"^[!-~]+$"
WITHOUT_NUL = r"^[^\u0000]*$"
# header -> its shape; both are only looked at on writes
HEADERS: dict[str, str] = {
    "Idempotency-Key": r"^[!-~]{1,128}$",
    "If-Match": r"""^(\*|(W/)?"[!#-~]*"(, (W/)?"[!#-~]*")*)$""",
}

_PARAM = re.compile(r"\{([a-z_]+)(?::([a-z_]+))?\}")


class Problem(msgspec.Struct):
    """RFC 9457, with what to do about it. More fields may follow, by slug."""

    type: str
    title: str
    status: int
    detail: str
    slug: str
    fix: str
    request_id: str


class Resource(msgspec.Struct):
    """What all resources have in common; a kind may have more. With `?fields=` only those that were asked for."""

    id: str
    kind: str
    name: str | None
    project_id: str | None
    labels: dict[str, str]
    generation: int
    state: str
    spec: dict[str, Any]
    status: dict[str, Any] | None
    created_at: datetime
    updated_at: datetime


class Listing(msgspec.Struct):
    """A page of a list; `next` leads to the page after it."""

    items: list[Resource]
    next: str | None


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """What the document says of one route."""

    method: str
    path: str
    permission: str
    roles: Sequence[str]
    open: bool
    summary: str
    body: Any
    body_optional: bool
    query: Any
    common: Any  # a struct with the framework's parameters
    common_taken: frozenset[str]
    answer: Any
    status: int
    statuses: Sequence[int]
    media: Sequence[str]
    upload: bool
    writes: bool
    errors: Sequence[type[NubilaError]]


def document(title: str, operations: Sequence[Operation], *, mutual_tls: bool) -> dict[str, Any]:
    kinds = [Problem]
    for o in operations:
        kinds += [k for k in (o.body, o.answer, o.query, o.common) if k is not None and k not in kinds]
    schemas, components = msgspec.json.schema_components(kinds, ref_template=REFERENCE)
    schema_of = dict(zip(map(repr, kinds), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for o in operations:
        path = _PARAM.sub(r"{\1}", o.path)
        paths.setdefault(path, {})[o.method.lower()] = _operation(o, schema_of, components)
    scheme = {"type": "mutualTLS"} if mutual_tls else {"type": "http", "scheme": "bearer"}
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": "1", "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"credential": scheme}},
    }


def _operation(o: Operation, schema_of: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": _operation_id(o),
        "tags": [o.permission.split(".")[0]],
        "summary": o.summary,
        "x-permission": o.permission,
        "x-roles": sorted(o.roles),
        "security": [] if o.open else [{"credential": []}],
        "parameters": [*_path_parameters(o), *_query_parameters(o, schema_of, components), *_header_parameters(o)],
        "responses": _responses(o, schema_of),
    }
    if o.upload:
        found["requestBody"] = {"required": True, "content": {OCTETS: {}}}
    elif o.body is not None:
        content = {"application/json": {"schema": schema_of[repr(o.body)]}}
        found["requestBody"] = {"required": not o.body_optional, "content": content}
    return found


def _operation_id(o: Operation) -> str:
    words = [w for w in re.split(r"[^a-z0-9]+", _PARAM.sub(r"by_\1", o.path)) if w and w != "v1"]
    return "_".join([o.method.lower(), *words])


def _path_parameters(o: Operation) -> list[dict[str, Any]]:
    found = []
    for name, kind in _PARAM.findall(o.path):
        schema: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": 80, "pattern": PRINTABLE}
        if kind:
            schema = {"type": "string", "pattern": f"^{ids.PREFIX[kind]}-[0-7][0-9a-hjkmnp-tv-z]{{25}}$"}
        found.append({"name": name, "in": "path", "required": True, "schema": schema})
    return found


def _query_parameters(o: Operation, schema_of: dict[str, Any], components: dict[str, Any]) -> list[dict[str, Any]]:
    own = _properties(schema_of[repr(o.query)], components)
    common = _properties(schema_of[repr(o.common)], components)
    both = own | {name: entry for name, entry in common.items() if name in o.common_taken}
    return [
        {"name": n, "in": "query", "required": required, "schema": _without_nul(s)} for n, (s, required) in both.items()
    ]


def _without_nul(schema: dict[str, Any]) -> dict[str, Any]:
    """No query may hold that character, which PostgreSQL's text cannot."""
    found = {**schema}
    if found.get("type") == "string" and not {"pattern", "enum", "format"} & found.keys():
        found["pattern"] = WITHOUT_NUL
    if "items" in found:
        found["items"] = _without_nul(found["items"])
    if "anyOf" in found:
        found["anyOf"] = [_without_nul(s) for s in found["anyOf"]]
    return found


def _properties(schema: dict[str, Any], components: dict[str, Any]) -> dict[str, tuple[Any, bool]]:
    whole = components[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    return {name: (s, name in whole.get("required", ())) for name, s in whole.get("properties", {}).items()}


def _header_parameters(o: Operation) -> list[dict[str, Any]]:
    if not o.writes:
        return []
    return [
        {"name": n, "in": "header", "required": False, "schema": {"type": "string", "pattern": p}}
        for n, p in HEADERS.items()
    ]


def _responses(o: Operation, schema_of: dict[str, Any]) -> dict[str, Any]:
    answer = schema_of[repr(o.answer)] if o.answer is not None else {}
    ok: dict[str, Any] = {"description": "done" if o.status != 202 else "accepted; see the operation"}
    if o.answer is not None or o.media[0] != "application/json":
        ok["content"] = {m: {"schema": answer} if m == "application/json" else {} for m in o.media}
    found = {str(o.status): ok}
    found |= {str(status): {"description": "as far as it came"} for status in o.statuses}
    if "plan" in o.common_taken:
        found.setdefault("200", {"description": "nothing was to be done"})
        found["200"]["description"] += "; with ?plan=1: the plan"
    for error in (*_common_errors(o), *o.errors):
        entry = found.setdefault(str(error.status), {"description": "", "content": {}})
        words = (error.__doc__ or "").strip().split("\n")[0]
        entry["description"] = f"{entry['description']} {error.slug}: {words}".strip()
        entry["content"] = {"application/problem+json": {"schema": PROBLEM_REFERENCE}}
    return found


def _common_errors(o: Operation) -> list[type[NubilaError]]:
    found: list[type[NubilaError]] = [BadRequest, NotAcceptable, TooLarge, Invalid, Busy]
    found += [] if o.open else [Unauthenticated, Forbidden]
    found += [NotFound] if "{" in o.path else []
    found += [UnsupportedMediaType] if o.upload or o.body is not None else []
    found += [Conflict, PreconditionFailed, KeyReused, DatabaseFull] if o.writes else []
    return found
