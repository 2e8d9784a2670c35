"""What the shell completes: `nubila __complete WORDS...` prints what could stand at the last word, one on a line.

The scripts of `nubila completion` call it for every word. Nouns come from the literal table, verbs, options and choices
from the command's own definition, names from the API within a second. It never fails visibly: a completion that is
slow or broken must not disturb the person typing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from typing import Any

TIMEOUT_S = 1.0
FILES = "\x1ffiles"  # instead of words: names of files belong here

# first words that are no nouns -> what follows them
MACHINE: dict[str, tuple[str, ...]] = {
    "serve": ("user", "operator", "internal", "reconcile"),
    "agent": (),
    "up": (),
    "down": (),
    "destroy": (),
    "preflight": (),
    "help": (),
}
# noun -> its list, and whether only operators have it; every other noun is /v1/NOUNs on both APIs
LISTS: dict[str, tuple[str, bool]] = {
    "join-token": ("/v1/join-tokens", True),
    "node": ("/v1/nodes", True),
    "operator": ("/v1/operators", True),
    "project": ("/v1/projects", True),
    "user": ("/v1/users", True),
    "drift": ("/v1/drifts", True),
}
# nouns that are named by their id: a name of theirs is missing, or no command takes it
BY_ID = frozenset({"operation", "plan", "token", "join-token"})


class Live:
    """A parameter's completer: the names of a noun, as they are when the shell asks."""

    def __init__(self, noun: str):
        self.noun = noun

    def __call__(self, context: Any) -> list[str]:
        return list(names(self.noun, []))


def live(noun: str) -> Callable[[Any], list[str]]:
    """Marks a parameter as completed by the names of a noun."""
    return Live(noun)


def main(words: list[str]) -> int:
    with suppress(Exception):
        for word in candidates(words):
            print(word)
    return 0


def candidates(words: list[str]) -> Iterator[str]:
    """What could stand at the last of these words; those before it are taken as they are."""
    given = _joined(words)
    current = given[-1] if given else ""
    yield from (w for w in _all(given[:-1], current) if w == FILES or w.startswith(current))


def _joined(words: list[str]) -> list[str]:
    """Bash takes '--flavor=s' apart at its '=': the option and its value are words of their own here."""
    out: list[str] = []
    for i, word in enumerate(words):
        option, equals, value = word.partition("=")
        if word == "=" and out and out[-1].startswith("--"):
            if i == len(words) - 1:
                out.append("")
        elif equals and option.startswith("--"):
            out += [option, value]
        else:
            out.append(word)
    return out


def _all(before: list[str], current: str) -> Iterator[str]:
    from nubila.cli.main import NOUNS, root

    if not before or before == ["help"]:
        yield from NOUNS
        yield from MACHINE if not before else ()
        return
    if before[0] not in NOUNS:
        yield from MACHINE.get(before[0], ())
        return
    app = root()[before[0]]
    verbs = [v for v in app if not v.startswith("-")]
    if verbs and len(before) == 1:
        yield from verbs
        return
    command = app[before[1]] if verbs else app
    yield from _arguments(command, before[2 if verbs else 1 :], current, before)


def _arguments(command: Any, given: list[str], current: str, line: list[str]) -> Iterator[str]:
    """Options, or what the option or the argument at this place takes."""
    known = [a for a in command.assemble_argument_collection() if a.show and a.names]
    options = {name: a for a in known for name in a.names if name.startswith("-")}
    places = [a for a in known if not any(n.startswith("-") for n in a.names)]
    at, pending = 0, None
    for word in given:
        if word == "--":
            return
        if pending is not None:
            pending = None
        elif word in options:
            pending = None if _is_flag(options[word]) else options[word]
        elif not word.startswith("-"):
            at += 1
    if pending is not None:
        yield from _values(pending, line)
    elif current.startswith("-"):
        yield from (n for n, a in options.items() if n not in given or "list" in str(a.hint))
        yield "--help"
    elif places:
        last = places[-1]
        if at < len(places) or last.field_info.kind is last.field_info.VAR_POSITIONAL:
            yield from _values(places[min(at, len(places) - 1)], line)


def _is_flag(argument: Any) -> bool:
    return argument.hint is bool or "bool" in str(argument.hint)


def _values(argument: Any, line: list[str]) -> Iterator[str]:
    if isinstance(argument.parameter.completer, Live):
        yield from names(argument.parameter.completer.noun, line)
    elif "Path" in str(argument.hint):
        yield FILES
    else:
        yield from argument.get_choices() or ()


def names(noun: str, words: list[str]) -> Iterator[str]:
    """Names (ids of what has none) of a noun, of the context that the line names."""
    from pathlib import Path

    from nubila.cli import contexts
    from nubila.client.transport import Transport, expect

    given = dict(pairwise(words))
    file = given.get("--contexts")
    found = contexts.load(Path(file) if file else None)
    if noun == "context":
        yield from (c.name for c in found.all)
        return
    context = found.get(given.get("--context"))
    path, operators = LISTS.get(noun, (f"/v1/{noun}s", False))
    operators = operators or given.get("--as") == "operator" or context.user_token is None
    url, token = (context.operator_url, context.operator_token) if operators else (context.user_url, context.user_token)
    if url is None or token is None:
        return
    transport = Transport(url, ca=found.resolve(context.ca), token=token, timeout_s=TIMEOUT_S)
    for item in expect(transport.request("GET", path)).json()["items"]:
        name = str((item.get("id") if noun in BY_ID else item.get("name")) or item.get("id") or "")
        if name.isprintable():
            yield name
