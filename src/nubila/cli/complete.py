"""Names for the shell: `nubila __complete WORDS...` prints what could stand at the last word, within a second.

The scripts of `nubila completion` call it at every place that a `live` parameter marks. It neither loads the command
parser nor ever fails visibly: a completion that is slow or broken must not disturb the person typing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

TIMEOUT_S = 1.0
BEGIN = "\n\x1fbegin"  # opens the records in the protocol of the generated scripts

# option -> the noun whose names it takes
OPTIONS: dict[str, str] = {
    "--context": "context",
    "--flavor": "flavor",
    "--image": "image",
    "--network": "network",
    "--key": "keypair",
    "--project": "project",
    "--into": "image",
}
# command's noun -> the noun that its first argument names, where it is another one; second arguments by (noun, verb)
NOUNS: dict[str, str] = {"quota": "project"}
SECOND: dict[tuple[str, str], str] = {
    ("project", "member"): "user",
    ("volume", "attach"): "vm",
    ("volume", "roll-back"): "snapshot",
}
# noun -> its list, and whether only operators have it; None asks for what the context has
LISTS: dict[str, tuple[str, bool]] = {
    "vm": ("/v1/vms", False),
    "operation": ("/v1/operations", False),
    "plan": ("/v1/plans", False),
    "keypair": ("/v1/keypairs", False),
    "flavor": ("/v1/flavors", False),
    "image": ("/v1/images", False),
    "network": ("/v1/networks", False),
    "volume": ("/v1/volumes", False),
    "snapshot": ("/v1/snapshots", False),
    "token": ("/v1/tokens", False),
    "project": ("/v1/projects", True),
    "user": ("/v1/users", True),
    "node": ("/v1/nodes", True),
    "operator": ("/v1/operators", True),
    "join-token": ("/v1/join-tokens", True),
    "drift": ("/v1/drifts", True),
}


def live(noun: str) -> Callable[[Any], list[str]]:
    """Marks a parameter as completed by the names of a noun."""
    return lambda context: list(names(noun))


def main(words: list[str]) -> int:
    print(BEGIN)
    with suppress(Exception):
        noun = wanted(words)
        if noun is not None:
            for name in names(noun, words):
                print(name)
    return 0


def wanted(words: list[str]) -> str | None:
    """The noun of which a name could stand at the last word."""
    if len(words) < 2:
        return None
    current, before = words[-1], words[-2]
    option, equals, _ = current.partition("=")
    if equals and option in OPTIONS:
        return OPTIONS[option]
    if before in OPTIONS:
        return OPTIONS[before]
    if current.startswith("-") or len(words) < 3:
        return None
    noun, verb = words[0], words[1]
    arguments = [w for w in words[2:-1] if not w.startswith("-")]
    if arguments and (noun, verb) in SECOND:
        return SECOND[noun, verb]
    return NOUNS.get(noun, noun)


def names(noun: str, words: list[str] | None = None) -> Iterator[str]:
    """Names (ids of what has none) of a noun, of the context that the line names."""
    from pathlib import Path

    from nubila.cli import contexts
    from nubila.client.transport import Transport, expect

    given = dict(zip(words or [], (words or [])[1:], strict=False))
    file = given.get("--contexts")
    found = contexts.load(Path(file) if file else None)
    if noun == "context":
        yield from (c.name for c in found.all)
        return
    context = found.get(given.get("--context"))
    path, operators = LISTS[noun]
    operators = operators or given.get("--as") == "operator" or context.user_token is None
    url, token = (context.operator_url, context.operator_token) if operators else (context.user_url, context.user_token)
    if url is None or token is None:
        return
    transport = Transport(url, ca=found.resolve(context.ca), token=token, timeout_s=TIMEOUT_S)
    for item in expect(transport.request("GET", path)).json()["items"]:
        name = str(item.get("name") or item.get("id") or "")
        if name.isprintable():
            yield name
