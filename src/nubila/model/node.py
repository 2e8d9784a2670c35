"""A node: a machine of the fabric, with the roles it plays and what it reports of itself."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import Meta

SCHEMA = 1

SILENT_AFTER_S = 30.0  # older than this, what a node's objects do is `unknown`


class State(StrEnum):
    ENROLLING = "enrolling"  # has a certificate; waits for what `waits_for` says
    RUNNING = "running"
    DRAINING = "draining"  # gets nothing new, and is to be emptied
    MAINTENANCE = "maintenance"  # keeps what it has, gets nothing new
    LOST = "lost"  # an operator said of a silent one that it does not come back by itself
    RETIRED = "retired"


TERMINAL = frozenset({State.RETIRED})
PLACEABLE = frozenset({State.RUNNING})

TRANSITIONS: dict[State, frozenset[State]] = {
    State.ENROLLING: frozenset({State.RUNNING, State.DRAINING, State.MAINTENANCE, State.RETIRED}),
    State.RUNNING: frozenset({State.DRAINING, State.MAINTENANCE, State.LOST, State.RETIRED}),
    State.DRAINING: frozenset({State.RUNNING, State.MAINTENANCE, State.LOST, State.RETIRED}),
    State.MAINTENANCE: frozenset({State.RUNNING, State.DRAINING, State.LOST, State.RETIRED}),
    # never at once to where it gets VMs: what it runs has to be looked at
    State.LOST: frozenset({State.MAINTENANCE, State.RETIRED}),
    State.RETIRED: frozenset(),
}


# without an agent that is expected to speak: nothing is `unknown` about these
UNHEARD = frozenset({State.ENROLLING, State.LOST, State.RETIRED})


class Role(StrEnum):
    HYPERVISOR = "hypervisor"
    STORAGE = "storage"
    ROUTER = "router"
    BOOT = "boot"
    IMAGE_STORE = "image_store"
    FENCER = "fencer"


class Purpose(StrEnum):
    """What an address of a node is for."""

    MANAGEMENT = "management"  # by which its agent reaches the control plane
    UNDERLAY = "underlay"  # what networks that span nodes travel over
    STORAGE = "storage"  # disks that other nodes use
    BACKUP = "backup"  # copies of disks, on the way to where they are kept


class InventoryClass(StrEnum):
    CORES = "cores"
    MEMORY_MIB = "memory_mib"
    DISK_GIB = "disk_gib"


class RoleOf(msgspec.Struct, frozen=True, kw_only=True):
    """What a role brings with it."""

    words: str
    needs: tuple[Purpose, ...] = ()  # addresses that the node must have; by one for management it is known at all
    attributes: tuple[str, ...] = ()  # fields of the spec that mean something to this role alone
    offers: tuple[InventoryClass, ...] = ()  # to placement


ROLES: dict[Role, RoleOf] = {
    Role.HYPERVISOR: RoleOf(
        words="runs VMs",
        attributes=("cpu_overcommit", "reserved_memory_mib", "reserved_disk_gib"),
        offers=tuple(InventoryClass),
    ),
    Role.STORAGE: RoleOf(words="has disks for the VMs of other nodes", needs=(Purpose.STORAGE, Purpose.BACKUP)),
    Role.ROUTER: RoleOf(words="routes for networks that span nodes", needs=(Purpose.UNDERLAY,)),
    Role.BOOT: RoleOf(words="boots other machines"),
    Role.IMAGE_STORE: RoleOf(words="keeps images", needs=(Purpose.STORAGE,)),
    Role.FENCER: RoleOf(words="switches the power of other machines"),
}


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """Written by operators."""

    approved: bool = True  # until then it is told nothing, and nothing is placed there
    roles: tuple[Role, ...] = (Role.HYPERVISOR,)
    zone: str = "default"  # what fails together; VMs may wish theirs
    rack: str = ""
    addresses: dict[Purpose, str] = {}  # as operators set them; each is on one of its links
    maintenance: bool = False
    draining: bool = False
    lost: bool = False
    other_machine: bool = False  # its next session may come from another machine than the ones before
    came_back: bool = False  # after it was lost: it returns only when its agent has said what it runs
    maintenance_reason: str = ""  # why it is in one of these
    cpu_overcommit: float = 4.0  # virtual cores promised per physical core
    reserved_memory_mib: int = 1024  # kept for the host itself
    reserved_disk_gib: int | None = None  # None: a fifth of what can be given, at most 10


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """An interface of the machine, not one of Nubila's. The agent sends it in this form too."""

    name: Annotated[str, Meta(max_length=15)]
    mac: Annotated[str, Meta(max_length=60)] = ""
    mtu: Annotated[int, Meta(ge=0, le=1 << 32)] = 0
    addresses: Annotated[
        tuple[Annotated[str, Meta(max_length=50)], ...], Meta(max_length=256)
    ] = ()  # with prefix length


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """A disk of the machine, as its kernel names it. The agent sends it in this form too."""

    name: Annotated[str, Meta(max_length=63)]
    size_gib: Annotated[int, Meta(ge=0, le=1 << 40)]
    model: Annotated[str, Meta(max_length=255)] = ""
    rotational: bool = False


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """Reported by the node's agent at the start of each session."""

    fqdn: str = ""
    boot_id: str = ""
    cores: int = 0
    memory_mib: int = 0
    disk_gib: int = 0  # free, or held by volumes already
    kernel: str = ""
    agent_version: str = ""
    protocol: int = 1
    virt_methods: tuple[str, ...] = ()
    # kind -> driver -> capabilities, as the drivers describe themselves
    drivers: dict[str, dict[str, dict[str, Any]]] = {}
    ranges: tuple[str, ...] = ()  # that the machine itself has addresses in or routes to: no network may overlap them
    machine_id: str = ""  # of the machine that it is
    address: str = ""  # by which it reaches the control plane
    links: tuple[Link, ...] = ()
    disks: tuple[Disk, ...] = ()

    def hypervisor_of(self, virt_method: str) -> dict[str, Any]:
        """What the driver that offers that method says of itself; an older agent does not say which one offers what."""
        said = self.drivers.get("hypervisor", {}).values()
        return next((c for c in said if virt_method in c.get("virt_methods", ())), next(iter(said), {}))


