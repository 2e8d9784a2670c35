"""The contexts file: which installation, with which credentials. JSON, mode 0600.

{"current": "home", "contexts": [{"name": "home", "user_url": "https://...", "operator_url": ..., "ca": "ca.pem",
"user_token": ..., "operator_token": ..., "project": "default", "ssh_key": "id"}]}; paths are relative to the file.
Found at --contexts, $NUBILA_CONTEXTS, or ~/.config/nubila/contexts.json.
Invariant: a token comes from this file, another one or standard input, never from the command line, nor in a repr.
"""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from nubila.cli import exits
from nubila.cli.exits import Failure

ENV_FILE = "NUBILA_CONTEXTS"
ENV_CONTEXT = "NUBILA_CONTEXT"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_ADD = "Add one with `nubila context add NAME --user-url URL --ca FILE --user-token-file FILE`."
_UP = "`sudo make up` in a clone of Nubila makes an installation, and a context in that clone."


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    name: str
    user_url: str | None = None
    operator_url: str | None = None
    ca: str | None = None
    user_token: str | None = field(default=None, repr=False)
    operator_token: str | None = field(default=None, repr=False)
    project: str | None = None
    ssh_key: str | None = None  # the private key that `vm ssh` offers


FIELDS = frozenset(f.name for f in fields(Context))


@dataclass(frozen=True, slots=True)
class Contexts:
    path: Path
    current: str | None
    all: tuple[Context, ...]

    def get(self, name: str | None = None) -> Context:
        """The named context, or the one of $NUBILA_CONTEXT, or the current one, or the only one."""
        wanted = name or os.environ.get(ENV_CONTEXT) or self.current
        if wanted is None and len(self.all) == 1:
            return self.all[0]
        if wanted is None:
            if not self.all:
                raise Failure(f"There are no contexts in {self.path}.", fix=f"{_UP} {_ADD}", code=exits.USAGE)
            raise Failure(f"No context is chosen in {self.path}.", fix=_ADD, code=exits.USAGE)
        for context in self.all:
            if context.name == wanted:
                return context
        known = ", ".join(c.name for c in self.all) or "none"
        raise Failure(f"There is no context {wanted!r} in {self.path}; known: {known}.", fix=_ADD, code=exits.USAGE)

    def with_(self, context: Context) -> Contexts:
        others = tuple(c for c in self.all if c.name != context.name)
        return replace(self, all=(*others, context))

    def resolve(self, path: str | None) -> Path | None:
        """A path in the file, from where the file lies."""
        return None if path is None else self.path.parent / Path(path).expanduser()

    @property
    def known_hosts(self) -> Path:
        return self.path.parent / "known_hosts"


def where(given: Path | None) -> Path:
    if given is not None:
        return given.expanduser().absolute()
    if os.environ.get(ENV_FILE):
        return Path(os.environ[ENV_FILE]).expanduser().absolute()
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "nubila" / "contexts.json"


def load(given: Path | None = None) -> Contexts:
    """The contexts; none when there is no file yet. A file that others may read is refused: it holds tokens."""
    path = where(given)
    try:
        with path.open(encoding="utf-8") as f:
            mode = os.fstat(f.fileno()).st_mode
            text = f.read()
    except FileNotFoundError:
        return Contexts(path, None, ())
    except OSError as e:
        raise Failure(f"{path} cannot be read: {e.strerror}.", code=exits.USAGE) from None
    if stat.S_IMODE(mode) & 0o077:
        raise Failure(f"Others may read {path}, which holds tokens.", fix=f"chmod 600 {path}", code=exits.USAGE)
    try:
        found = json.loads(text)
        return Contexts(path, found.get("current"), tuple(_contexts(found.get("contexts") or [])))
    except (ValueError, TypeError, AttributeError, KeyError):
        raise Failure(f"{path} is not a contexts file.", fix=_ADD, code=exits.USAGE) from None


def save(contexts: Contexts) -> None:
    """Written beside and renamed, so that a reader sees the old file or the new one; never readable by others."""
    contexts.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    listed = [{k: v for k in sorted(FIELDS) if (v := getattr(c, k)) is not None} for c in contexts.all]
    beside = contexts.path.with_name(f".{contexts.path.name}.{os.getpid()}")
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as f:
            json.dump({"current": contexts.current, "contexts": listed}, f, indent=2)
            f.write("\n")
        beside.replace(contexts.path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise Failure("A context's name is letters, digits, '.', '_' and '-'.", code=exits.USAGE)
    return name


def masked(token: str | None) -> str | None:
    """A token's public part: its plane and id."""
    if token is None:
        return None
    parts = token.split("_")
    return "_".join([*parts[:2], "..."]) if len(parts) == 3 else "..."


def _contexts(listed: Any) -> list[Context]:
    """From a list of objects, or from an object by name. Fields of newer versions are left out."""
    if isinstance(listed, dict):
        listed = [{"name": name, **found} for name, found in listed.items()]
    return [Context(**{k: v for k, v in found.items() if k in FIELDS}) for found in listed]
