"""This installation's entry in the clone's contexts file (build/contexts.json): put in by `make up`, taken out by
`make destroy`.

Invariant: entries of others, which a person added or which other installations of the same clone made, stay as they
are, and the current one stays current while it is there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = "contexts.json"

Json = dict[str, Any]


def with_entry(held: Json, entry: Json) -> Json:
    """The file's content with this entry: new, or in the place of the older one of its name."""
    listed = _listed(held)
    names = [c["name"] for c in listed]
    if entry["name"] in names:
        listed = [{**c, **entry} if c["name"] == entry["name"] else c for c in listed]
    else:
        listed.append(entry)
    current = held.get("current")
    return {"current": current if current in names else entry["name"], "contexts": listed}


def without(held: Json, name: str, ca: Path) -> Json:
    """The file's content without the entry of this name, if its CA proves that it is this machine's installation."""
    listed = [c for c in _listed(held) if (c["name"], c.get("ca")) != (name, str(ca))]
    current = held.get("current")
    return {"current": current if current in [c["name"] for c in listed] else None, "contexts": listed}


def read(file: Path) -> Json:
    """What the file holds; nothing when there is none. One that cannot be understood is moved aside, never lost."""
    try:
        held = json.loads(file.read_text())
        _listed(held)
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError, AttributeError):
        file.replace(file.with_name(f"{file.name}.unreadable"))
        return {}
    return dict(held)


def _listed(held: Json) -> list[Json]:
    """A list of entries; by hand, an object by name may have been written."""
    found = held.get("contexts") or []
    if isinstance(found, dict):
        return [{"name": str(name), **entry} for name, entry in found.items()]
    return [{"name": str(entry["name"]), **entry} for entry in found]
