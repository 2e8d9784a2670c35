"""Which clone holds an installation: the file `owner.json` in its state directory.

Read by the preflight and by every command that changes an installation; written once, by the first `make up`. Only the
clone named there may change or remove the installation. Standard library only.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "owner.json"


@dataclass(frozen=True)
class Owner:
    clone: str
    name: str
    since: str  # UTC
    subnet4: str
    subnet6: str
    machine: str = ""  # of a lab; empty: this machine itself


def read(var_dir: Path) -> Owner | None:
    """Who holds the installation at `var_dir`; None: nobody."""
    try:
        text = (var_dir / FILE).read_text()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Owner(**json.loads(text))


def write(var_dir: Path, owner: Owner) -> None:
    """Durably, and never half: `var_dir` must exist."""
    new = var_dir / f".{FILE}.new"
    with new.open("w") as f:
        json.dump(asdict(owner), f, indent=1)
        f.flush()
        os.fsync(f.fileno())
    new.rename(var_dir / FILE)


def now_utc() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
