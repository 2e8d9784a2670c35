"""`nubila events`: what changes, as it changes."""

from __future__ import annotations

import json
from typing import Annotated, Any

from cyclopts import Parameter

from nubila.cli import exits
from nubila.cli.exits import Failure
from nubila.cli.history import WORDS, moment
from nubila.cli.options import As, Common, noun
from nubila.cli.session import Session
from nubila.cli.terminal import line, paint

app = noun("events", "What changes, as it changes.")
app.help_epilogue = "Examples:\n  nubila events\n  nubila events --kind vm --json\n  nubila events --after 1.4711.99"


@app.default
def follow(
    *,
    kind: Annotated[list[str] | None, Parameter(negative="", help="Only of this kind; repeatable.")] = None,
    object_: Annotated[str | None, Parameter(name="--object", help="Only of this object, by its id.")] = None,
    after: Annotated[str | None, Parameter(help="Begin after this cursor.")] = None,
    as_: As = None,
    options: Common = Common(),
) -> int:
    """Show changes until Ctrl-C; a lost connection is taken up again without a gap."""
    api = Session(options).either(as_)
    for event in api.events({"kind": tuple(kind or ()), "object": object_, "after": after}):
        data: Any = event["data"]
        if options.json:
            print(json.dumps(event), flush=True)
        elif event["event"] == "change":
            print(_words(data), flush=True)
        elif event["event"] == "reset":
            print(
                paint("The database was restored, or that place is too old: read everything anew.", "bold"), flush=True
            )
        if event["event"] == "end":
            raise Failure(line(data.get("detail")), code=exits.DENIED)
    return exits.OK


def _words(found: dict[str, Any]) -> str:
    content = found.get("content") or {}
    name = content.get("name") or found.get("id") or ""
    state = f": {content['state']}" if content.get("state") else ""
    what = WORDS.get(str(found.get("action")), str(found.get("action")))
    return line(f"{moment(found.get('at'))} {found.get('kind')} {name} {what} by {found.get('actor')}{state}")
