"""Resources as JSON. Called by list and show handlers with rows, and by the framework with whatever a handler answers.

`spec` and `status` come from the database as JSON text and pass through unparsed: that is what makes lists cheap.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any
from uuid import UUID

import msgspec

from nubila.errors import Invalid
from nubila.model import ids
from nubila.model.fields import Visibility
from nubila.represent import visibility

_ENCODER = msgspec.json.Encoder()
_EMPTY = msgspec.Raw(b"{}")


def encode(body: object) -> bytes:
    return _ENCODER.encode(body)


@lru_cache(maxsize=4096)
def _text(kind: str, value: UUID) -> str:
    return ids.text(kind, value)


def resource(
    kind: str,
    row: Mapping[str, Any],
    *,
    viewer: Visibility,
    spec_type: type | None = None,
    status_type: type | None = None,
    **extras: Any,
) -> dict[str, Any]:
    """A row (id, name, project_id, labels, generation, state, spec, status, created_at, updated_at) as a resource.

    The types are needed only where they mark fields as hidden. `extras` are added at the top, and may replace.
    """
    project, status, labels = row.get("project_id"), row.get("status"), row.get("labels")
    return {
        "id": ids.text(kind, row["id"]),
        "kind": kind,
        "name": row.get("name"),
        "project_id": _text("project", project) if project is not None else None,
        "labels": msgspec.Raw(labels) if isinstance(labels, str) else labels or _EMPTY,
        "generation": row["generation"],
        "state": row["state"],
        "spec": _part(row["spec"], spec_type, viewer),
        "status": None if status is None else _part(status, status_type, viewer),
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
        **extras,
    }


def listing(items: Iterable[object], next_link: str | None) -> bytes:
    """A page of a list, encoded; its items must be visible to the viewer already, as those of `resource` are."""
    return _ENCODER.encode({"items": list(items), "next": next_link})


# fields that an object has only at times: asking for one is never a mistake
AT_TIMES = frozenset({"last_state"})


def pick(encoded: bytes, names: frozenset[str]) -> bytes:
    """`?fields=`: only the named fields, of each item in a list. Raises Invalid for a field that nothing there has."""
    body = msgspec.json.decode(encoded, type=dict[str, msgspec.Raw])
    if "items" in body:
        items = msgspec.json.decode(body["items"], type=list[dict[str, msgspec.Raw]])
        if items:
            _known(names, frozenset(k for item in items for k in item))
        return _ENCODER.encode({**body, "items": [{k: v for k, v in item.items() if k in names} for item in items]})
    _known(names, frozenset(body))
    return _ENCODER.encode({k: v for k, v in body.items() if k in names})


def _known(names: frozenset[str], there: frozenset[str]) -> None:
    unknown = sorted(names - there - AT_TIMES)
    if unknown:
        raise Invalid(
            f"fields: there is no field '{unknown[0][:80]}'. Known are: {', '.join(sorted(there))}.",
            field="fields",
            where="query",
        )


def _part(value: Any, kind: type | None, viewer: Visibility) -> Any:
    if isinstance(value, str):
        return visibility.strip(value, kind, viewer) if kind is not None else msgspec.Raw(value)
    return visibility.visible(value, viewer)