def state(spec: Spec, status: Status | None, *, was: State | None = None) -> State:
    if was is State.RETIRED:
        return State.RETIRED
    if was in (None, State.ENROLLING) and waits_for(spec, status):
        return State.ENROLLING
    if spec.lost:
        return State.LOST
    if spec.maintenance:
        return State.MAINTENANCE
    return State.DRAINING if spec.draining else State.RUNNING


def waits_for(spec: Spec, status: Status | None) -> tuple[str, ...]:
    """What an enrolling node lacks before anything can be placed there."""
    waits = [] if spec.approved else ["an operator's approval"]
    if status is None or not status.boot_id:
        waits.append("the first session of its agent")
    else:
        waits += [f"an address for {p.value}, which the role {r.value} needs" for r, p in lacks(spec, status)]
    return tuple(waits)


def addresses(spec: Spec, status: Status) -> dict[Purpose, str]:
    """Which it has for what: as operators set it, while it is on one of its links; for management else what it uses."""
    has = on_links(status)
    found = {p: a for p, a in spec.addresses.items() if has is None or a in has}
    return {**({Purpose.MANAGEMENT: status.address} if status.address else {}), **found}


def on_links(status: Status) -> frozenset[str] | None:
    """The addresses of its links, without prefix lengths; None of an agent that does not say."""
    return frozenset(a.partition("/")[0] for link in status.links for a in link.addresses) if status.links else None


def lacks(spec: Spec, status: Status) -> tuple[tuple[Role, Purpose], ...]:
    """Addresses that its roles need and that it does not have."""
    has = addresses(spec, status)
    return tuple((r, p) for r in spec.roles for p in ROLES[r].needs if p not in has)


def inventory(spec: Spec, status: Status) -> dict[InventoryClass, tuple[int, int]]:
    """class -> (total, reserved) that a node offers, from what it has and what the operator keeps back."""
    reserved_disk_gib = min(10, status.disk_gib // 5) if spec.reserved_disk_gib is None else spec.reserved_disk_gib
    has = {
        InventoryClass.CORES: (int(status.cores * spec.cpu_overcommit), 0),
        InventoryClass.MEMORY_MIB: (status.memory_mib, min(spec.reserved_memory_mib, status.memory_mib)),
        InventoryClass.DISK_GIB: (status.disk_gib, min(reserved_disk_gib, status.disk_gib)),
    }
    offered = {c for r in spec.roles for c in ROLES[r].offers}
    return {c: amounts if c in offered else (0, 0) for c, amounts in has.items()}
