"""The compiled table of a plane: from a raw path to the routes there. Built once; ambiguity and gaps stop the build."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes
from uuid import UUID

from nubila.access import policy
from nubila.access.policy import Rule
from nubila.api.read import BodyReader, QueryReader
from nubila.api.route import Route
from nubila.errors import BadRequest, NotFound
from nubila.model import ids
from nubila.model.catalog import Plane

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
PARAM_MAX = 80

_SEGMENT = re.compile(r"[a-z0-9._~-]+|\{([a-z_]+)(?::([a-z_]+))?\}")


@dataclass(frozen=True, slots=True)
class Bound:
    """A route with all that can be prepared before its first request."""

    route: Route
    rule: Rule
    query: QueryReader
    body: BodyReader | None
    params: tuple[tuple[str, str | None], ...]  # (name, kind or None) in the path's order

    def bind(self, values: list[str]) -> tuple[dict[str, str], dict[str, UUID]]:
        """Path parameters, checked: as text, and parsed where the route names a kind."""
        texts: dict[str, str] = {}
        parsed: dict[str, UUID] = {}
        for (name, kind), value in zip(self.params, values, strict=True):
            if not value.isprintable():
                raise BadRequest("The address contains unprintable characters.")
            if len(value) > PARAM_MAX:
                raise NotFound()
            texts[name] = value
            if kind is not None:
                found = ids.parse(kind, value)
                if found is None:
                    raise NotFound()
                parsed[name] = found
        return texts, parsed


@dataclass(slots=True)
class Node:
    children: dict[bytes, Node] = field(default_factory=dict)
    param: Node | None = None
    methods: dict[str, Bound] = field(default_factory=dict)

    @property
    def allow(self) -> list[str]:
        return sorted({*self.methods, "OPTIONS", *(["HEAD"] if "GET" in self.methods else [])})


def compiled(plane: Plane, routes: tuple[Route, ...]) -> Node:
    root = Node()
    for route in routes:
        node, params = root, []
        for segment in _segments(route):
            m = _SEGMENT.fullmatch(segment)
            if m is None or (m[2] and m[2] not in ids.PREFIX):
                raise ValueError(f"{route.path}: '{segment}' is not a segment")
            if m[1]:
                params.append((m[1], m[2]))
                node.param = node = node.param or Node()
            else:
                node = node.children.setdefault(segment.encode(), Node())
        if route.method not in METHODS or route.method in node.methods:
            raise ValueError(f"{route.method} {route.path}: given twice, or no method of this framework")
        node.methods[route.method] = _bound(plane, route, tuple(params))
    return root


def find(root: Node, raw_path: bytes) -> tuple[Node, list[str]]:
    """The node of a path and its parameters' values. A literal segment goes before a parameter, without a way back."""
    node, values = root, []
    for segment in raw_path[1:].split(b"/"):
        plain = unquote_to_bytes(segment) if b"%" in segment else segment
        child = node.children.get(plain)
        if child is None:
            if node.param is None or not plain:
                raise _nothing_here()
            child = node.param
            try:
                values.append(plain.decode())
            except UnicodeDecodeError:
                raise BadRequest("The address is not valid UTF-8.") from None
        node = child
    if not node.methods:
        raise _nothing_here()
    return node, values


def _nothing_here() -> NotFound:
    return NotFound("There is nothing at this address.", fix="See /openapi.json for the addresses of this API.")


def _segments(route: Route) -> list[str]:
    if not route.path.startswith("/"):
        raise ValueError(f"{route.path}: a path starts with '/'")
    return route.path[1:].split("/")


def _bound(plane: Plane, route: Route, params: tuple[tuple[str, str | None], ...]) -> Bound:
    try:
        rule = policy.rule(plane, route.permission)
    except KeyError:
        raise LookupError(
            f"{route.method} {route.path}: '{route.permission}' has no row in the {plane} policy"
        ) from None
    # Agents one version newer may send fields that this side does not know.
    body = BodyReader(route.body, strict=plane is not Plane.INTERNAL) if route.body is not None else None
    return Bound(route, rule, QueryReader(route.query, common(plane, route)), body, params)


def common(plane: Plane, route: Route) -> frozenset[str]:
    """The parameters of the framework that a route takes."""
    taken: dict[str, Any] = {
        "plan": route.writes and route.plans and not route.upload and plane is not Plane.INTERNAL,
        "wait": route.held or (route.writes and plane is not Plane.INTERNAL and not route.upload),
        "limit": route.listing,
        "after": route.listing,
        "as_of": route.has_past and plane is not Plane.INTERNAL,
        "until": route.has_past and plane is not Plane.INTERNAL,
        "fields": not route.writes and route.media[0] == "application/json",
    }
    return frozenset(name for name, takes in taken.items() if takes)
