"""The machine that the fake hypervisor stands for: its domains, and what tests may do to them behind the driver's back.

It is apart from the driver: a second driver over the same world (or the same journal file) finds the domains of the
first, as a new agent does on a real machine.
"""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec.structs import replace

from nubila.drivers.hypervisor.base import Capabilities, Held, Shape
from nubila.drivers.script import Leftovers, Script, Table


class Bytes(Protocol):
    """What a running domain does to the bytes of its disks."""

    def grow(self, volume_id: str, size_gib: int) -> None: ...

    def keep(self, volume_id: str, snapshot_id: str) -> None: ...

    def drop(self, volume_id: str, snapshot_id: str) -> None: ...

    def copied(self, volume_id: str, target: str) -> None: ...


class Nowhere:
    """Disks without bytes."""

    def grow(self, volume_id: str, size_gib: int) -> None: ...

    def keep(self, volume_id: str, snapshot_id: str) -> None: ...

    def drop(self, volume_id: str, snapshot_id: str) -> None: ...

    def copied(self, volume_id: str, target: str) -> None: ...


class FakeDomain(msgspec.Struct, kw_only=True):
    """A domain of the fake world; `boots` counts how often its guest began to run."""

    vm_id: str
    epoch: int
    uuid: str = ""
    running: bool = False
    pid: int | None = None
    reason: str | None = None
    paused: str | None = None
    on_crash: str = "destroy"
    boots: int = 0
    cores: int = 1
    memory_mib: int = 0
    cores_max: int = 0
    media: str | None = None
    boot: tuple[str, ...] = ("disk",)
    memory_max_mib: int = 0
    defined: Shape | None = None  # None: it was never defined in full
    live: Shape | None = None
    disks: dict[str, Held] = {}
    paths: dict[str, str] = {}  # of each disk it ever had
    sizes: dict[str, int] = {}  # disks that were resized while it ran


class HypervisorWorld:
    def __init__(self, path: Path | None = None, virt_methods: tuple[str, ...] = ("kvm", "qemu")):
        self.domains = Table(FakeDomain, path)
        self.script = Script()
        self.capabilities = Capabilities(virt_methods=virt_methods)
        self.foreign: tuple[str, ...] = ()
        self.leftovers = Leftovers()
        self.unwired: set[str] = set()  # running domains whose taps were taken away
        self.deaf: set[str] = set()  # guests that take no notice of a request to stop
        self.no_agent: set[str] = set()  # guests without a guest agent
        self.clinging: set[str] = set()  # guests that let go of no device
        self.disk_fails: set[str] = set()  # guests whose disks cannot be written
        self.storage: Bytes = Nowhere()  # where its domains' disks lie
        self.console: dict[str, bytes] = {}
        self.lock = threading.Lock()
        self._pid = itertools.count(1000)

    def crash(self, vm_id: str) -> None:
        self.end(vm_id, "crashed")

    def panic(self, vm_id: str) -> None:
        """The guest's kernel panics."""
        domain = self.domains.get(vm_id)
        if domain is None or not domain.running:
            return
        if domain.on_crash == "preserve":
            self.domains.put(vm_id, replace(domain, paused="panicked"))
        else:
            self.end(vm_id, "panicked")

    def write(self, vm_id: str) -> None:
        """The guest writes to its disk."""
        domain = self.domains.get(vm_id)
        if domain is not None and domain.running and domain.paused is None and vm_id in self.disk_fails:
            self.domains.put(vm_id, replace(domain, paused="io-error"))

    def guest_shutdown(self, vm_id: str) -> None:
        """The guest powers itself off."""
        self.end(vm_id, "guest-shutdown")

    def host_boot(self) -> None:
        """The machine restarts: nothing runs, definitions stay, no one knows why anything ended."""
        for domain in self.domains.all():
            self.end(domain.vm_id, None)

    def change(self, vm_id: str, *, live: bool = False, **fields: object) -> None:
        """Somebody changes a domain by hand: its definition, and with `live` what runs too."""
        with self.lock:
            domain = self.domains.get(vm_id)
            assert domain is not None
            assert domain.defined is not None
            runs = domain.live
            if live and runs is not None:
                runs = replace(runs, **fields)
            defined = replace(domain.defined, **fields)
            self.domains.put(vm_id, replace(domain, defined=defined, live=runs))

    def add_foreign(self, name: str) -> None:
        self.foreign = (*self.foreign, name)

    def run(self, domain: FakeDomain) -> None:
        self.domains.put(
            domain.vm_id,
            replace(domain, running=True, pid=next(self._pid), reason=None, paused=None, boots=domain.boots + 1),
        )

    def end(self, vm_id: str, reason: str | None) -> None:
        with self.lock:
            domain = self.domains.get(vm_id)
            if domain is not None and domain.running:
                self.domains.put(vm_id, replace(domain, running=False, pid=None, reason=reason, paused=None))
