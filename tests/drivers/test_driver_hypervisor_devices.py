"""The conformance suite of hypervisor drivers, second part: cores, memory, media, disks and interfaces that come, change and
go while a domain runs, wished or by somebody's hand.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from driver_rig import Rig, found, shaped, wait_for

from nubila.drivers import DriverError
from nubila.drivers.hypervisor.base import Domain, DomainDisk, DomainNic, shape_of


def test_medium_limits_and_boot_order_changed_by_hand_show_and_are_put_back(rig: Rig) -> None:
    if not rig.driver.capabilities().media:
        pytest.skip("capability media")
    wish = rig.domain(32)
    wish = msgspec.structs.replace(wish, disks=wish.disks or (rig.disk(32, "vol-32"),))
    rig.driver.start(wish)
    assert shaped(rig, wish.vm_id) == (shape_of(wish), shape_of(wish))
    path = rig.medium("theirs")
    rig.meddle(wish.vm_id, path)
    defined, live = shaped(rig, wish.vm_id)
    assert defined is not None
    assert live is not None
    limits = ((wish.disks[0].volume_id, "write_iops=7"),)
    assert (defined.media, defined.limits, defined.boot) == (path, limits, ("cdrom", "disk"))
    assert (live.media, live.limits, live.boot) == (path, limits, ("disk",))
    was = found(rig.driver, wish.vm_id)
    rig.driver.repair(wish)
    assert shaped(rig, wish.vm_id) == (shape_of(wish), shape_of(wish))
    assert rig.in_drive(wish.vm_id) is None
    assert found(rig.driver, wish.vm_id) == was  # the same process runs on
    slow = msgspec.structs.replace(wish.disks[0], write_iops=9)
    rig.driver.tune_disk(wish.vm_id, slow)
    limited = shape_of(msgspec.structs.replace(wish, disks=(slow,)))
    assert shaped(rig, wish.vm_id) == (limited, limited)  # the definition too
    rig.driver.remove(wish.vm_id)


def test_its_size_changes_while_it_runs_within_what_it_was_started_with(rig: Rig) -> None:
    if not rig.driver.capabilities().live_resize:
        pytest.skip("capability live_resize")
    wish = msgspec.structs.replace(rig.domain(12), cores=1, cores_max=4)
    rig.driver.start(wish)
    wait_for(lambda: rig.boots(wish.vm_id))
    first = found(rig.driver, wish.vm_id)
    assert first is not None
    assert (first.cores, first.cores_max) == (1, 4)
    assert first.memory_mib == first.memory_max_mib == wish.memory_mib
    larger = msgspec.structs.replace(wish, cores=3)
    for _ in range(2):
        rig.driver.repair(larger)
        now = found(rig.driver, wish.vm_id)
        assert now is not None
        assert (now.cores, now.pid, now.running) == (3, first.pid, True)
    for beyond in (
        msgspec.structs.replace(wish, cores=8, cores_max=8),
        msgspec.structs.replace(wish, cores=3, memory_mib=wish.memory_mib + 32),
    ):
        rig.driver.repair(beyond)  # at the next start: it runs on as it is
        now = found(rig.driver, wish.vm_id)
        assert now is not None
        assert (now.cores, now.memory_max_mib, now.pid) == (3, wish.memory_mib, first.pid)
    rig.driver.destroy(wish.vm_id)
    rig.driver.start(beyond)
    anew = found(rig.driver, wish.vm_id)
    assert anew is not None
    assert (anew.cores, anew.memory_max_mib) == (3, wish.memory_mib + 32)
    rig.driver.remove(wish.vm_id)


def test_a_medium_goes_in_and_out_while_it_runs_and_may_be_booted_from(rig: Rig) -> None:
    if not rig.driver.capabilities().media:
        pytest.skip("capability media")
    first, second = rig.medium("first"), rig.medium("second")
    wish = rig.domain(13)
    rig.driver.start(wish)
    wait_for(lambda: rig.boots(wish.vm_id))
    assert rig.in_drive(wish.vm_id) is None
    for path in (first, second, second, None):
        rig.driver.repair(msgspec.structs.replace(wish, media=path))
        assert rig.in_drive(wish.vm_id) == path
    assert rig.boots(wish.vm_id) == 1
    rig.driver.destroy(wish.vm_id)
    rig.driver.start(msgspec.structs.replace(wish, media=first, boot=("cdrom", "disk")))
    assert rig.in_drive(wish.vm_id) == first
    wait_for(lambda: rig.boots(wish.vm_id) == 2)  # nothing to boot from there: the disk is next
    rig.driver.remove(wish.vm_id)


def disk_of(rig: Rig, number: int, name: str, **change: Any) -> DomainDisk:
    return msgspec.structs.replace(rig.disk(number, name), **change)


def test_disks_come_and_are_seen_with_their_epoch_and_limits(rig: Rig) -> None:
    if not rig.driver.capabilities().disk_hotplug:
        pytest.skip("capability disk_hotplug")
    wish = rig.domain(10)
    extra = disk_of(rig, 10, "vol-plug1", epoch=7, index=1, write_iops=50)
    with pytest.raises(DriverError):
        rig.driver.attach_disk(wish.vm_id, extra)  # it does not run
    rig.driver.start(wish)
    for _ in range(2):
        rig.driver.attach_disk(wish.vm_id, extra)
    for driver in (rig.driver, rig.again()):
        domain = found(driver, wish.vm_id)
        assert domain is not None
        assert domain.disks is not None
        held = domain.disks["vol-plug1"]
        assert (held.epoch, held.limits) == (7, (0, 50, 0, 0, 0, 0, 0, 0, 1))
    tuned = msgspec.structs.replace(extra, write_iops=0, read_bytes=1 << 20, read_bytes_burst=2 << 20, burst_s=9)
    rig.driver.tune_disk(wish.vm_id, tuned)
    domain = found(rig.driver, wish.vm_id)
    assert domain is not None
    assert domain.disks is not None
    assert domain.disks["vol-plug1"].limits == (0, 0, 1 << 20, 0, 0, 0, 2 << 20, 0, 9)
    for call in (
        lambda: rig.driver.tune_disk(wish.vm_id, msgspec.structs.replace(extra, volume_id="vol-absent")),
        lambda: rig.driver.resize_disk(wish.vm_id, "vol-absent", 2),
        lambda: rig.driver.snapshot_disk(wish.vm_id, "vol-absent", "snap-1"),
        lambda: rig.driver.copy_disk(wish.vm_id, "vol-absent", "/nonexistent/x", "raw"),
    ):
        with pytest.raises(DriverError):
            call()
    rig.driver.remove(wish.vm_id)
    assert rig.driver.detach_disk(wish.vm_id, "vol-plug1") is True  # what is not there is gone


def test_a_disk_that_the_guest_does_not_let_go_of_stays_seen(rig: Rig) -> None:
    if not rig.driver.capabilities().disk_hotplug:
        pytest.skip("capability disk_hotplug")
    wish = rig.domain(11)  # it runs no operating system that could answer
    rig.driver.start(wish)
    wait_for(lambda: rig.boots(wish.vm_id))
    rig.driver.attach_disk(wish.vm_id, disk_of(rig, 11, "vol-plug2", index=1))
    for _ in range(2):
        assert rig.driver.detach_disk(wish.vm_id, "vol-plug2") is False
    domain = found(rig.driver, wish.vm_id)
    assert domain is not None
    assert domain.disks is not None
    assert "vol-plug2" in domain.disks
    rig.driver.remove(wish.vm_id)


def test_a_disk_grows_and_is_snapshotted_and_copied_while_it_is_written(rig: Rig) -> None:
    if not rig.driver.capabilities().live_snapshots:
        pytest.skip("capability live_snapshots")
    wish = rig.domain(12)
    rig.driver.start(wish)
    rig.driver.attach_disk(wish.vm_id, disk_of(rig, 12, "vol-plug3", index=1))
    for size in (2, 2, 1):
        rig.driver.resize_disk(wish.vm_id, "vol-plug3", size)
    for name in ("snap-1", "snap-2", "snap-1"):
        rig.driver.snapshot_disk(wish.vm_id, "vol-plug3", name)
    for _ in range(2):
        rig.driver.drop_disk_snapshot(wish.vm_id, "vol-plug3", "snap-2")
    assert rig.inside("vol-plug3") == (2, ("snap-1",))
    rig.driver.copy_disk(wish.vm_id, "vol-plug3", rig.target(12), "qcow2")
    rig.driver.remove(wish.vm_id)


def nics_of(driver: Any, vm_id: str) -> tuple[str, ...]:
    domain = found(driver, vm_id)
    assert domain is not None
    assert domain.nics is not None
    return tuple(sorted(domain.nics))


def test_interfaces_come_while_it_runs_and_are_in_its_definition_too(rig: Rig) -> None:
    if not rig.driver.capabilities().nic_hotplug:
        pytest.skip("capability nic_hotplug")
    wish, first, second = rig.domain(14), rig.nic(14), rig.nic(15)
    with pytest.raises(DriverError):
        rig.driver.attach_nic(wish.vm_id, first)  # it does not run
    rig.driver.start(wish)
    assert nics_of(rig.driver, wish.vm_id) == ()
    for nic in (first, first, second):
        rig.driver.attach_nic(wish.vm_id, nic)
    macs = tuple(sorted((first.mac.lower(), second.mac.lower())))
    for driver in (rig.driver, rig.again()):
        assert nics_of(driver, wish.vm_id) == macs
    assert shaped(rig, wish.vm_id) == (shape_of(with_nics(wish, first, second)),) * 2
    rig.driver.destroy(wish.vm_id)
    for _ in range(2):
        assert rig.driver.detach_nic(wish.vm_id, second.mac.lower()) is True  # what does not run has let go
    assert shaped(rig, wish.vm_id) == (shape_of(with_nics(wish, first)), None)
    rig.driver.remove(wish.vm_id)
    assert rig.driver.detach_nic(wish.vm_id, first.mac.lower()) is True  # what is not there is gone


def test_an_interface_that_the_guest_does_not_let_go_of_stays_seen(rig: Rig) -> None:
    if not rig.driver.capabilities().nic_hotplug:
        pytest.skip("capability nic_hotplug")
    wish, nic = rig.domain(16), rig.nic(16)  # it runs no operating system that could answer
    rig.driver.start(wish)
    wait_for(lambda: rig.boots(wish.vm_id))
    rig.driver.attach_nic(wish.vm_id, nic)
    assert rig.driver.detach_nic(wish.vm_id, "52:00:00:00:00:99") is True
    for _ in range(2):
        assert rig.driver.detach_nic(wish.vm_id, nic.mac.lower()) is False
    assert nics_of(rig.driver, wish.vm_id) == (nic.mac.lower(),)
    assert shaped(rig, wish.vm_id)[0] == shape_of(wish)  # its next start is without
    rig.driver.remove(wish.vm_id)


def with_nics(wish: Domain, *nics: DomainNic) -> Domain:
    return msgspec.structs.replace(wish, nics=nics)
