"""`nubila context`: which installation the commands speak to, and with which credentials."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from nubila.cli import complete, contexts, exits, flow, table, values
from nubila.cli.exits import Failure
from nubila.cli.options import flag, noun, source, verb
from nubila.client.transport import Transport

app = noun("context", "Installations and credentials.")

Name = Annotated[str, Parameter(help="Name of the context.", completer=complete.live("context"))]
TokenFile = Annotated[str | None, source("File that holds the token, or '-' for standard input.")]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Local:
    contexts: Annotated[Path | None, Parameter(help="The contexts file.")] = None
    json: Annotated[bool, flag("Print JSON, without tokens.", "Output")] = False


@verb(app, "list", "nubila context list")
def list_(*, options: Local = Local()) -> int:
    """List contexts; the current one is marked."""
    found = contexts.load(options.contexts)
    if options.json:
        flow.print_json({"current": found.current, "contexts": [_public(c) for c in found.all]})
        return exits.OK
    rows = [("*" if c.name == found.current else "", c.name, c.user_url, c.operator_url, c.project) for c in found.all]
    print(table.render(("", "NAME", "USER API", "OPERATOR API", "PROJECT"), rows) or f"{found.path} has no contexts.")
    return exits.OK


@verb(app, "show", "nubila context show", "nubila context show home")
def show(name: Name | None = None, /, *, options: Local = Local()) -> int:
    """Show a context, the current one if none is named; of tokens only their public part."""
    found = contexts.load(options.contexts)
    shown = {**_public(found.get(name)), "file": str(found.path)}
    if options.json:
        flow.print_json(shown)
    else:
        print(table.fields(shown.items()))
    return exits.OK


@verb(app, "use", "nubila context use home")
def use(name: Name, /, *, options: Local = Local()) -> int:
    """Make a context the current one."""
    found = contexts.load(options.contexts)
    contexts.save(replace(found, current=found.get(name).name))
    print(f"context {name} is the current one")
    return exits.OK


@verb(
    app,
    "add",
    "nubila context add home --user-url https://127.0.0.1:8440 --ca ca.pem --user-token-file token",
    "pass show nubila | nubila context add home --user-token-file -",
)
def add(
    name: Name,
    /,
    *,
    user_url: str | None = None,
    operator_url: str | None = None,
    ca: Annotated[Path | None, Parameter(help="The installation's CA certificate, the only one trusted.")] = None,
    user_token_file: TokenFile = None,
    operator_token_file: TokenFile = None,
    project: Annotated[str | None, Parameter(help="A note: the project is the token's.")] = None,
    ssh_key: Annotated[Path | None, Parameter(help="Private key for `vm ssh`.")] = None,
    options: Local = Local(),
) -> int:
    """Add a context, or change the given parts of one. The first one becomes the current one."""
    contexts.check_name(name)
    if [user_token_file, operator_token_file].count("-") == 2:
        raise Failure("Standard input holds one token only.", code=exits.USAGE)
    found = contexts.load(options.contexts)
    if ca is not None and not ca.expanduser().is_file():
        raise Failure(f"There is no file {ca}.", code=exits.USAGE)
    parts: dict[str, Any] = {
        "user_url": user_url,
        "operator_url": operator_url,
        "ca": None if ca is None else str(ca.expanduser().absolute()),
        "user_token": None if user_token_file is None else values.secret(user_token_file, "token"),
        "operator_token": None if operator_token_file is None else values.secret(operator_token_file, "token"),
        "project": project,
        "ssh_key": None if ssh_key is None else str(ssh_key.expanduser().absolute()),
    }
    old = next((c for c in found.all if c.name == name), contexts.Context(name=name))
    new = replace(old, **{k: v for k, v in parts.items() if v is not None})
    _check(found, new)
    contexts.save(replace(found.with_(new), current=found.current or name))
    print(f"context {name} is in {found.path}")
    return exits.OK


@verb(app, "delete", "nubila context delete home")
def delete(name: Name, /, *, options: Local = Local()) -> int:
    """Forget a context and its credentials."""
    found = contexts.load(options.contexts)
    gone = found.get(name)
    left = tuple(c for c in found.all if c is not gone)
    contexts.save(replace(found, all=left, current=None if found.current == name else found.current))
    print(f"context {name} deleted")
    return exits.OK


def _check(found: contexts.Contexts, context: contexts.Context) -> None:
    """Refuse now what could only fail at its first use: an address that is none, plain http beyond this machine, no CA."""
    for name in ("user_url", "operator_url"):
        url = getattr(context, name)
        if url is None:
            continue
        try:
            Transport(url, ca=found.resolve(context.ca), token=None)
        except ValueError as e:
            raise Failure(
                f"--{name.replace('_', '-')} {url}: {e}.",
                fix="Give an address such as https://127.0.0.1:8440, and --ca FILE with the installation's certificate.",
                code=exits.USAGE,
            ) from None
        except OSError as e:
            raise Failure(f"--ca {context.ca} is no CA certificate: {e.strerror or e}.", code=exits.USAGE) from None


def _public(context: contexts.Context) -> dict[str, Any]:
    shown = {f: getattr(context, f) for f in contexts.Context.__slots__}
    for token in ("user_token", "operator_token"):
        shown[token] = contexts.masked(shown[token])
    return shown
