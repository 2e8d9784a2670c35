"""Volumes in the agent: the pure plan, the proof that an attachment has ended, and what stands in a vm's way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from agent_control import new_id, vm

from nubila import protocol
from nubila.agent import plan_disk, plan_volume
from nubila.agent import steps as p
from nubila.agent.disk_hands import STILL, DiskHands
from nubila.agent.known import Ask, Facts, Trail, disk_key
from nubila.agent.plan_volume import Record
from nubila.agent.wish import Wishes
from nubila.drivers import DriverError
from nubila.drivers.hypervisor.base import Domain, DomainDisk, Found, Held
from nubila.drivers.hypervisor.fake import FakeHypervisor
from nubila.drivers.hypervisor.fake_world import HypervisorWorld
from nubila.drivers.storage import base as storage
from nubila.drivers.storage.fake import FakeStorage, StorageWorld


def disk(**change: Any) -> protocol.Disk:
    wish = protocol.Disk(
        volume_id=new_id("volume"), attachment_id=new_id("attachment"), epoch=3, index=1, driver="directory",
        format="qcow2", size_gib=2,
    )  # fmt: skip
    return msgspec.structs.replace(wish, **change)


def wish(**change: Any) -> protocol.Volume:
    d = disk()
    made = protocol.Volume(volume_id=d.volume_id, project_id=new_id("project"), generation=1, epoch=1, disk=d)
    return msgspec.structs.replace(made, **change)


def here(w: protocol.Volume, **change: Any) -> storage.Found:
    found = storage.Found(volume_id=w.volume_id, path="/x", format="qcow2", allocated_bytes=0, size_gib=2)
    return msgspec.structs.replace(found, **change)


def step(w: protocol.Volume, found: storage.Found | None, record: Record = Record(), *, fresh: bool = True) -> Any:
    return plan_volume.plan(w, found, record, set(), fresh=fresh)


def test_a_perfect_volume_needs_nothing_and_nothing_is_done_without_a_fresh_answer() -> None:
    w = wish()
    assert step(w, here(w)) is None
    assert step(w, None) == plan_volume.Make()
    for found in (None, here(w, size_gib=1)):
        assert step(w, found, fresh=False) is None
    assert step(wish(gone=True), None, fresh=False) is None


def test_what_was_lost_is_not_made_anew() -> None:
    w = wish()
    for record, lost in ((Record(made=True), w), (Record(), wish(disk=disk(made=True)))):
        assert isinstance(step(lost, None, record), plan_volume.Blocked)
    taken = wish(snapshots=(protocol.Snapshot(snapshot_id="snap-1"),))
    assert step(taken, here(taken)) == plan_volume.TakeSnapshot("snap-1")
    assert isinstance(step(taken, here(taken), Record(snapshots=("snap-1",))), plan_volume.Blocked)


def test_rolled_back_before_it_grows_and_once_for_each_number() -> None:
    w = wish(rollbacks=2, rollback_to="snap-1")
    assert step(w, here(w, size_gib=1), Record(rollbacks=1)) == plan_volume.RollBack("snap-1", 2)
    assert step(w, here(w, size_gib=1), Record(rollbacks=2)) == plan_volume.Grow(2)
    assert plan_volume.learn(Record(), plan_volume.RollBack("snap-1", 2)).rollbacks == 2
    assert plan_volume.pending(w, Record(rollbacks=1)) is not None
    assert plan_volume.pending(w, Record(rollbacks=2)) is None


def test_only_snapshots_that_are_to_go_are_dropped() -> None:
    w = wish(snapshots=(protocol.Snapshot(snapshot_id="snap-1", gone=True),))
    assert step(w, here(w, snapshots=("snap-1", "snap-2"))) == plan_volume.DropSnapshot("snap-1")
    assert step(w, here(w, snapshots=("snap-2",))) is None  # unknown ones stay: a restored database may not know them


def running(wanted: protocol.Vm, disks: dict[str, Held]) -> Facts:
    return Facts(seen=True, domain=Found(vm_id=wanted.vm_id, epoch=1, running=True, disks=disks))


def test_disks_are_plugged_limited_and_let_go_of() -> None:
    d, gone = disk(write_iops=5), disk()
    wanted = vm(disks=(d,), leaving=(gone,))
    facts = running(wanted, {gone.volume_id: Held(epoch=3)})
    keep: Callable[[Trail, float], list[Any]] = lambda trail, now: plan_disk.keep(wanted, facts, trail, now)  # noqa: E731
    assert keep(Trail(), 0.0) == [p.Unplug(gone), p.Volume(d), p.Plug(d)]
    refused = Trail(disks={gone.volume_id: Ask(STILL, 10.0, False), d.volume_id: Ask("no slot", 10.0, False)})
    assert keep(refused, 11.0) == [p.Wait(15.0)]
    assert keep(refused, 15.0) == [p.Unplug(gone), p.Volume(d), p.Plug(d)]
    facts = running(wanted, {d.volume_id: Held(epoch=3)})
    assert keep(Trail(), 0.0) == [p.Release(gone), p.Tune(d)]
    facts.released.add(disk_key(gone))
    facts = msgspec.structs.replace(facts, domain=Found(vm_id="x", epoch=1, running=True, disks=None))
    assert keep(Trail(), 0.0) == []  # not known yet what it has


class Bench:
    """The hands over fake drivers, with a journal."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.domains, self.disks = HypervisorWorld(), StorageWorld()
        self.wishes = Wishes(directory)
        self.wishes.open()
        self.hypervisor = FakeHypervisor(self.domains)
        self.hands = DiskHands(self.hypervisor, FakeStorage(self.disks), self.wishes.end)

    def runs(self, vm_id: str, d: protocol.Disk) -> None:
        has = (DomainDisk(volume_id=d.volume_id, path="/x", format="qcow2", epoch=d.epoch),)
        self.hypervisor.start(
            Domain(
                vm_id=vm_id, uuid="u", epoch=1, virt_method="qemu", cores=1, memory_mib=64, directory="/x", uid=1, gid=1,
                disks=has, nics=(),
            )
        )  # fmt: skip


