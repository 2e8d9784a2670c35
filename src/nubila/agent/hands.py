"""Carries out the steps of one plan with the drivers, in worker threads. Called by the lanes; decides nothing.

A job's steps run in order, except that its independent tracks (disk and wire) run side by side while workers are
idle: that shortens one create, and costs nothing when many wait. Invariant: a step that acts on a counter waits until
the counter is on disk.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec

from nubila.agent import seed
from nubila.agent import steps as p
from nubila.agent.directory import Room, Rooms
from nubila.agent.disk_hands import DiskHands
from nubila.agent.known import Facts, port_key
from nubila.agent.plan_disk import limits
from nubila.agent.pool import Call, Pool, Worker
from nubila.drivers import DriverError
from nubila.drivers.hypervisor.base import Domain, DomainDisk, DomainNic, Hypervisor, Shape, bootable, limited
from nubila.drivers.network import base as net
from nubila.drivers.network.base import NetworkDriver
from nubila.drivers.storage import base as sto
from nubila.drivers.storage.base import Storage
from nubila.model import ids
from nubila.model.vm import CONTAINERS
from nubila.protocol import Disk, NetworkView, Nic, Vm
from nubila.telemetry import log

LOG = log.get(part="agent")

DEADLINE_S = 30.0
DEADLINES_S: dict[type[p.Step], float] = {p.AskStop: 1.0, p.AskReboot: 1.0, p.Volume: 300.0, p.RemoveVolume: 300.0}
ASKS: frozenset[type[p.Step]] = frozenset({p.AskStop, p.AskReboot})  # wait for the guest
ACTS: frozenset[type[p.Step]] = frozenset({p.Start, p.AskReboot, p.Reset})  # on a counter
STILL = "the guest has not let go of the interface yet"
SPENT = ACTS - {p.Start}  # whose number is spent once it is noted: a changed wish cannot take it back


class Cancelled(Exception):
    """The wish changed: the rest of the job is no longer wanted."""


class Drivers(msgspec.Struct, kw_only=True):
    hypervisor: Hypervisor
    storage: Storage
    network: NetworkDriver


class Job:
    """One batch of steps of one lane. Workers write `results` and `error`; the lane reads them when `finish` was
    called."""

    __slots__ = (
        "begun_s",
        "cancelled",
        "detached",
        "error",
        "facts",
        "finish",
        "gate",
        "label",
        "results",
        "steps",
        "wanted",
    )

    def __init__(self, wanted: Vm, facts: Facts, steps: list[p.Step], gate: int, finish: Callable[[Job], None]):
        self.wanted, self.facts, self.steps, self.gate, self.finish = wanted, facts, steps, gate, finish
        self.results: list[tuple[p.Step, Any, float]] = []  # step, answer, when it began
        self.error: BaseException | None = None
        self.cancelled = self.detached = False
        self.label = p.DOING.get(type(steps[0]), "")
        self.begun_s = time.monotonic()


class Hands:
    def __init__(self, drivers: Drivers, rooms: Rooms, pool: Pool, durable: Callable[[int], None], disks: DiskHands):
        self._drivers, self._rooms, self._pool, self._durable = drivers, rooms, pool, durable
        self._disks = disks
        self._network_locks: dict[str, threading.Lock] = {}
        self._bridges: dict[str, tuple[NetworkView, str]] = {}  # ensured by this process
        self._do: dict[type[p.Step], Callable[[Job, Any], Any]] = {
            p.Volume: self._volume,
            p.Network: lambda job, step: self.ensure_network(step.network),
            p.Port: self._port,
            p.Seed: self._seed,
            p.Start: self._start,
            p.Rewire: lambda job, step: drivers.hypervisor.rewire(self.domain(job)),
            p.Repair: lambda job, step: drivers.hypervisor.repair(self.domain(job)),
            p.AskStop: lambda job, step: drivers.hypervisor.ask_stop(job.wanted.vm_id, step.how),
            p.AskReboot: lambda job, step: drivers.hypervisor.ask_reboot(job.wanted.vm_id, step.how),
            p.Reset: self._reset,
            p.Suspend: lambda job, step: drivers.hypervisor.suspend(job.wanted.vm_id),
            p.Resume: lambda job, step: drivers.hypervisor.resume(job.wanted.vm_id),
            p.Destroy: lambda job, step: drivers.hypervisor.destroy(job.wanted.vm_id),
            p.RemoveDomain: lambda job, step: drivers.hypervisor.remove(job.wanted.vm_id),
            p.PlugPort: self._plug_port,
            p.DropPort: self._drop_port,
            p.RemovePort: lambda job, step: drivers.network.remove_port(step.nic.port_id),
            p.RemoveVolume: lambda job, step: disks.remove(step.volume_id),
            p.Plug: lambda job, step: disks.plug(job.wanted.vm_id, step.disk, self.disk(job, step.disk)),
            p.Unplug: lambda job, step: disks.unplug(job.wanted.vm_id, step.disk),
            p.Tune: lambda job, step: disks.tune(job.wanted.vm_id, self.disk(job, step.disk)),
            p.Release: lambda job, step: disks.release(step.disk),
            p.RemoveDirectory: lambda job, step: rooms.remove(job.wanted.vm_id),
        }

    def submit(self, job: Job) -> None:
        put = self._pool.aside if type(job.steps[0]) in ASKS else self._pool.submit
        put(lambda worker: self._run(job, worker))

    def forget_network(self, network_id: str) -> None:
        """It was seen missing or is to be removed: the next port ensures it again."""
        self._bridges.pop(network_id, None)

    def ensure_network(self, view: NetworkView) -> str:
        """One thread per network: many vms of one network start at once, and it is made once."""
        with self._network_locks.setdefault(view.network_id, threading.Lock()):
            known = self._bridges.get(view.network_id)
            if known is not None and known[0] == view:
                return known[1]
            subnets = tuple(net.Subnet(cidr=s.cidr, gateway=s.gateway, dns=s.dns) for s in view.subnets)
            wanted = net.Network(
                network_id=view.network_id, name=view.name, mtu=view.mtu, nat=view.nat, subnets=subnets
            )
            bridge = self._drivers.network.ensure_network(wanted)
            self._bridges[view.network_id] = (view, bridge)
            return bridge

    # --- running

    def _run(self, job: Job, worker: Worker) -> None:
        try:
            tracked = [s for s in job.steps if type(s) in p.TRACKS]
            rest = [s for s in job.steps if type(s) not in p.TRACKS]
            if tracked:
                self._rooms.ensure(job.wanted.vm_id)
                self._tracks(job, tracked, worker)
            self.steps(job, rest, worker)
        except BaseException as e:
            job.error = e
        worker.call = None
        job.finish(job)

    def _tracks(self, job: Job, steps: list[p.Step], worker: Worker) -> None:
        tracks: dict[str, list[p.Step]] = {}
        for step in steps:
            tracks.setdefault(p.TRACKS[type(step)], []).append(step)
        helpers: list[Helper] = []
        own = list(tracks.values())
        while len(own) > 1 and self._pool.has_idle():
            helpers.append(Helper(self, job, own.pop()))
            self._pool.submit(helpers[-1].run)
        for track in own:
            Helper(self, job, track).run(worker)
        worker.call = Call(job, "waiting", float("inf"))
        for helper in helpers:
            helper.join(worker)
        if job.error is not None:
            raise job.error

    def steps(self, job: Job, steps: list[p.Step], worker: Worker) -> None:
        for step in steps:
            kind = type(step)
            if job.cancelled and kind not in SPENT:
                raise Cancelled
            if kind in ACTS:
                self._durable(job.gate)
            job.label = p.DOING.get(kind, "")
            call = worker.call = Call(job, job.label, DEADLINES_S.get(kind, DEADLINE_S))
            answer = self._do[kind](job, step)
            job.results.append((step, answer, call.begun_s))

    # --- the steps that need more than a call

    def _room(self, job: Job) -> Room:
        return self._rooms.ensure(job.wanted.vm_id)

    def _volume(self, job: Job, step: p.Volume) -> str:
        disk, room = step.disk, self._room(job)
        return self._disks.ensure(
            sto.Volume(
                volume_id=disk.volume_id,
                format=disk.format,
                size_gib=disk.size_gib,
                uid=room.uid,
                gid=room.gid,
                image_sha256=disk.image_sha256,
                image_format=disk.image_format,
            )
        )

    def _port(self, job: Job, step: p.Port) -> str:
        nic = step.nic
        return self._drivers.network.ensure_port(
            net.Port(
                port_id=nic.port_id,
                epoch=nic.epoch,
                network_id=nic.network.network_id,
                mac=nic.mac,
                hostname=(job.wanted.hostname or job.wanted.name).partition(".")[
                    0
                ],  # a name with dots is one of a domain
                addresses=nic.addresses,
                groups=nic.groups,
                bandwidth=net.Bandwidth(in_kbit=nic.in_kbit, out_kbit=nic.out_kbit, burst_kib=nic.burst_kib),
                uid=self._room(job).uid,
                link="veth" if job.wanted.virt_method in CONTAINERS else "tap",
            )
        )

    def _plug_port(self, job: Job, step: p.PlugPort) -> str | None:
        """The reason why it could not be done: the vm runs on, and is not said to fail for it."""
        try:
            self._drivers.hypervisor.attach_nic(job.wanted.vm_id, self._nic(job, step.nic))
        except DriverError as e:
            return e.reason
        return None

    def _drop_port(self, job: Job, step: p.DropPort) -> str | None:
        """None is the proof: no device of it is left in the vm, and no wire of it on this node."""
        try:
            if not self._drivers.hypervisor.detach_nic(job.wanted.vm_id, step.nic.mac.lower()):
                return STILL
            self._drivers.network.remove_port(step.nic.port_id)
        except DriverError as e:
            return e.reason
        return None

    def _seed(self, job: Job, step: p.Seed) -> str:
        room = self._room(job)
        if not self._rooms.real:
            return ""
        return seed.write(job.wanted, str(room.path), room.uid)

    def _start(self, job: Job, step: p.Start) -> None:
        domain = self.domain(job)
        with self._disks.opening([(d.volume_id, d.epoch) for d in domain.disks]):
            self._drivers.hypervisor.start(domain)

    def shape(self, vm: Vm, facts: Facts) -> Shape:
        """What the domain of this wish has, as far as it can be compared."""
        paths = sorted(facts.volumes[d.volume_id] for d in vm.disks if d.volume_id in facts.volumes)
        return Shape(
            cores=vm.cores,
            memory_mib=vm.memory_mib,
            disks=tuple(paths),
            nics=tuple(sorted(n.mac.lower() for n in vm.wired)),
            media="" if vm.media is None else self._drivers.storage.image_path(vm.media.sha256),
            boot=bootable(vm.boot, vm.disks),
            limits=limited({d.volume_id: limits(d) for d in vm.disks}),
        )

    def _reset(self, job: Job, step: p.Reset) -> bool | None:
        """None: it failed in a way that leaves open whether it was done. It is never repeated."""
        try:
            return self._drivers.hypervisor.ask_reboot(job.wanted.vm_id, "reset")
        except DriverError as e:
            LOG.warning("vm.reset-unknown", vm_id=job.wanted.vm_id, reason=e.reason)
            return None

    def domain(self, job: Job) -> Domain:
        """All that the hypervisor needs, from the wish and from what the steps before made."""
        vm, room = job.wanted, self._room(job)
        uuid = ids.parse("vm", vm.vm_id)
        if uuid is None:
            raise DriverError(f"{vm.vm_id!r} is not the id of a vm", again=False)
        disks = tuple(self.disk(job, d) for d in sorted(vm.disks, key=lambda d: d.index))
        nics = tuple(self._nic(job, n) for n in vm.wired)
        return Domain(
            vm_id=vm.vm_id,
            uuid=str(uuid),
            epoch=vm.epoch,
            virt_method=vm.virt_method,
            cores=vm.cores,
            memory_mib=vm.memory_mib,
            cores_max=max(vm.cores, vm.cores_max),
            media=None if vm.media is None else self._drivers.storage.image_path(vm.media.sha256),
            boot=vm.boot,
            directory=str(room.path),
            uid=room.uid,
            gid=room.gid,
            disks=disks,
            nics=nics,
            seed=str(room.path / seed.name_for(vm.virt_method)),
            serial_number=vm.vm_id,
            on_crash="preserve" if vm.on_crash == "preserve" else "destroy",
        )

    def _nic(self, job: Job, n: Nic) -> DomainNic:
        tap = _made(job).get(port_key(n)) or job.facts.taps[port_key(n)]
        return DomainNic(tap=tap, mac=n.mac, mtu=n.network.mtu, bridge=self._bridge(job, n.network.network_id))

    def _bridge(self, job: Job, network_id: str) -> str:
        known = self._bridges.get(network_id)
        return known[1] if known is not None else job.facts.bridges.get(network_id, "")

    def disk(self, job: Job, d: Disk) -> DomainDisk:
        return DomainDisk(
            volume_id=d.volume_id,
            path=_made(job).get(d.volume_id) or job.facts.volumes[d.volume_id],
            format=d.format,
            cache=d.cache,
            read_iops=d.read_iops,
            write_iops=d.write_iops,
            read_bytes=d.read_bytes,
            write_bytes=d.write_bytes,
            read_iops_burst=d.read_iops_burst,
            write_iops_burst=d.write_iops_burst,
            read_bytes_burst=d.read_bytes_burst,
            write_bytes_burst=d.write_bytes_burst,
            burst_s=d.burst_s,
            epoch=d.epoch,
            index=d.index,
        )


class Helper:
    """One track of a job, perhaps for another worker; the job's own worker takes it back if nobody began it."""

    def __init__(self, hands: Hands, job: Job, steps: list[p.Step]):
        self._hands, self._job, self._steps = hands, job, steps
        self._claim = threading.Lock()
        self._over = threading.Event()

    def run(self, worker: Worker) -> None:
        if not self._claim.acquire(blocking=False):
            return
        try:
            self._hands.steps(self._job, self._steps, worker)
        except BaseException as e:
            self._job.error = self._job.error or e
        finally:
            worker.call = None
            self._over.set()

    def join(self, worker: Worker) -> None:
        self.run(worker)
        self._over.wait()


def _made(job: Job) -> dict[str, str]:
    return {_key(s): a for s, a, _ in job.results if isinstance(s, p.Volume | p.Port)}


def _key(step: p.Step) -> str:
    return step.disk.volume_id if isinstance(step, p.Volume) else port_key(step.nic) if isinstance(step, p.Port) else ""
