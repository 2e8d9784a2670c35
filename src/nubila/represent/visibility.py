"""Which fields a viewer sees: the marks of model/fields.py, applied. Called for every answer that is made of structs.

A field marked OPERATOR is dropped for tenants, one marked NEVER for all. Types without marks cost a cached look-up.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, cast

import msgspec
from msgspec import inspect

from nubila.model.fields import Visibility

Shape = dict[str, Any]  # field -> None (dropped) | Shape of what it holds; empty: nothing is hidden below

_SEES: dict[Visibility, frozenset[str]] = {
    "tenant": frozenset({"tenant"}),
    "operator": frozenset({"tenant", "operator"}),
    "never": frozenset(),
}


@lru_cache(maxsize=1024)
def shape(kind: Any, viewer: Visibility) -> Shape:
    """What of a type is hidden from the viewer."""
    return _shape(inspect.type_info(kind), viewer, ())


def visible(body: Any, viewer: Visibility) -> Any:
    """The body without hidden fields; containers of structs are looked into, encoded bytes are not."""
    if isinstance(body, msgspec.Struct):
        hidden = shape(type(body), viewer)
        return (
            _drop(msgspec.to_builtins(body, builtin_types=(msgspec.Raw,), enc_hook=_keep), hidden) if hidden else body
        )
    if isinstance(body, dict):
        return {
            k: visible(v, viewer) if isinstance(v, (msgspec.Struct, dict, list, tuple)) else v for k, v in body.items()
        }
    if isinstance(body, (list, tuple)):
        return [visible(v, viewer) for v in body]
    return body


def strip(raw: str, kind: Any, viewer: Visibility) -> msgspec.Raw:
    """JSON text of a `kind`, as stored, without what is hidden; passed through untouched when nothing is."""
    hidden = shape(kind, viewer)
    return msgspec.Raw(msgspec.json.encode(_drop(msgspec.json.decode(raw), hidden)) if hidden else raw)


def dropped(value: Any, kind: Any, viewer: Visibility) -> Any:
    """The same of JSON that was decoded already."""
    hidden = shape(kind, viewer)
    return _drop(value, hidden) if hidden else value


def _keep(value: Any) -> Any:
    raise TypeError(f"{type(value).__name__} cannot be shown")


def _drop(value: Any, hidden: Shape) -> Any:
    if isinstance(value, list):
        return [_drop(v, hidden) for v in value]
    if not isinstance(value, dict):
        return value
    if "*" in hidden:  # of the values of a mapping
        return {k: _drop(v, hidden["*"]) for k, v in value.items()}
    return {
        k: _drop(v, hidden[k]) if k in hidden else v
        for k, v in value.items()
        if k not in hidden or hidden[k] is not None
    }


def _shape(info: Any, viewer: Visibility, above: tuple[type, ...]) -> Shape:
    if isinstance(info, inspect.Metadata):
        return _shape(info.type, viewer, above)
    if isinstance(info, inspect.StructType):
        if info.cls in above:  # a type that holds itself
            return {}
        return _fields(info, viewer, (*above, info.cls))
    if isinstance(info, inspect.UnionType):
        merged: Shape = {}
        for part in info.types:
            merged.update(_shape(part, viewer, above))
        return merged
    if isinstance(info, inspect.DictType):
        inner = _shape(info.value_type, viewer, above)
        return {"*": inner} if inner else {}
    if isinstance(info, (inspect.ListType, inspect.VarTupleType, inspect.SetType, inspect.FrozenSetType)):
        return _shape(info.item_type, viewer, above)
    return {}


def _fields(info: inspect.StructType, viewer: Visibility, above: tuple[type, ...]) -> Shape:
    found: Shape = {}
    for f in info.fields:
        if not marks(f.type) <= _SEES[viewer]:
            found[f.encode_name] = None
        elif inner := _shape(f.type, viewer, above):
            found[f.encode_name] = inner
    return found


def marks(info: Any) -> frozenset[str]:
    """The visibility marks on a field's type; without one it is shown to tenants."""
    if isinstance(info, inspect.Metadata):
        mark = cast(dict[str, Any], info.extra or {}).get("visibility", "tenant")
        return marks(info.type) | {mark}
    return frozenset({"tenant"})
