"""`nubila NOUN history`: what became of one object, by whom, when and why; and how two moments are told apart."""

# no postponed annotations here: they name what is known only inside a call
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import islice
from typing import Annotated, Any

from cyclopts import App, Parameter

from nubila.cli import exits, table
from nubila.cli.options import Either, Plane, named, verb
from nubila.cli.session import Session
from nubila.cli.terminal import line, paint
from nubila.client.calls import Find, Json
from nubila.client.transport import segment

WORDS = {"insert": "created", "update": "changed", "delete": "deleted", "baseline": "as kept from earlier"}
LIMIT = 50


def of(app: App, kind: str, plural: str, *, plane: Plane | None = None) -> None:
    """Registers `history` as a verb of a noun; `plane`: the only API that has it."""

    def history(
        name: Annotated[str, named(kind)],
        /,
        *,
        limit: Annotated[int, Parameter(help="At most so many changes, the newest.")] = LIMIT,
        full: Annotated[bool, Parameter(negative="", show_default=False, help="All fields of a creation too.")] = False,
        options: Either = Either(),
    ) -> int:
        session = Session(options)
        api = session.either(plane or options.as_)
        items = list(islice(api.pages(f"/v1/{plural}/{segment(name)}/history", Find(limit=limit)), limit))
        if options.as_json:
            from nubila.cli.flow import print_json

            print_json({"items": items, "next": None})
        else:
            # what changed nothing that can be seen, as a node's word that it took the wish up, says nothing here
            told = [i for i in items if full or i.get("changes") or i.get("action") != "update"]
            print("\n".join(part for item in told for part in _change(item, full=full)))
        return exits.OK

    history.__doc__ = f"Show who changed what of {'an' if kind[0] in 'aeiou' else 'a'} {kind}, newest first."
    verb(app, "history", f"nubila {kind} history {'op-01k...' if kind == 'operation' else 'NAME'}")(history)


def changes(found: Json) -> str:
    """The difference of one object between two moments."""
    return "\n".join(_fields(found.get("changes") or [])) or "Nothing changed."


def differences(items: Iterable[Json]) -> str:
    """The differences of a list between two moments."""
    parts: list[str] = []
    for item in items:
        name = line(item.get("name") or item.get("id"))
        parts.append(paint(f"{line(item.get('kind'))} {name} {line(item.get('action'))}", "bold"))
        if item.get("action") == "changed":
            parts += _fields(item.get("changes") or [])
    return "\n".join(parts) or "Nothing changed."


def _change(item: Json, *, full: bool) -> Iterator[str]:
    what = WORDS.get(str(item.get("action")), line(item.get("action")))
    why = f", {line(item['reason'])}" if item.get("reason") else ""
    request = f"  {line(item['request'])}" if item.get("request") else ""
    head = f"{moment(item.get('at'))}  {what} by {_who(item)}{why}{request}"
    if item.get("actor") == "changed in the database by hand":
        head = f"{moment(item.get('at'))}  {line(item['actor'])}: {what}"
    yield paint(head, "bold")
    told = item.get("changes") or []
    if item.get("action") in ("insert", "baseline") and not full:
        told = [c for c in told if c.get("field") in ("name", "state")]
    yield from _fields(told)


def _who(item: Json) -> str:
    """'user ada'; the id where nobody has a name for it."""
    if item.get("actor_name"):
        return f"{line(str(item.get('actor')).partition(':')[0])} {line(item['actor_name'])}"
    return line(item.get("actor"))


def _fields(told: list[Json]) -> Iterator[str]:
    width = max((len(str(c.get("field"))) for c in told), default=0)
    for c in told:
        was, now = _value(c.get("was")), _value(c.get("is_now"))
        yield f"    {line(c.get('field')).ljust(width)}  {now if c.get('was') is None else f'{was} -> {now}'}".rstrip()


def _value(value: Any) -> str:
    text = table.cell(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def moment(at: object) -> str:
    """To the millisecond, in UTC: what `--as-of` takes."""
    try:
        return datetime.fromisoformat(str(at)).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    except ValueError:
        return line(at)
