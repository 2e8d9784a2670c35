"""The routes that every plane has: /healthz, /readyz and /openapi.json. Added by `app.build`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from nubila.access import policy
from nubila.api import read, table
from nubila.api.route import Answer, Call, Route
from nubila.errors import Transient
from nubila.model.catalog import Plane
from nubila.represent import json, openapi


class Health(msgspec.Struct, frozen=True):
    ok: bool


def openapi_document(plane: Plane, routes: tuple[Route, ...]) -> dict[str, Any]:
    """The document of a plane; also what the test reads that lets /v1 only grow."""
    operations = [_described(plane, route) for route in routes]
    return openapi.document(f"Nubila {plane} API", operations, mutual_tls=plane is Plane.INTERNAL)


def meta_routes(plane: Plane, routes: tuple[Route, ...], ready: Callable[[], Awaitable[bool]]) -> tuple[Route, ...]:
    async def healthz(call: Call[Any, Any, Any]) -> Answer:
        """Whether this process answers."""
        return Answer(body=Health(True))

    async def readyz(call: Call[Any, Any, Any]) -> Answer:
        """Whether this process can do its work: its database answers."""
        if not await ready():
            raise Transient("The database does not answer.")
        return Answer(body=Health(True))

    document: list[bytes] = []

    async def openapi_json(call: Call[Any, Any, Any]) -> Answer:
        """This document."""
        if not document:  # made once, and only if anybody asks
            document.append(json.encode(openapi_document(plane, all_routes)))
        return Answer(body=document[0])

    own = (
        Route("GET", "/healthz", "health.read", healthz, answer=Health),
        Route("GET", "/readyz", "health.read", readyz, answer=Health),
        Route("GET", "/openapi.json", "openapi.read", openapi_json, answer=dict[str, Any]),
    )
    all_routes = (*routes, *own)
    return own


def _described(plane: Plane, route: Route) -> openapi.Operation:
    rule = policy.rule(plane, route.permission)
    return openapi.Operation(
        method=route.method,
        path=route.path,
        permission=route.permission,
        roles=tuple(rule.roles),
        open=rule.open,
        summary=route.summary,
        body=route.body,
        body_optional=route.body is not None and read.BodyReader(route.body, strict=False).optional,
        query=route.query,
        common=read.Common,
        common_taken=table.common(plane, route),
        answer=route.answered,
        status=route.status,
        statuses=route.statuses,
        media=route.media,
        upload=route.upload,
        writes=route.writes and plane is not Plane.INTERNAL,
        errors=route.errors,
    )
