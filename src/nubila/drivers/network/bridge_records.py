"""What was asked of the bridge driver, in a file per network, group and port: enough to make rules and DHCP hosts anew.

A cache of wishes, not a truth: the agent repeats them, and what no longer has an interface is dropped. So they are
replaced atomically but not synced.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from nubila.drivers.network.base import Group, Network, Port

T = TypeVar("T", bound=msgspec.Struct)


class Kept(Generic[T]):
    """The rows of one kind, read once and written through. The caller holds a lock."""

    def __init__(self, directory: Path, type_: type[T]):
        self._directory = directory
        self._rows: dict[str, T] = {}
        directory.mkdir(parents=True, exist_ok=True)
        for path in directory.glob("*.json"):
            try:
                self._rows[path.stem] = msgspec.json.decode(path.read_bytes(), type=type_)
            except msgspec.MsgspecError:  # of another version: it will be asked for again
                path.unlink()

    def get(self, key: str) -> T | None:
        return self._rows.get(key)

    def all(self) -> list[T]:
        return list(self._rows.values())

    def put(self, key: str, row: T) -> bool:
        """Whether it is new or differs."""
        if self._rows.get(key) == row:
            return False
        new = self._directory / f"{key}.new"
        new.write_bytes(msgspec.json.encode(row))
        os.replace(new, self._directory / f"{key}.json")
        self._rows[key] = row
        return True

    def drop(self, key: str) -> T | None:
        (self._directory / f"{key}.json").unlink(missing_ok=True)
        return self._rows.pop(key, None)


class Records:
    """Networks, groups and ports of one driver."""

    def __init__(self, directory: Path):
        self.networks = Kept(directory / "networks", Network)
        self.groups = Kept(directory / "groups", Group)
        self.ports = Kept(directory / "ports", Port)
        self._of: dict[str, dict[str, Port]] = {}
        for port in self.ports.all():
            self._of.setdefault(port.network_id, {})[port.port_id] = port

    def put_port(self, port: Port) -> bool:
        was = self.ports.get(port.port_id)
        if was is not None and was.network_id != port.network_id:
            self.drop_port(port.port_id)
        self._of.setdefault(port.network_id, {})[port.port_id] = port
        return self.ports.put(port.port_id, port)

    def drop_port(self, port_id: str) -> Port | None:
        was = self.ports.drop(port_id)
        if was is not None:
            self._of[was.network_id].pop(port_id, None)
        return was

    def ports_of(self, network_id: str) -> list[Port]:
        return list(self._of.get(network_id, {}).values())

    def forget_missing(self, has_bridge: Callable[[str], bool], has_tap: Callable[[str], bool]) -> list[Network]:
        """Drop what has no interface, as after a boot of the machine. Returns the networks that were dropped."""
        for port in self.ports.all():
            if not has_tap(port.port_id):
                self.drop_port(port.port_id)
        gone = [n for n in self.networks.all() if not has_bridge(n.network_id)]
        for network in gone:
            self.networks.drop(network.network_id)
        return gone
