"""The three courses of every command: list objects, show one, make a change. Nouns only say what and where."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from typing import Any

from nubila.cli import columns, complete, exits, history, planning, progress, table
from nubila.cli.options import Common, Listed, Plane, Send, Wait, Write
from nubila.cli.session import Session
from nubila.cli.terminal import line, paint, state_colour
from nubila.client.answers import ProblemError
from nubila.client.calls import Calls, How, Json
from nubila.client.transport import segment

__all__ = ["Json", "change", "describe", "listing", "one", "print_json", "segment", "summary"]

# of an object as lines: what comes first, what last
FIRST = ("id", "kind", "name", "state")
LAST = ("created_at", "updated_at", "etag")
GONE = frozenset({"removing", "removed"})
SAYS_NOTHING = frozenset({"-", "active"})
PAST_GONE = frozenset({"deleted", "revoked", "retired"})
# kind -> where an object of it is read again
WHERE: dict[str, str] = {
    "vm": "/v1/vms/",
    "volume": "/v1/volumes/",
    "snapshot": "/v1/snapshots/",
    "network": "/v1/networks/",
    "port": "/v1/ports/",
    "security_group": "/v1/security-groups/",
    "keypair": "/v1/keypairs/",
    "project": "/v1/projects/",
    "node": "/v1/nodes/",
    "drift": "/v1/drifts/",
}


def listing(noun: str, read: Callable[[], Iterable[Json]], options: Listed, plane: Plane) -> int:
    """Prints a list in the asked form; with --watch goes on with what changes."""
    if options.watch:
        from nubila.cli.watch import watched

        return watched(noun, read, options, plane)
    items = read()
    if options.as_json:
        print_json({"items": list(items), "next": None})
    elif options.until is not None:
        print(history.differences(items))
    elif options.output == "name":
        for item in items:
            print(line(item.get("id") if noun in complete.BY_ID else item.get("name") or item.get("id")))
    else:
        _table(noun, list(items), wide=options.output == "wide", operator=plane == "operator")
    return exits.OK


def one(found: Json, options: Common, text: Callable[[Json], str] | None = None) -> int:
    """Prints one object."""
    if options.as_json:
        print_json(found)
    else:
        differs = getattr(options, "until", None) is not None
        print(history.changes(found) if differs else text(found) if text else describe(found))
    return exits.OK


def describe(found: Json) -> str:
    """An object as lines: what it is first, then what is wished of it and what its node reports.

    Left out is what says nothing: empty values, and the id of what stands there by name. --json has all.
    """
    top = {k: found[k] for k in (*FIRST, *found) if k in found and k not in ("spec", "status", *LAST)}
    if "state" in top:
        top["state"] = columns.state(found)
    spec, status = (dict(found.get(part) or {}) for part in ("spec", "status"))
    named = frozenset(top)
    top, spec, status = (_telling(part, named) for part in (top, spec, status))
    last = _telling({k: found[k] for k in LAST if k in found}, named)
    if not spec or not status:
        return table.anything({**top, **spec, **status, **last})
    wished = {k: v for k, v in spec.items() if k not in top}
    parts = [table.anything({**top, **last})]
    for heading, part in (("wished", wished), ("reported", status)):
        if part:
            parts.append(f"{paint(f'{heading}:', 'bold')}\n{table.anything(dict(sorted(part.items())), '  ')}")
    return "\n\n".join(parts)


def _telling(part: Json, named: frozenset[str]) -> Json:
    """Without empty values and without ids of what `named` has by name; of public keys only whose they are."""
    kept: Json = {}
    for k, v in part.items():
        told = _telling(v, named) if isinstance(v, dict) and k != "labels" else v
        if told not in (None, "", [], {}) and not (k.endswith("_id") and k.removesuffix("_id") in named):
            kept[k] = told
    if isinstance(kept.get("keys"), list):
        kept["keys"] = [str(k).split(" ", 2)[-1] for k in kept["keys"]]
    if kept.get("gone") is False:
        del kept["gone"]
    return kept


def change(
    call: Callable[[How], Json],
    options: Send,
    session: Session,
    past: str,
    *,
    plane: Plane = "user",
    what: str | None = None,
    after: Callable[[Json], None] | None = None,
) -> int:
    """Makes or plans a change. `past` says in a word what was done, `what` to what if the answer does not say.

    `after` has the last word on the answer: it prints more, unless JSON was asked for.
    """
    try:
        answer = call(options.how())
    except ProblemError as e:
        if e.problem.get("already") is not True:
            raise
        if options.as_json:
            print_json(e.problem)
        else:
            print(line(e.detail))
        return exits.OK
    if isinstance(options, Write) and options.plan:
        return _plan(answer, options, session, plane)
    failure: exits.Failure | None = None
    if isinstance(options, Wait) and options.wait:
        api: Calls = session.operator if plane == "operator" else session.user
        answer, failure = _awaited(answer, options, session, api, plane)
    if options.as_json:
        print_json(answer)
    elif failure is None:
        print(f"{line(what)} {past}" if what else summary(answer, past, session.again(plane)))
        if after is not None:
            after(answer)
    if failure is not None:
        raise failure
    return exits.OK


def summary(answer: Json, past: str, again: str = "") -> str:
    """One line on what a change did: 'vm web created: running, 10.0.0.5 (vm-...)'."""
    operation = answer.get("operation")
    found = subject(answer)
    what = line(f"{found.get('kind') or ''} {found.get('name') or ''}".strip() or found.get("id") or "it")
    ident = f" ({line(found['id'])})" if found.get("id") and found.get("id") != what else ""
    if isinstance(operation, dict) and operation.get("state") != "done":
        onward = f"`nubila operation wait {line(operation.get('id'))}{again}` waits for it"
        return f"{what}: accepted, to be {past}{ident}; {onward}"
    if found.get("state") in GONE or past in PAST_GONE:
        return f"{what} {past}{ident}"
    state = columns.state(found)
    facts = [] if state in SAYS_NOTHING or state == past else [state]
    facts += [line(a) for a in columns.addresses(found)]
    return f"{what} {past}{': ' + ', '.join(facts) if facts else ''}{ident}"


def subject(answer: Json) -> Json:
    """The object that an answer is about: {"vm": {...}, "operation": {...}}, or the object itself."""
    if "kind" in answer and "id" in answer:
        return answer
    for kind, value in answer.items():
        if kind != "operation" and isinstance(value, dict) and "id" in value:
            return {"kind": kind, **value}
    operation = answer.get("operation")
    if isinstance(operation, dict):
        return {
            "kind": table.pick(operation, "resource_kind"),
            "name": table.pick(operation, "resource_name"),
            "id": table.pick(operation, "resource_id"),
        }
    return {}


def print_json(found: Any) -> None:
    """As the API sent it; on a terminal, characters that could steer it are escaped."""
    print(json.dumps(found, indent=2, ensure_ascii=sys.stdout.isatty()))


def _table(noun: str, items: list[Json], *, wide: bool, operator: bool) -> None:
    shown = columns.of(noun, wide=wide, operator=operator)
    painted = {i: state_colour for i, c in enumerate(shown) if c.header == "STATE"}
    text = table.render([c.header for c in shown], [[c.of(item) for c in shown] for item in items], painted)
    if text:
        print(text)
    else:
        print(paint(f"There is no {noun} to show.", "dim", sys.stderr), file=sys.stderr)


def _plan(plan: Json, options: Write, session: Session, plane: Plane) -> int:
    if options.as_json:
        print_json(plan)
    else:
        print(planning.whole(plan, f"nubila plan apply {line(plan.get('id'))}{session.again(plane)}"))
    return exits.OK


def _awaited(
    answer: Json, options: Wait, session: Session, api: Calls, plane: Plane
) -> tuple[Json, exits.Failure | None]:
    """The answer with its operation and object as they are at the end of the wait, and the failure that it ended in."""
    operation = answer.get("operation")
    if not isinstance(operation, dict) or "id" not in operation:
        return answer, None
    failure: exits.Failure | None = None
    try:
        operation = progress.wait(api, operation, timeout_s=options.timeout_s, again=session.again(plane))
    except exits.Failure as e:
        failure = e
        if options.as_json and e.code != exits.INTERRUPTED:
            operation = api.get(f"/v1/operations/{operation['id']}")
    return {**answer, **_again(answer, api), "operation": operation}, failure


def _again(answer: Json, api: Calls) -> Json:
    """The object of an answer, read again; nothing when it is gone by now."""
    for kind, value in answer.items():
        if kind in WHERE and isinstance(value, dict) and "id" in value:
            try:
                return {kind: api.get(WHERE[kind] + str(value["id"]))}
            except ProblemError as e:
                if e.status not in (404, 410):
                    raise
    return {}
