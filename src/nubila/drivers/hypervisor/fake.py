"""A hypervisor in memory, for tests, benchmarks and simulation: scriptable, cheap, and adoptable after a restart.

What it does, it does to a world of its own, in `fake_world`.
"""

from __future__ import annotations

from msgspec.structs import replace

from nubila.drivers import DriverError
from nubila.drivers.hypervisor.base import (
    Capabilities,
    Domain,
    DomainDisk,
    DomainNic,
    Found,
    Observed,
    Shape,
    Shaped,
    held,
    limited,
    shape_of,
)
from nubila.drivers.hypervisor.fake_world import FakeDomain, HypervisorWorld
from nubila.drivers.script import Scanned


class FakeHypervisor(Scanned):
    """The driver over a HypervisorWorld."""

    def __init__(self, world: HypervisorWorld | None = None):
        self.world = world or HypervisorWorld()
        self.script = self.world.script
        self.leftovers = self.world.leftovers

    def capabilities(self) -> Capabilities:
        return self.world.capabilities

    def observe(self) -> Observed:
        self.script.enter("observe")
        no_agent = self.world.no_agent
        found = tuple(
            [
                Found(
                    vm_id=d.vm_id,
                    epoch=d.epoch,
                    running=d.running,
                    pid=d.pid,
                    reason=d.reason,
                    paused=d.paused,
                    cores=d.cores if d.running else 0,
                    cores_max=d.cores_max if d.running else 0,
                    memory_mib=d.memory_mib if d.running else 0,
                    memory_max_mib=d.memory_max_mib if d.running else 0,
                    guest_agent=d.running and d.vm_id not in no_agent,
                    disks=d.disks if d.running else None,
                    nics=d.live.nics if d.running and d.live is not None else None,
                )
                for d in self.world.domains.all()
            ]
        )
        self.script.leave("observe")
        return Observed(domains=found, foreign=self.world.foreign)

    def start(self, domain: Domain) -> None:
        self.script.enter("start")
        with self.world.lock:
            was = self.world.domains.get(domain.vm_id)
            if was is None or was.epoch != domain.epoch or not was.running:
                self.world.run(
                    FakeDomain(
                        vm_id=domain.vm_id,
                        epoch=domain.epoch,
                        uuid=domain.uuid,
                        boots=was.boots if was else 0,
                        cores=domain.cores,
                        memory_mib=domain.memory_mib,
                        cores_max=max(domain.cores, domain.cores_max),
                        memory_max_mib=domain.memory_mib,
                        media=domain.media,
                        boot=domain.boot,
                        defined=shape_of(domain),
                        live=shape_of(domain),
                        on_crash=domain.on_crash,
                        disks={d.volume_id: held(d) for d in domain.disks},
                        paths={d.volume_id: d.path for d in domain.disks},
                    )
                )
        self.script.leave("start")

    def shapes(self) -> tuple[Shaped, ...]:
        self.script.enter("shapes")
        return tuple(
            Shaped(vm_id=d.vm_id, epoch=d.epoch, defined=d.defined, live=d.live if d.running else None)
            for d in self.world.domains.all()
            if d.defined is not None
        )

    def rewire(self, domain: Domain) -> None:
        self.script.enter("rewire")
        self.world.unwired.discard(domain.vm_id)

    def repair(self, domain: Domain) -> None:
        self.script.enter("repair")
        with self.world.lock:
            was = self.world.domains.get(domain.vm_id)
            if was is not None:
                wished = shape_of(domain)
                live = was.live and replace(
                    was.live,
                    disks=tuple(d for d in was.live.disks if d in wished.disks),
                    nics=tuple(n for n in was.live.nics if n in wished.nics),
                    media=wished.media,
                    limits=tuple(x for x in wished.limits if x[0] in was.disks),
                )
                became = replace(was, defined=wished, live=live, media=domain.media)
                if was.running and was.cores <= domain.cores <= was.cores_max:
                    became.cores = domain.cores
                if was.running and domain.memory_mib <= was.memory_max_mib:
                    became.memory_mib = domain.memory_mib
                if became.live is not None:
                    became.live = replace(became.live, cores=became.cores, memory_mib=became.memory_mib)
                self.world.domains.put(domain.vm_id, became)
        self.script.leave("repair")

    def ask_stop(self, vm_id: str, how: str) -> bool:
        self.script.enter("ask_stop")
        domain = self.world.domains.get(vm_id)
        heard = domain is not None and domain.running and not (how == "agent" and vm_id in self.world.no_agent)
        if domain is not None and heard and domain.paused is None and vm_id not in self.world.deaf:
            self.world.guest_shutdown(vm_id)
        self.script.leave("ask_stop")
        return heard

    def ask_reboot(self, vm_id: str, how: str) -> bool:
        self.script.enter("ask_reboot")
        with self.world.lock:
            domain = self.world.domains.get(vm_id)
            heard = domain is not None and domain.running and not (how == "agent" and vm_id in self.world.no_agent)
            if domain is not None and heard:
                self.world.domains.put(vm_id, replace(domain, boots=domain.boots + 1))
        self.script.leave("ask_reboot")
        return heard

    def suspend(self, vm_id: str) -> None:
        self._pause("suspend", vm_id, (None,), "suspended")

    def resume(self, vm_id: str) -> None:
        self._pause("resume", vm_id, ("suspended", "io-error"), None)

    def _pause(self, call: str, vm_id: str, was: tuple[str | None, ...], becomes: str | None) -> None:
        self.script.enter(call)
        with self.world.lock:
            domain = self.world.domains.get(vm_id)
            if domain is not None and domain.running and domain.paused in was:
                failing = domain.paused == "io-error" and vm_id in self.world.disk_fails  # it stops anew at once
                self.world.domains.put(vm_id, replace(domain, paused=domain.paused if failing else becomes))
        self.script.leave(call)

    def destroy(self, vm_id: str) -> None:
        self.script.enter("destroy")
        self.world.end(vm_id, "destroyed")
        self.script.leave("destroy")

    def remove(self, vm_id: str) -> None:
        self.script.enter("remove")
        with self.world.lock:
            self.world.domains.drop(vm_id)
            self.world.console.pop(vm_id, None)
        self.script.leave("remove")

    def read_console(self, vm_id: str, max_bytes: int) -> bytes:
        self.script.enter("read_console")
        return self.world.console.get(vm_id, b"")[-max_bytes:] if max_bytes > 0 else b""

    def attach_nic(self, vm_id: str, nic: DomainNic) -> None:
        self.script.enter("attach_nic")
        with self.world.lock:
            domain, mac = self._having(vm_id, None), nic.mac.lower()
            self._put(domain, live=_with(domain.live, mac), defined=_with(domain.defined, mac))
        self.script.leave("attach_nic")

    def detach_nic(self, vm_id: str, mac: str) -> bool:
        self.script.enter("detach_nic")
        with self.world.lock:
            domain = self.world.domains.get(vm_id)
            there = domain is not None and domain.running and domain.live is not None and mac in domain.live.nics
            gone = not there or vm_id not in self.world.clinging
            if domain is not None:
                live = _without(domain.live, mac) if gone else domain.live
                self._put(domain, live=live, defined=_without(domain.defined, mac))
        self.script.leave("detach_nic")
        return gone

    def attach_disk(self, vm_id: str, disk: DomainDisk) -> None:
        self.script.enter("attach_disk")
        with self.world.lock:
            domain = self._having(vm_id, None)
            self._put(
                domain,
                disks={**domain.disks, disk.volume_id: held(disk)},
                paths={**domain.paths, disk.volume_id: disk.path},
            )
        self.script.leave("attach_disk")

    def detach_disk(self, vm_id: str, volume_id: str) -> bool:
        self.script.enter("detach_disk")
        with self.world.lock:
            domain = self.world.domains.get(vm_id)
            there = domain is not None and domain.running and volume_id in domain.disks
            gone = not there or vm_id not in self.world.clinging
            if there and gone and domain is not None:
                self._put(domain, disks={k: v for k, v in domain.disks.items() if k != volume_id})
        self.script.leave("detach_disk")
        return gone

    def tune_disk(self, vm_id: str, disk: DomainDisk) -> None:
        self.script.enter("tune_disk")
        with self.world.lock:
            domain = self._having(vm_id, disk.volume_id)
            was = domain.disks[disk.volume_id]
            self._put(domain, disks={**domain.disks, disk.volume_id: replace(was, limits=held(disk).limits)})
        self.script.leave("tune_disk")

    def resize_disk(self, vm_id: str, volume_id: str, size_gib: int) -> None:
        self.script.enter("resize_disk")
        with self.world.lock:
            domain = self._having(vm_id, volume_id)
            self.world.storage.grow(volume_id, size_gib)
            self._put(domain, sizes={**domain.sizes, volume_id: size_gib})
        self.script.leave("resize_disk")

    def snapshot_disk(self, vm_id: str, volume_id: str, snapshot_id: str) -> None:
        self.script.enter("snapshot_disk")
        self._having(vm_id, volume_id)
        self.world.storage.keep(volume_id, snapshot_id)
        self.script.leave("snapshot_disk")

    def drop_disk_snapshot(self, vm_id: str, volume_id: str, snapshot_id: str) -> None:
        self.script.enter("drop_disk_snapshot")
        self._having(vm_id, volume_id)
        self.world.storage.drop(volume_id, snapshot_id)
        self.script.leave("drop_disk_snapshot")

    def copy_disk(self, vm_id: str, volume_id: str, target: str, format_: str) -> None:
        self.script.enter("copy_disk")
        self._having(vm_id, volume_id)
        self.world.storage.copied(volume_id, target)
        self.script.leave("copy_disk")

    def _having(self, vm_id: str, volume_id: str | None) -> FakeDomain:
        domain = self.world.domains.get(vm_id)
        if domain is None or not domain.running:
            raise DriverError("the vm does not run")
        if volume_id is not None and volume_id not in domain.disks:
            raise DriverError("the vm does not have that disk")
        return domain

    def _put(self, domain: FakeDomain, **changes: object) -> None:
        was, became = domain, replace(domain, **changes)
        if became.disks != was.disks:
            became.live, became.defined = _redisked(became, became.live), _redisked(became, became.defined)
        self.world.domains.put(domain.vm_id, became)

    def close(self) -> None:
        """The world is not the driver's to close."""


def _with(shape: Shape | None, mac: str) -> Shape | None:
    return None if shape is None else replace(shape, nics=tuple(sorted({*shape.nics, mac})))


def _without(shape: Shape | None, mac: str) -> Shape | None:
    return None if shape is None else replace(shape, nics=tuple(n for n in shape.nics if n != mac))


def _redisked(domain: FakeDomain, shape: Shape | None) -> Shape | None:
    """The shape with the disks that the domain has now, and those that somebody else gave it."""
    if shape is None:
        return None
    theirs = set(shape.disks) - set(domain.paths.values())
    ours = {domain.paths[v] for v in domain.disks if v in domain.paths}
    limits = limited({v: has.limits for v, has in domain.disks.items()})
    return replace(shape, disks=tuple(sorted(ours | theirs)), limits=limits)
