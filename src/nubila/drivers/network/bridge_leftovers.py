"""What an interrupted past left of networks and ports beside their interfaces: chains, DHCP processes and files,
records. And what lies in our tables and directory and is not ours.

A chain is ours when its name is a tap's, a file when its name is an id and a kind that we write.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from nubila.drivers import Leftover, Scan
from nubila.drivers.network import bridge_nft as rules
from nubila.drivers.network.bridge_dhcp import Dhcp
from nubila.drivers.network.bridge_records import Records
from nubila.drivers.network.bridge_rule import prefix, tap_name
from nubila.drivers.network.nft import Loader

_NETWORK_FILE = re.compile(r"(net-[0-9a-z]{26})\.(conf|hosts|leases|log|ready|process)(\.new)?")
_RECORD = re.compile(r"((?:net|port|sg)-[0-9a-z]{26})\.(json|new)")
_OWN_NAMES = frozenset({"networks", "groups", "ports", "host-settings.json", "host-settings.new"})
_BASE_CHAINS = frozenset({"guest-ip4", "guest-ip6", "from-guests", "to-guest", "to-guests", "host-to-guests"})


class Leftovers:
    def __init__(self, table: str, directory: Path, nft: Loader, records: Callable[[], Records]):
        self._table, self._directory, self._nft, self._records = table, directory, nft, records

    def scan(self, links: Iterable[str]) -> Scan:
        """`links`: the interfaces of ours that are there."""
        there, records = set(links), self._records()
        found: dict[tuple[str, str], Leftover] = {}
        foreign: list[tuple[str, str]] = []
        taps = there | {tap_name(self._table, p.port_id) for p in records.ports.all()}
        tap = re.compile(re.escape(prefix(self._table)) + r"t([0-9a-z]{11})")
        for chain in self._nft.chains("bridge", self._table):
            m = tap.fullmatch(chain.removesuffix("-slow"))
            if m and m[0] not in taps:
                found["chain", m[0]] = Leftover(kind="chain", name=m[0], owner=m[1])
            elif not m and chain not in _BASE_CHAINS:
                foreign.append(("chain", f"bridge {self._table} {chain}"))
        foreign += [("table", f"{f} {self._table}") for f in self._nft.families(self._table) - {"bridge", "inet"}]
        known = {n.network_id for n in records.networks.all()}
        for path in sorted(self._directory.iterdir()) if self._directory.is_dir() else ():
            m = _NETWORK_FILE.fullmatch(path.name)
            if m and m[1] not in known:
                found["dhcp", m[1]] = Leftover(kind="dhcp", name=m[1], owner=m[1])
            elif not m and path.name not in _OWN_NAMES:
                foreign.append(("file", f"network/{path.name}"))
        for kind in ("networks", "groups", "ports"):
            for path in sorted((self._directory / kind).glob("*")):
                if not _RECORD.fullmatch(path.name):
                    foreign.append(("file", f"network/{kind}/{path.name}"))
        return Scan(leftovers=tuple(found.values()), foreign=tuple(foreign))

    def remove(self, left: Leftover) -> None:
        if left.kind == "dhcp":
            Dhcp(self._directory, left.name).remove()
            for path in self._directory.glob(f"{left.name}.*"):
                if _NETWORK_FILE.fullmatch(path.name):
                    path.unlink(missing_ok=True)
        elif left.kind == "chain":
            self._nft.load(rules.remove_tap(self._table, left.name))