def test_let_go_of_is_said_only_when_nobody_has_it_and_then_for_good(tmp_path: Path) -> None:
    """The proof of rule 8: each guard removed makes an assertion here fail."""
    bench, d = Bench(tmp_path), disk()
    FakeStorage(bench.disks).ensure_volume(
        storage.Volume(volume_id=d.volume_id, format="qcow2", size_gib=1, uid=7, gid=7)
    )
    bench.runs("vm-1", d)
    assert bench.hands.release(d) is not None  # its vm has it
    bench.domains.clinging.add("vm-1")
    assert bench.hands.unplug("vm-1", d) == STILL
    bench.domains.clinging.clear()
    assert bench.hands.unplug("vm-1", d) is None
    bench.disks.open.add(d.volume_id)
    assert bench.hands.release(d) is not None  # a lock is left on it
    bench.disks.open.clear()
    assert bench.wishes.floors == {}
    assert bench.hands.release(d) is None
    volume = bench.disks.volumes.get(d.volume_id)
    assert volume is not None
    assert volume.uid == 0
    again = Wishes(tmp_path)  # as after kill -9: nothing more was written
    again.open()
    assert again.floors == {d.volume_id: d.epoch}


def test_no_vm_opens_a_volume_under_an_ended_epoch_or_before_its_roll_back(tmp_path: Path) -> None:
    bench, d = Bench(tmp_path), disk()
    bench.hands.obstacle = lambda volume_id, epoch: "ended" if bench.wishes.floors.get(volume_id, 0) >= epoch else None
    with bench.hands.opening([(d.volume_id, d.epoch)]):
        pass
    assert bench.hands.release(d) is None
    with pytest.raises(DriverError, match="ended"), bench.hands.opening([(d.volume_id, d.epoch)]):
        pass
    with bench.hands.opening([(d.volume_id, d.epoch + 1)]):
        pass


def test_whoever_acts_on_a_volume_has_its_lock(tmp_path: Path) -> None:
    bench, d = Bench(tmp_path), disk()
    taken = bench.hands.holding([d.volume_id])
    with taken, pytest.raises(DriverError, match="worked on"), bench.hands.holding([d.volume_id], wait_s=0.01):
        pass


def test_before_each_start_every_disk_is_made_the_vms_own_the_boot_disk_too() -> None:
    """What was done to a disk on the host meanwhile, a copy of it above all, may have left it to somebody else."""
    boot, data = disk(index=0), disk()
    wanted = vm(disks=(boot, data))
    facts = Facts(seen=True, volumes={boot.volume_id: "/x", data.volume_id: "/y"})
    assert plan_disk.own(wanted, facts) == [p.Volume(boot), p.Volume(data)]
