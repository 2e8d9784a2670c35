"""Loading nftables commands: one process of `nft` per transaction, one transaction for all who ask at the same time."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from typing import TypeVar

import msgspec

from nubila.drivers import DriverError
from nubila.drivers.network.bridge_rule import Json

_TIMEOUT_S = 20.0
T = TypeVar("T")


class _Wish:
    """Commands that belong together, and what became of them."""

    def __init__(self, commands: list[Json]):
        self.commands = commands
        self.done = threading.Event()
        self.error: DriverError | None = None


class Loader:
    """Takes wishes from any thread. Whoever finds the door free carries out what has gathered; the others wait."""

    def __init__(self) -> None:
        self._waiting: list[_Wish] = []
        self._lock = threading.Lock()  # of `_waiting`
        self._door = threading.Lock()  # one transaction at a time

    def load(self, commands: list[Json]) -> None:
        """Have them loaded, all or none; DriverError with nft's words otherwise."""
        if not commands:
            return
        wish = _Wish(commands)
        with self._lock:
            self._waiting.append(wish)
        with self._door:
            if not wish.done.is_set():
                with self._lock:
                    batch, self._waiting = self._waiting, []
                _carry_out(batch)
        if wish.error is not None:
            raise wish.error

    def takes(self, commands: list[Json]) -> bool:
        """Whether the kernel would take them; nothing is changed."""
        return _nft(["-c", "-f", "-"], msgspec.json.encode({"nftables": commands})).returncode == 0

    def names_in_map(self, table: str, name: str, chain: str) -> frozenset[str] | None:
        """The keys of a map in the bridge table; None when it, or that chain in the inet table, is not there."""
        answer = _nft(["list", "map", "bridge", table, name], b"")  # asked for both at once, nft 1.0.6 finds neither
        if answer.returncode != 0 or _nft(["list", "chain", "inet", table, chain], b"").returncode != 0:
            return None
        objects = msgspec.json.decode(answer.stdout)["nftables"]
        found: Json = next((o["map"] for o in objects if "map" in o), {})
        return frozenset([e[0] for e in found.get("elem", [])])

    def chains(self, family: str, table: str) -> list[str]:
        """The names of the chains of a table; none when it is not there."""
        answer = _nft(["list", "table", family, table], b"")
        rows = msgspec.json.decode(answer.stdout)["nftables"] if answer.returncode == 0 else []
        return [o["chain"]["name"] for o in rows if "chain" in o]

    def families(self, table: str) -> set[str]:
        """In which families there is a table of that name."""
        answer = _nft(["list", "tables"], b"")
        rows = msgspec.json.decode(answer.stdout)["nftables"] if answer.returncode == 0 else []
        return {o["table"]["family"] for o in rows if "table" in o and o["table"]["name"] == table}


def sound(items: list[T], taken: Callable[[list[T]], bool]) -> list[T]:
    """Those of which nothing is refused, by halves: a few bad ones among many cost a few tries."""
    if not items or taken(items):
        return items
    if len(items) == 1:
        return []
    middle = len(items) // 2
    return [*sound(items[:middle], taken), *sound(items[middle:], taken)]


def _carry_out(batch: list[_Wish]) -> None:
    error = _try([c for wish in batch for c in wish.commands])
    for wish in batch:  # one bad wish must not spoil the others
        wish.error = error if error is None or len(batch) == 1 else _try(wish.commands)
        wish.done.set()


def _try(commands: list[Json]) -> DriverError | None:
    try:
        answer = _nft(["-f", "-"], msgspec.json.encode({"nftables": commands}))
    except subprocess.TimeoutExpired:
        return DriverError("nft did not end in time")
    if answer.returncode == 0:
        return None
    words = answer.stderr.decode(errors="replace").strip().splitlines()
    return DriverError(f"nft refused the rules: {words[0] if words else 'without a word'}")


def _nft(argv: list[str], stdin: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["nft", "-j", *argv], input=stdin, capture_output=True, timeout=_TIMEOUT_S, check=False)
