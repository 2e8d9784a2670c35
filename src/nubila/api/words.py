"""What a client got wrong, in words for people: from the decoder's message, the type that was wanted and what was sent.

Called by `problem`. The decoder speaks of Python types and regular expressions; here it becomes the field's whole path
and what that field takes. Values that were sent are never repeated, since they may be secret; keys and choices are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, get_type_hints

import msgspec
from msgspec import inspect

SHOWN_MAX = 80  # of a key that is repeated
_AT = re.compile(r"^(.*?)(?: - at `(.*)`)?$", re.DOTALL)
_KEY_IN = re.compile(r"key` in `(.*)")
_STEP = re.compile(r"\.(\w+)|\[(\d+|\.\.\.)\]")
_FIELD = re.compile(r"Object (missing required|contains unknown) field `(.*)`", re.DOTALL)
_GOT = re.compile(r"got `(\w+)`")
# the decoder's word -> ours
JSON_WORDS: dict[str, str] = {
    "int": "a whole number",
    "float": "a number with a fraction",
    "str": "text",
    "bool": "true or false",
    "null": "null",
    "array": "a list",
    "object": "an object",
}


def told(error: msgspec.ValidationError, where: str, kind: Any, sent: Any = None) -> tuple[str, str]:
    """(the field's path, a sentence). `kind`: the struct that was wanted; `sent`: what came, for naming a key in it."""
    found = _AT.match(str(error))
    said, path = (found[1], found[2] or "$") if found else (str(error), "$")
    of_key = _KEY_IN.match(path)
    steps = [m[1] or m[2] for m in _STEP.finditer(of_key[1] if of_key else path)]
    info = _inside(inspect.type_info(kind), steps) if kind is not None else None
    if (m := _FIELD.match(said)) is not None:
        return _of_object(m[1].startswith("missing"), m[2][:SHOWN_MAX], steps, info)
    if of_key or steps[-1:] == ["..."]:
        key = _culprit(kind, steps[: 1 if of_key else -1], sent)
        at = _dotted([*(steps if of_key else steps[:-1]), *([key] if key else [])])
        if of_key:
            return at, _of_key(at, key, info)
        return at, f"{at}{'' if key else ': each value'} must be {takes(info)}{_not(said)}."
    at = _dotted(steps)
    got = _not(said) if where == "body" else ""  # in a query all is text
    return at or where, f"{at or f'The {where}'} must be {takes(info)}{got}."


def takes(info: Any) -> str:
    """What a field of this type takes: completes '... must be'."""
    described = ""
    while isinstance(info, inspect.Metadata):
        described = described or str((info.extra_json_schema or {}).get("description", "")).rstrip(".")
        info = info.type
    if isinstance(info, inspect.UnionType):
        parts = [t for t in info.types if not isinstance(t, inspect.NoneType)]
        return " or ".join(dict.fromkeys(takes(t) for t in parts))
    if isinstance(info, inspect.StrType) and info.pattern:
        return described or "text of another form"
    base = _base(info)
    return f"{base} ({described})" if described else base


def _base(info: Any) -> str:
    if isinstance(info, inspect.IntType | inspect.FloatType):
        noun = "a whole number" if isinstance(info, inspect.IntType) else "a number"
        return noun + _range(info.ge, info.le, "from", "of at least", "of at most", "")
    if isinstance(info, inspect.StrType):
        return "text" + _range(
            info.min_length or None, info.max_length, "of", "of at least", "of at most", " characters"
        )
    if isinstance(info, inspect.BoolType):
        return "true or false"
    if isinstance(info, inspect.EnumType):
        return f"one of {', '.join(str(m.value) for m in info.cls)}"
    if isinstance(info, inspect.LiteralType):
        return f"one of {', '.join(map(str, info.values))}"
    if isinstance(info, inspect.ListType | inspect.VarTupleType | inspect.SetType | inspect.FrozenSetType):
        many = _range(info.min_length or None, info.max_length, "of", "of at least", "of at most", "")
        return f"a list{many}, each {takes(info.item_type)}"
    if isinstance(info, inspect.DictType):
        many = f" of at most {info.max_length}" if info.max_length is not None else ""
        return f"an object{many}, each value {takes(info.value_type)}"
    if isinstance(info, inspect.StructType):
        return f"an object with {', '.join(f.encode_name for f in info.fields)}" if info.fields else "an empty object"
    return "something else"


def _range(least: float | None, most: float | None, both: str, low: str, high: str, unit: str) -> str:
    if least is not None and most is not None:
        return f" {both} {least:,} to {most:,}{unit}".replace(",", "")
    if least is not None:
        return f" {low} {least}{unit}"
    return f" {high} {most}{unit}" if most is not None else ""


def _not(said: str) -> str:
    m = _GOT.search(said)
    return f", not {JSON_WORDS.get(m[1], m[1])}" if m else ""


def _of_object(missing: bool, name: str, steps: list[str], info: Any) -> tuple[str, str]:
    """A field that is not there, or that nobody knows."""
    at = _dotted([*steps, name])
    fields = {f.encode_name: f for f in info.fields} if isinstance(info, inspect.StructType) else {}
    if missing:
        wanted = f": it must be {takes(fields[name].type)}" if name in fields else ""
        return at, f"{at} is missing{wanted}."
    known = f" Known are: {', '.join(sorted(fields))}." if fields else " None are known here."
    return at, f"{at} is not a known field.{known}"


def _of_key(at: str, key: str, info: Any) -> str:
    wanted = info.key_type if isinstance(info, inspect.DictType) else None
    plain = _bare(wanted)
    if isinstance(plain, inspect.EnumType):
        return f"{at} is not known. Known are: {', '.join(str(m.value) for m in plain.cls)}."
    return f"{at}: {'the' if key else 'each'} key must be {takes(wanted)}."


def _bare(info: Any) -> Any:
    """Without its metadata, and without 'or null'."""
    while isinstance(info, inspect.Metadata):
        info = info.type
    if isinstance(info, inspect.UnionType):
        parts = [t for t in info.types if not isinstance(t, inspect.NoneType)]
        return _bare(parts[0]) if len(parts) == 1 else info
    return info


def _inside(info: Any, steps: list[str]) -> Any:
    """The type at a path."""
    for step in steps:
        whole = _bare(info)
        if isinstance(whole, inspect.StructType):
            info = next((f.type for f in whole.fields if f.encode_name == step), None)
        elif isinstance(whole, inspect.DictType):
            info = whole.value_type
        else:
            info = getattr(whole, "item_type", None)
    return _bare(info) if isinstance(_bare(info), inspect.StructType | inspect.DictType) else info


def _culprit(kind: Any, steps: list[str], sent: Any) -> str:
    """Which entry of an object with free keys was meant; '' when that cannot be said."""
    if len(steps) != 1 or not isinstance(sent, Mapping) or not isinstance(sent.get(steps[0]), Mapping):
        return ""
    hint = get_type_hints(kind, include_extras=True).get(steps[0])
    return next(_wrong_keys(sent[steps[0]], hint), "") if hint is not None else ""


def _wrong_keys(entries: Mapping[str, Any], hint: Any) -> Iterator[str]:
    for key, value in entries.items():
        try:
            msgspec.convert({key: value}, hint)
        except msgspec.ValidationError:
            yield key[:SHOWN_MAX]


def _dotted(steps: list[str]) -> str:
    out = ""
    for step in steps:
        out += f"[{step}]" if step.isdecimal() else f".{step}" if out else step
    return out
