"""Under which names and addresses others reach this installation: what its listeners' certificates must hold.

Called by the supervisor, before it starts the listeners, and by `make up`, to tell people. An address that the machine
gets later counts from the next start; `names` in the settings holds at once what is known before.
"""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import msgspec

from nubila.bootstrap.facts import program
from nubila.config import Settings

GUESTS = re.compile(r"n[0-9a-f]{2}[bt].*")  # bridges and taps of installations: guests' side, and come and go


def reached(settings: Settings) -> Settings:
    """The settings with every name under which it is reached: those that were given come first."""
    if not settings.listens_everywhere:
        return settings
    names = dict.fromkeys((*settings.names, *of_machine(_ip("addr"), _ip("route", "show", "default"))))
    return msgspec.structs.replace(settings, names=tuple(names))


def of_machine(links: list[dict[str, Any]], default_routes: list[dict[str, Any]]) -> list[str]:
    """The machine's own addresses; first those by which it reaches the world, of them IPv4."""
    outward = {route.get("dev") for route in default_routes}
    found = [
        (link["ifname"] not in outward, address["family"] != "inet", address["local"])
        for link in links
        for address in link.get("addr_info", ())
        if address.get("scope") == "global" and not address.get("temporary") and not GUESTS.fullmatch(link["ifname"])
    ]
    return [local for _, _, local in sorted(found, key=lambda f: f[:2])]


def _ip(*words: str) -> list[dict[str, Any]]:
    ip = program("ip")
    if ip is None:
        return []
    run = subprocess.run((ip, "-j", *words), capture_output=True, text=True, check=False, timeout=20)
    try:
        found: list[dict[str, Any]] = json.loads(run.stdout or "[]")
    except ValueError:
        return []
    return found
