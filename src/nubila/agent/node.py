"""The core of one node's agent: joins link, wishes, lanes, observer, reports, metadata and garbage. Called by main.

Everything here runs in the event loop's thread. It decides what an answer, a look at the world or the passing of time
means for which part, and holds the order of a start: serve and adopt at once, observe, then start, stop and remove by
the right to act that `Right` says.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from nubila.agent import garbage
from nubila.agent import steps as p
from nubila.agent.directory import Rooms
from nubila.agent.disk_hands import DiskHands
from nubila.agent.exports import Exports
from nubila.agent.firewall import Firewall
from nubila.agent.guests import Guests
from nubila.agent.hands import Drivers, Hands, Job
from nubila.agent.images import Images
from nubila.agent.known import Facts, port_key
from nubila.agent.lanes import Lane, Lanes
from nubila.agent.link import Link, Wire
from nubila.agent.metadata import Metadata
from nubila.agent.news import News
from nubila.agent.observer import Observer
from nubila.agent.pool import Pool
from nubila.agent.questions import Questions
from nubila.agent.reports import Report, Reporter
from nubila.agent.volume_hands import VolumeHands
from nubila.agent.volume_lanes import VolumeLanes
from nubila.agent.watch import Watch
from nubila.agent.wish import Floor, Wishes
from nubila.drivers import Scan
from nubila.drivers.hypervisor import base as hypervisor
from nubila.drivers.network import base as network
from nubila.drivers.storage import base as storage
from nubila.protocol import Hello, Reported, Reports, VmReport, VolumeReport, Wanted, Welcome
from nubila.telemetry import log

TICK_S = 0.25
SWEEP_S = 5.0
LOST_THREADS_MAX = 16  # more calls that never came back: the agent starts anew and adopts everything
FOREIGN_MAX = 256  # names in a report
EXIT_REFUSED = 3  # another agent has this identity


class Options(msgspec.Struct, frozen=True, kw_only=True):
    region: str
    installation: str
    directory: Path
    long_poll_s: float = 25.0
    workers: int = 8
    metadata_port: int | None = 80  # None: no listeners (fake drivers have no bridges)
    real_rooms: bool = True  # False: no directory and seed per vm (fake drivers read none)
    name: str = ""


class Agent:
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        options: Options,
        wire: Wire,
        drivers: Drivers,
        hello: Callable[[], Hello],
        ended: Callable[[int | None], None],
    ):
        """`ended` is called with an exit code, or with None when the agent shall execute itself anew."""
        self._loop, self.options, self.drivers, self._ended = loop, options, drivers, ended
        self.log = log.get(part="agent", **({"node": options.name} if options.name else {}))
        self.wishes = Wishes(options.directory)
        self.wishes.open()
        self.facts = Facts()
        self.pool = Pool(options.workers, f"lane{options.name}")
        self.rooms = Rooms(options.directory, options.installation, real=options.real_rooms)
        self.disks = DiskHands(drivers.hypervisor, drivers.storage, self.wishes.end)
        self.hands = Hands(drivers, self.rooms, self.pool, self.wishes.durable, self.disks)
        self.link = Link(
            loop, wire, self, hello, region=options.region, floor=self.wishes.floor, long_poll_s=options.long_poll_s,
            name=options.name,
        )  # fmt: skip
        self.images = Images(loop, drivers.storage, self.link.download, self.facts.images)
        told = self._changed, self._learnt
        self.lanes = lanes = Lanes(loop, self.wishes, self.hands, self.images, self.pool, self.facts, *told)
        uid_of = lambda i: self.rooms.ensure(i).uid  # noqa: E731
        by_volume = VolumeHands(drivers.hypervisor, drivers.storage, self.disks, uid_of)
        self.volumes = VolumeLanes(
            loop, self.wishes, by_volume, self.images, self.pool, lanes.right, self.facts.images, self._changed,
            self._volume_learnt, lambda: self.observer.soon("storage"),
        )  # fmt: skip
        self.exports = Exports(loop, drivers.hypervisor, drivers.storage, self.disks, self.link, uid_of, self._changed)
        self.disks.obstacle = self.volumes.obstacle
        lanes.elsewhere = self.volumes.overdue
        self.reporter = Reporter(loop, self._report, self._post, lanes.ready, lambda: lanes.active > 0, self._taken)
        self.lanes.idle = self.reporter.flush
        self.observer = Observer(loop, drivers, self, options.name)
        self.guests = Guests(self.wishes, self.lanes)
        self.news = News(self.wishes, self.guests.add, self.log)
        self.firewall = Firewall(loop, self.pool, drivers.network, self.wishes)
        self.sweeper = garbage.Sweeper(self.pool, drivers, self.rooms, self.hands)
        self.metadata = Metadata(self.guests.who, self.guests.fetched, region=options.region)
        self.watch = Watch(self.lanes, self.hands)
        self.questions = Questions(self.pool, drivers.hypervisor, self.link.answer)
        self._session: Welcome | None = None
        self._foreign: dict[str, tuple[str, ...]] = {}
        self._full = False  # this session had an answer with everything
        self._may = (False, False)
        self._sweep_due_s = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._ticker: asyncio.TimerHandle | None = None

    # --- beginning and end

    def start(self) -> None:
        """Serve what is wished on disk, look at the world, dial the control plane."""
        self.firewall.adopt()
        for entry in self.wishes.entries.values():
            self.guests.add(entry.vm)
            self.lanes.add(entry.vm, entry.record)
        for kept in self.wishes.volumes.values():
            self.volumes.add(kept.volume)
        self.observer.start()
        self.link.start()
        self._tick()
        self.log.info("agent.started", vms=len(self.wishes.entries), damaged=self.wishes.damaged)

    async def close(self, *, stuck: bool = False) -> None:
        """Let go: vms, libvirtd and dnsmasq stay. `stuck`: drivers are not asked, since they may not answer."""
        if self._ticker is not None:
            self._ticker.cancel()
        await self.metadata.close()
        self.observer.close()
        self.link.close()
        self.images.close()
        self.exports.close()
        self.pool.close(0.0 if stuck else 5.0)
        self.wishes.close()
        if not stuck:
            self.drivers.hypervisor.close()
            self.drivers.network.close()

    # --- what the link brings

    def on_session(self, welcome: Welcome) -> None:
        self._session = welcome
        self.metadata.zone = welcome.zone
        self._full = False
        self.lanes.right.heard_s = None
        for lane in self.lanes.lanes.values():
            lane.confirmed = False
        self.volumes.unconfirm()
        self.reporter.session([*self.lanes.lanes, *self.volumes.lanes])
        self.watch.ledger.session()
        self.log.info("session.opened", session=welcome.session)

    def on_wanted(self, wanted: Wanted) -> None:
        self.lanes.right.heard_s = time.monotonic()
        first = not self._full
        self.wishes.raise_floor(
            Floor(
                fabric_epoch=wanted.fabric_epoch,
                timeline=wanted.timeline,
                revision=wanted.revision,
                seal=self.wishes.floor.seal.after(wanted.seal),
            )
        )
        vms = self.news.take(wanted)
        self.firewall.wish(wanted.groups)
        self.wishes.write()
        for volume in wanted.volumes:  # before vms, which look for what stands in their disks' way
            self.volumes.wish(self.wishes.volumes[volume.volume_id].volume)
            self.exports.wish(self.wishes.volumes[volume.volume_id].volume)
        for vm in vms:
            self.lanes.wish(self.wishes.entries[vm.vm_id].vm)
        if wanted.full:
            self._full = True
            for vm_id in self.news.unwanted_vms(wanted):
                self._drop(vm_id)
            for volume_id in self.news.unwanted_volumes(wanted):
                self._drop_volume(volume_id)
        self.watch.on_parked(self.news.parked)
        if first:
            self.lanes.kick_all()
            self.volumes.kick_all()
        for question in wanted.questions:
            self.questions.ask(question, wanted.session)

    def on_refused(self) -> None:
        self._ended(EXIT_REFUSED)

    def _drop_volume(self, volume_id: str) -> None:
        self.volumes.forget(volume_id)
        self.exports.forget(volume_id)
        self.reporter.forget(volume_id)
        self.wishes.drop_volume(volume_id)

    def _drop(self, vm_id: str) -> None:
        entry = self.wishes.entries.get(vm_id)
        if entry is not None:
            self.guests.drop(entry.vm)
        self.lanes.forget(vm_id)
        self.reporter.forget(vm_id)
        self.wishes.drop(vm_id)

    # --- what is told

    def _changed(self, vm_id: str, *, soft: bool = False) -> None:
        self.reporter.changed(vm_id, soft=soft)

    def _report(self, object_id: str) -> Report | None:
        volume = self.volumes.report(object_id)
        if volume is not None:
            return msgspec.structs.replace(volume, exports=self.exports.report(object_id))
        return self.lanes.report(object_id)

    def _volume_learnt(self, volume_id: str, found: storage.Found | None) -> None:
        """A volume's own lane made or removed it: vms that wait for it go on."""
        if found is None:
            self.facts.volumes.pop(volume_id, None)
        else:
            self.facts.volumes[volume_id] = found.path
        self._go_on({volume_id})

    def _go_on(self, volume_ids: set[str]) -> None:
        for lane in list(self.lanes.lanes.values()):
            if any(d.volume_id in volume_ids for d in lane.wanted.disks):
                self.lanes.kick(lane)

    def _post(self, batch: tuple[Report, ...], done: Callable[[Reported | None], None]) -> None:
        assert self._session is not None
        known = {f for names in self._foreign.values() for f in names} | self.news.parked.keys()
        foreign = tuple(sorted(known)[:FOREIGN_MAX])
        floor, drifts = self.wishes.floor, self.watch.ledger.news()

        def answered(reported: Reported | None) -> None:
            if reported is not None and drifts is not None:
                self.watch.ledger.told(drifts)
            done(reported)

        self.link.report(
            Reports(
                session=self._session.session,
                fabric_epoch=floor.fabric_epoch or self._session.fabric_epoch,
                revision=floor.revision,
                vms=tuple([r for r in batch if isinstance(r, VmReport)]),
                volumes=tuple([r for r in batch if isinstance(r, VolumeReport)]),
                foreign=foreign,
                drifts=drifts,
            ),
            answered,
        )

    def _taken(self, report: Report) -> None:
        """The control plane knows that it is gone: there is nothing left to keep."""
        if report.gone and isinstance(report, VolumeReport):
            return self._drop_volume(report.volume_id)
        entry = None if isinstance(report, VolumeReport) else self.wishes.entries.get(report.vm_id)
        if report.gone and entry is not None and entry.vm.gone:
            self._drop(entry.vm.vm_id)

    # --- what the observer sees

    def on_domains(self, seen: hypervisor.Observed, begun_s: float) -> None:
        domains: dict[str, hypervisor.Found] = {}
        for found in seen.domains:  # of several epochs of one vm the newest counts
            other = domains.get(found.vm_id)
            if other is None or found.epoch > other.epoch:
                domains[found.vm_id] = found
        self.lanes.domains = domains
        self.facts.seen = True
        for vm_id, lane in list(self.lanes.lanes.items()):
            self.lanes.observe(lane, domains.get(vm_id), begun_s)
        self.sweeper.world["domain"] = list(domains)
        self._foreign["hypervisor"] = seen.foreign
        self.watch.on_foreign("hypervisor", seen.foreign)

    def on_shapes(self, seen: tuple[hypervisor.Shaped, ...], begun_s: float) -> None:
        self.watch.on_shapes(seen, begun_s)

    def on_wires(self, seen: network.Observed, begun_s: float) -> None:
        self.sweeper.world["port"] = [p.port_id for p in seen.ports]
        self.sweeper.world["network"] = [n.network_id for n in seen.networks]
        self.sweeper.world["group"] = list(seen.groups)
        self.firewall.seen(seen.groups)
        self._foreign["network"] = seen.foreign
        self.watch.on_foreign("network", seen.foreign)
        serving = {n.network_id for n in seen.networks if n.serving}
        for found in seen.networks:
            self._listen(found.network_id, found.bridge)
        for network_id in [n for n in self.facts.bridges if n not in serving]:
            self.hands.forget_network(network_id)
            self.facts.bridges.pop(network_id)
        up = {f"{p.port_id}.e{p.epoch}" for p in seen.ports if p.up}
        for lane in list(self.lanes.lanes.values()):
            self._check_wires(lane, up, begun_s)
        self.guests.leased(seen.leases)

    def on_disks(self, seen: storage.Observed, begun_s: float) -> None:
        found = {v.volume_id: v.path for v in seen.volumes}
        busy = {d.volume_id for lane in self.lanes.lanes.values() if _touched(lane, begun_s) for d in lane.wanted.disks}
        new = found.keys() - self.facts.volumes.keys()
        for volume_id in self.facts.volumes.keys() - found.keys() - busy:
            del self.facts.volumes[volume_id]
        self.facts.volumes.update({k: v for k, v in found.items() if k not in busy})
        self.facts.images.update(seen.images)
        self.volumes.observe({v.volume_id: v for v in seen.volumes}, begun_s)
        self.sweeper.world["volume"] = list(found)
        self.sweeper.world["image"] = list(seen.images)
        self.sweeper.world["export"] = list(seen.exports)
        self._foreign["storage"] = seen.foreign
        self.watch.on_foreign("storage", seen.foreign)
        self._go_on(new)  # an earlier look may not have found them

    def on_scan(self, seen: dict[str, Scan], begun_s: float) -> None:
        self.sweeper.scanned(seen)
        self.watch.on_scan(seen)

    def waits_for_guest(self) -> bool:
        return any(lane.trail.asks or lane.trail.reboot for lane in list(self.lanes.lanes.values()))

    def waits_for_address(self) -> bool:
        return self.guests.awaited()

    def _check_wires(self, lane: Lane, up: set[str], begun_s: float) -> None:
        if _touched(lane, begun_s) or not lane.facts.running:
            return
        lost = False
        for nic in lane.wanted.wired:
            lost |= port_key(nic) not in up and lane.facts.taps.pop(port_key(nic), None) is not None
            lost |= nic.network.network_id not in lane.facts.bridges
        if lost:
            self._changed(lane.wanted.vm_id)
            self.lanes.kick(lane)

    def _known(self) -> dict[str, set[str]]:
        return garbage.known(
            [e.vm for e in self.wishes.entries.values()], [e.volume for e in self.wishes.volumes.values()]
        )

    # --- the guest's side

    def _learnt(self, job: Job) -> None:
        for step, answer, _ in job.results:
            if type(step) is p.Network:
                self._listen(step.network.network_id, answer)

    def _listen(self, network_id: str, bridge: str) -> None:
        port = self.options.metadata_port
        if port is None:
            return

        async def listen() -> None:
            try:
                await self.metadata.serve(network_id, bridge, port)
            except OSError as e:
                self.log.warning("metadata.unserved", network=network_id, reason=str(e))

        task = self._loop.create_task(listen())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- the clock

    def _tick(self) -> None:
        now_s = time.monotonic()
        self._ticker = self._loop.call_later(TICK_S, self._tick)
        self.lanes.tick(now_s)
        self.volumes.tick(now_s)
        self.reporter.tick(now_s)
        right = self.lanes.right
        may = right.fresh(now_s), right.alone(now_s)
        if may != self._may:
            self._may = may
            self.lanes.kick_all()
            self.volumes.kick_all()
        if now_s >= self._sweep_due_s:
            self._sweep_due_s = now_s + SWEEP_S
            self.wishes.compact_if_large()
            if self._full and right.fresh(now_s):
                self.sweeper.world["directory"] = self.rooms.found()
                known = self._known()
                self.firewall.keep(known["group"])
                self.sweeper.sweep(known, now_s)
                self.watch.on_orphans(self.sweeper.unknown())
                if self.watch.ledger.news() is not None:
                    self.reporter.say()
        if self.pool.lost > LOST_THREADS_MAX or self.observer.hangs(now_s):
            self.log.error("agent.stuck", lost_threads=self.pool.lost)
            self._ended(None)


def _touched(lane: Lane, begun_s: float) -> bool:
    """A job of it ran since that look began, so the look may be older than what is known."""
    return lane.job is not None or lane.touched_s >= begun_s
