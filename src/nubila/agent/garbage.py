"""Garbage is the world minus the wishes. `sweep` is PURE: called by the core after each look at the world.

Removed is only what is proven ours (the drivers say so), what a full answer of this session does not know, and what
has been so for a time of grace. What is foreign is reported and never touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import msgspec

from nubila.agent.directory import Rooms
from nubila.agent.hands import Drivers, Hands
from nubila.agent.pool import Call, Pool, Worker
from nubila.drivers import DriverError, Leftover, Scan
from nubila.protocol import Vm, Volume
from nubila.telemetry import log

LOG = log.get(part="agent")
DEADLINE_S = 60.0

# kind -> how long it must have been unknown. A network, a group or an image that no vm here needs is no error, only no use.
GRACE_S: dict[str, float] = {
    "domain": 60.0,
    "port": 60.0,
    "group": 30.0,
    "volume": 60.0,
    "export": 60.0,
    "directory": 60.0,
    "network": 30.0,
    "image": 86400.0,
    "process": 60.0,
    "container-process": 60.0,
    "container": 60.0,
    "container-log": 86400.0,
    "console": 60.0,
    "log": 86400.0,  # QEMU's last words are read when something went wrong
    "chain": 60.0,
    "dhcp": 60.0,
    "temporary": 3600.0,
}
ORDER = tuple(GRACE_S)  # a domain before what it uses, ports before their network
# What is no object itself, by the driver that finds and removes it.
LEFTOVERS: dict[str, str] = {
    "process": "hypervisor",
    "container-process": "hypervisor",
    "container": "hypervisor",
    "container-log": "hypervisor",
    "console": "hypervisor",
    "log": "hypervisor",
    "chain": "network",
    "dhcp": "network",
    "temporary": "storage",
}

Thing = tuple[str, str]  # kind, id


class Swept(msgspec.Struct, frozen=True):
    remove: tuple[Thing, ...]
    since: dict[Thing, float]  # unknown things, and since when


def sweep(
    world: Mapping[str, Iterable[str]], known: Mapping[str, set[str]], since: Mapping[Thing, float], now_s: float
) -> Swept:
    """What to remove now, in order, and what to remember until the next look."""
    unknown = {(kind, i): 0.0 for kind in ORDER for i in world.get(kind, ()) if i not in known.get(kind, set())}
    for thing in unknown:
        unknown[thing] = since.get(thing, now_s)
    due = tuple(t for t, s in unknown.items() if now_s - s >= GRACE_S[t[0]])
    return Swept(due, unknown)


class Sweeper:
    """Carries it out, in workers. A removal that fails is tried again with the next look."""

    def __init__(self, pool: Pool, drivers: Drivers, rooms: Rooms, hands: Hands):
        self.world: dict[str, list[str]] = {}  # as last observed, by kind
        self._leftovers: dict[Thing, Leftover] = {}
        self._since: dict[Thing, float] = {}
        self._under_way: set[Thing] = set()
        self._pool, self._drivers, self._hands = pool, drivers, hands
        self._remove: dict[str, Callable[[str], None]] = {
            "domain": drivers.hypervisor.remove,
            "port": drivers.network.remove_port,
            "group": drivers.network.remove_group,
            "volume": drivers.storage.remove_volume,
            "directory": rooms.remove,
            "network": self._network,
            "image": drivers.storage.remove_image,
            "export": drivers.storage.remove_export,
            **{kind: partial(self._leftover, kind) for kind in LEFTOVERS},
        }

    def scanned(self, seen: Mapping[str, Scan]) -> None:
        """What a slower look found. Only kinds of the table are ever removed."""
        found = [left for driver, scan in seen.items() for left in scan.leftovers if LEFTOVERS.get(left.kind) == driver]
        self._leftovers = {(left.kind, left.name): left for left in found}

    def sweep(self, known: Mapping[str, set[str]], now_s: float) -> None:
        orphaned = [t for t, left in self._leftovers.items() if not owned(left, known)]
        world = {**self.world, **{kind: [n for k, n in orphaned if k == kind] for kind in LEFTOVERS}}
        swept = sweep(world, known, self._since, now_s)
        self._since = swept.since
        for thing in swept.remove:
            if thing not in self._under_way:
                self._under_way.add(thing)
                self._pool.submit(lambda worker, thing=thing: self._carry_out(worker, thing))  # type: ignore[misc]

    def _leftover(self, kind: str, name: str) -> None:
        left = self._leftovers.get((kind, name))
        if left is not None:
            getattr(self._drivers, LEFTOVERS[kind]).remove_leftover(left)
            self._leftovers.pop((kind, name), None)

    def unknown(self) -> list[Thing]:
        """What is ours and wished by nobody, as of the last sweep."""
        return list(self._since)

    def _network(self, network_id: str) -> None:
        self._hands.forget_network(network_id)
        self._drivers.network.remove_network(network_id)

    def _carry_out(self, worker: Worker, thing: Thing) -> None:
        worker.call = Call(thing, f"removing a {thing[0]}", DEADLINE_S)
        try:
            self._remove[thing[0]](thing[1])
            LOG.info("garbage.removed", kind=thing[0], id=thing[1])
        except DriverError as e:
            LOG.warning("garbage.stays", kind=thing[0], id=thing[1], reason=e.reason)
        except Exception as e:
            LOG.error("garbage.stays", kind=thing[0], id=thing[1], reason=f"{type(e).__name__}: {e}")
        finally:
            worker.call = None
            self._under_way.discard(thing)


def owned(left: Leftover, known: Mapping[str, set[str]]) -> bool:
    """Whether a wish still has the object that it belongs to. Where names are short, the last characters decide."""
    if not left.owner:
        return False
    whole = "-" in left.owner
    return any(left.owner in ids if whole else any(i.endswith(left.owner) for i in ids) for ids in known.values())


def known(wishes: Iterable[Vm], volumes: Iterable[Volume] = ()) -> dict[str, set[str]]:
    """All that the wishes need or still have to remove."""
    found: dict[str, set[str]] = {kind: set() for kind in ORDER}
    for vm in wishes:
        found["domain"].add(vm.vm_id)
        found["directory"].add(vm.vm_id)
        for nic in vm.nics:
            found["port"].add(nic.port_id)
            found["network"].add(nic.network.network_id)
            found["group"].update(nic.groups or ())
        if vm.media is not None:
            found["image"].add(vm.media.sha256)
        for disk in (*vm.disks, *vm.leaving):
            found["volume"].add(disk.volume_id)
            if disk.image_sha256:
                found["image"].add(disk.image_sha256)
    for volume in volumes:
        found["volume"] |= {volume.volume_id, *([volume.source_volume_id] if volume.source_volume_id else [])}
        found["export"].update(e.image_id for e in volume.exports)
        if volume.disk.image_sha256:
            found["image"].add(volume.disk.image_sha256)
    return found
