"""Values from the command line and from files: labels, texts, secrets. Every refusal says what was expected."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from nubila.cli import exits
from nubila.cli.exits import Failure

TEXT_MAX_BYTES = 1 << 20


def labels(pairs: Iterable[str] | None) -> dict[str, str]:
    """From 'KEY=VALUE' texts."""
    found: dict[str, str] = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise Failure(f"{pair!r} is not a label.", fix="Write labels as KEY=VALUE.", code=exits.USAGE)
        found[key] = value
    return found


def relabelled(present: dict[str, str], changes: Iterable[str]) -> dict[str, str]:
    """The labels after 'KEY=VALUE' (set) and 'KEY-' (remove)."""
    after = dict(present)
    for change in changes:
        if "=" not in change and change.endswith("-") and len(change) > 1:
            after.pop(change[:-1], None)
        else:
            after.update(labels([change]))
    return after


def text(source: str, what: str) -> str:
    """The text in a file, or on standard input for '-'."""
    try:
        data = sys.stdin.buffer.read(TEXT_MAX_BYTES + 1) if source == "-" else _read(Path(source))
        if len(data) > TEXT_MAX_BYTES:
            raise Failure(f"The {what} is larger than {TEXT_MAX_BYTES >> 20} MiB.", code=exits.USAGE)
        return data.decode()
    except OSError as e:
        raise Failure(f"{source} cannot be read: {e.strerror}.", code=exits.USAGE) from None
    except UnicodeDecodeError:
        raise Failure(f"The {what} is not UTF-8 text.", code=exits.USAGE) from None


def secret(source: str, what: str) -> str:
    """One secret word from a file or '-'. It is never part of a message."""
    if source == "-" and sys.stdin.isatty():
        from getpass import getpass

        found = getpass(f"{what}: ").strip()
    else:
        found = text(source, what).strip()
    if not found or len(found.split()) != 1:
        raise Failure(f"{source} does not hold one {what}.", code=exits.USAGE)
    return found


def amounts(pairs: Iterable[str]) -> dict[str, int]:
    """From 'CLASS=NUMBER' texts."""
    found: dict[str, int] = {}
    for pair in pairs:
        name, _, number = pair.partition("=")
        if not name or not number.isdecimal():
            raise Failure(f"{pair!r} is not a limit.", fix="Write limits as CLASS=NUMBER.", code=exits.USAGE)
        found[name] = int(number)
    return found


def given(**values: object) -> dict[str, object]:
    """A body of those values that were given: None and empty lists and objects are left out."""
    return {k: v for k, v in values.items() if v is not None and v != [] and v != {}}


def _read(path: Path) -> bytes:
    with path.open("rb") as f:
        return f.read(TEXT_MAX_BYTES + 1)
