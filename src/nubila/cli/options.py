"""Options that many commands share, each with its help, as groups that a command takes whole."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter, validators

from nubila.cli import complete
from nubila.cli.help import Formatter
from nubila.client.calls import Find, How

Plane = Literal["user", "operator"]
Output = Literal["table", "wide", "json", "name"]

_SESSION = "Session"
_OUTPUT = "Output"
_WRITE = "How the change is made"
_TIME = "Time travel"


As = Annotated[
    Plane | None,
    Parameter(name="--as", help="Which API to ask; the user API unless the context has none of it.", group=_SESSION),
]


def flag(text: str, group: str) -> Parameter:
    return Parameter(negative="", help=text, group=group, show_default=False)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Common:
    """Which installation, as whom, and in which form the answer is printed."""

    json: Annotated[bool, flag("Print the API's JSON.", _OUTPUT)] = False
    output: Annotated[
        Output | None,
        Parameter(name=["--output", "-o"], help="Form: of one object, json or its name.", group=_OUTPUT, show=False),
    ] = None
    context: Annotated[
        str | None,
        Parameter(
            help="Use this context instead of the current one.", group=_SESSION, completer=complete.live("context")
        ),
    ] = None
    contexts: Annotated[Path | None, Parameter(help="The contexts file.", group=_SESSION)] = None

    @property
    def as_json(self) -> bool:
        return self.json or self.output == "json"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Past(Common):
    """For what is read: as it was at another moment."""

    as_of: Annotated[
        str | None,
        Parameter(help="As it was then: a time such as 2026-01-31T12:00:00Z, or a cursor of a history.", group=_TIME),
    ] = None
    until: Annotated[str | None, Parameter(help="What changed from --as-of to then, or to 'now'.", group=_TIME)] = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Either(Past):
    """For commands that both APIs offer."""

    as_: As = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Content(Common):
    """For content that is sent: it goes on where it stopped, by itself."""

    as_: As = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Listed(Either):
    """For lists that are not filtered."""

    output: Annotated[Output | None, Parameter(name=["--output", "-o"], help="Form of the list.", group=_OUTPUT)] = None
    limit: Annotated[int | None, Parameter(help="At most so many, 1 or more.", validator=validators.Number(gte=1))] = (
        None
    )
    watch: Annotated[bool, flag("Go on: show each object that changes, until Ctrl-C.", _OUTPUT)] = False

    def find(self) -> Find:
        return Find(limit=self.limit)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Listing(Listed):
    """For lists that are filtered."""

    label: Annotated[
        list[str] | None, Parameter(negative="", help="Only objects with this label, as KEY=VALUE. Repeatable.")
    ] = None
    state: Annotated[str | None, Parameter(help="Only objects in this state.")] = None
    name: Annotated[str | None, Parameter(help="Only the object of this name.")] = None

    def find(self) -> Find:
        return Find(name=self.name, state=self.state, labels=tuple(self.label or ()), limit=self.limit)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Send(Common):
    """For changes that cannot be planned: they show a secret, or are a plan themselves."""

    if_match: Annotated[
        str | None, Parameter(help="Only if the object still has this ETag, as `show` prints it.", group=_WRITE)
    ] = None
    idempotency_key: Annotated[
        str | None, Parameter(help="A key of your own: repeated with it, the change is made once.", group=_WRITE)
    ] = None

    def how(self) -> How:
        return How(if_match=quoted(self.if_match), key=self.idempotency_key)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Wait(Send):
    """For changes that may take a while."""

    wait: Annotated[
        bool, Parameter(help="Wait until it is done, or return as soon as it is accepted.", group=_WRITE)
    ] = True
    timeout_s: Annotated[
        float, Parameter(name="--timeout", help="Wait at most so many seconds; the work goes on.", group=_WRITE)
    ] = 300.0


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Write(Wait):
    """For changes that can be planned: nearly all."""

    plan: Annotated[bool, flag("Only show what would happen, as a plan that can be applied.", _WRITE)] = False

    def how(self) -> How:
        return How(plan=self.plan, if_match=quoted(self.if_match), key=self.idempotency_key)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class WriteEither(Write):
    """For changes that both APIs offer."""

    as_: As = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SendEither(Send):
    """The same, without a plan."""

    as_: As = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class WaitEither(Wait):
    """The same, without a plan, but waiting."""

    as_: As = None


def quoted(etag: str | None) -> str | None:
    """An ETag as the header takes it; on the command line quotes may be left out."""
    return f'"{etag}"' if etag and etag != "*" and not etag.startswith(('"', "W/")) else etag


def source(text: str) -> Parameter:
    """A parameter that names a file, or '-' for standard input."""
    return Parameter(help=text, allow_leading_hyphen=True)


def noun(name: str, words: str) -> App:
    """The command group of a noun."""
    return App(name=name, help=words, help_format="plaintext", help_formatter=Formatter(), version_flags=[])


def verb(app: App, name: str, *examples: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Registers a function as a verb of a noun; each example is a whole command line."""

    def register(function: Callable[..., int]) -> Callable[..., int]:
        shown = "\n".join(["Examples:", *(f"  {e}" for e in examples)])
        given: dict[str, Any] = {"name": name, "help_epilogue": shown, "version_flags": []}
        given["usage"] = f"nubila {app.name[0]} {name} [OPTIONS] {arguments(function)}".strip()
        app.command(function, **given)
        return function

    return register


def arguments(function: Callable[..., int]) -> str:
    """A command's arguments as its usage line names them: 'VM [CHANGES...]'."""
    words = []
    for p in inspect.signature(function).parameters.values():
        if p.kind is p.VAR_POSITIONAL:
            words.append(f"[{p.name.upper()}...]")
        elif p.kind is p.POSITIONAL_ONLY:
            words.append(p.name.upper() if p.default is p.empty else f"[{p.name.upper()}]")
    return " ".join(words)


def named(kind: str, text: str = "") -> Parameter:
    """A parameter that names an existing object, or, as a list, several: the shell completes it."""
    return Parameter(help=text or f"Name or id of the {kind}.", completer=complete.live(kind), negative="")
