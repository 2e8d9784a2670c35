"""The conformance suite of hypervisor drivers: one text, run on every driver of the registry."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import driver_guests
import msgspec
import pytest
from driver_rigs import RIGS, Rig, found, vm_id, wait_for

from nubila.drivers import DriverError
from nubila.drivers.hypervisor import DRIVERS
from nubila.drivers.hypervisor.base import Domain, DomainDisk, DomainNic, Shape, shape_of


def test_every_driver_is_tested() -> None:
    assert set(RIGS) == set(DRIVERS)


MARKS: dict[str, list[pytest.MarkDecorator]] = {"fake": [], "lxc": [pytest.mark.real, pytest.mark.long]}


@pytest.fixture(scope="module", params=[pytest.param(n, marks=MARKS.get(n, [pytest.mark.real])) for n in DRIVERS])
def rig(request: pytest.FixtureRequest, place: Path) -> Iterator[Rig]:
    path = place / request.param
    path.mkdir(mode=0o711)
    rig = RIGS[request.param](path)
    yield rig
    rig.done()


def test_nothing_is_there_at_first(rig: Rig) -> None:
    assert rig.driver.observe().domains == ()
    assert rig.method in rig.driver.capabilities().virt_methods


def test_removing_what_is_not_there_succeeds(rig: Rig) -> None:
    rig.driver.remove(vm_id(900))
    rig.driver.destroy(vm_id(900))


def test_asking_what_does_not_run_is_refused(rig: Rig) -> None:
    for how in ("agent", "acpi"):
        assert rig.driver.ask_stop(vm_id(900), how) is False
    for how in ("agent", "reset"):
        assert rig.driver.ask_reboot(vm_id(900), how) is False
    assert rig.driver.read_console(vm_id(900), 100) == b""


def test_started_twice_it_runs_once_and_a_new_agent_finds_it(rig: Rig) -> None:
    wish = rig.domain(1)
    rig.driver.start(wish)
    first = found(rig.driver, wish.vm_id)
    assert first is not None
    assert (first.running, first.epoch, first.reason) == (True, 1, None)
    rig.driver.start(wish)
    assert found(rig.driver, wish.vm_id) == first
    adopted = rig.again()
    assert adopted.observe().domains == rig.driver.observe().domains
    adopted.close()
    rig.driver.remove(wish.vm_id)
    rig.driver.remove(wish.vm_id)
    assert found(rig.driver, wish.vm_id) is None


def test_a_domain_changed_by_hand_shows_it_and_is_repaired_while_it_runs(rig: Rig) -> None:
    wish = rig.domain(30)
    rig.driver.start(wish)
    assert shaped(rig, wish.vm_id) == (shape_of(wish), shape_of(wish))
    rig.change(wish.vm_id)
    seen = shaped(rig, wish.vm_id)
    for shape in seen:
        assert shape is not None
        assert len(shape.nics) == len(wish.nics) + 1
    defined = seen[0]
    assert defined is not None
    assert (defined.title, defined.autostart) == ("mine", True)
    was = found(rig.driver, wish.vm_id)
    assert was is not None
    rig.driver.repair(wish)
    rig.driver.repair(wish)
    assert shaped(rig, wish.vm_id)[0] == shape_of(wish)
    now = found(rig.driver, wish.vm_id)
    assert now is not None
    assert (now.running, now.pid) == (True, was.pid)  # the same process runs on
    rig.driver.destroy(wish.vm_id)
    assert shaped(rig, wish.vm_id) == (shape_of(wish), None)
    rig.driver.remove(wish.vm_id)
    assert [s for s in rig.driver.shapes() if s.vm_id == wish.vm_id] == []


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


def test_a_domain_whose_wires_are_whole_is_left_alone(rig: Rig) -> None:
    wish = rig.domain(31)
    rig.driver.rewire(wish)  # unknown
    rig.driver.start(wish)
    was = found(rig.driver, wish.vm_id)
    rig.driver.rewire(wish)
    assert found(rig.driver, wish.vm_id) == was
    rig.driver.destroy(wish.vm_id)
    rig.driver.rewire(wish)
    off = found(rig.driver, wish.vm_id)
    assert off is not None
    assert not off.running
    rig.driver.remove(wish.vm_id)


def shaped(rig: Rig, vm_id: str) -> tuple[Shape | None, Shape | None]:
    one = next(s for s in rig.driver.shapes() if s.vm_id == vm_id)
    return one.defined, one.live


def test_a_destroyed_domain_stays_defined_and_starts_again(rig: Rig) -> None:
    wish = rig.domain(2)
    rig.driver.start(wish)
    rig.driver.destroy(wish.vm_id)
    rig.driver.destroy(wish.vm_id)
    off = found(rig.driver, wish.vm_id)
    assert off is not None
    assert (off.running, off.reason, off.pid) == (False, "destroyed", None)
    rig.driver.start(wish)
    on = found(rig.driver, wish.vm_id)
    assert on is not None
    assert on.running
    rig.driver.remove(wish.vm_id)


def test_a_crash_is_seen_as_one(rig: Rig) -> None:
    if not rig.driver.capabilities().crash:
        pytest.skip("capability crash")
    wish = rig.domain(3)
    rig.driver.start(wish)
    rig.crash(wish.vm_id)
    off = wait_for(lambda: (d := found(rig.driver, wish.vm_id)) and not d.running and d)
    assert off.reason == "crashed"
    rig.driver.remove(wish.vm_id)


def test_a_guest_that_powers_itself_off_is_seen_as_that(rig: Rig) -> None:
    wish = rig.domain(4)
    rig.driver.start(wish)
    wait_for(lambda: rig.boots(wish.vm_id))
    rig.guest_shutdown(wish.vm_id)
    off = wait_for(lambda: (d := found(rig.driver, wish.vm_id)) and not d.running and d)
    assert off.reason == "guest-shutdown"
    rig.driver.remove(wish.vm_id)


def test_the_power_button_is_heard_or_not(rig: Rig) -> None:
    if not rig.driver.capabilities().clean_stop:
        pytest.skip("capability clean_stop")
    obedient, deaf = rig.domain(5, driver_guests.OBEDIENT), rig.domain(6, driver_guests.DEAF)
    for wish in (obedient, deaf):
        rig.driver.start(wish)
    wait_for(lambda: rig.boots(obedient.vm_id) and rig.boots(deaf.vm_id))
    for wish in (obedient, deaf):
        assert rig.driver.ask_stop(wish.vm_id, "acpi") is True
    off = wait_for(lambda: (d := found(rig.driver, obedient.vm_id)) and not d.running and d)
    assert off.reason == "guest-shutdown"
    still = found(rig.driver, deaf.vm_id)
    assert still is not None
    assert still.running
    for wish in (obedient, deaf):
        rig.driver.remove(wish.vm_id)


def test_a_reset_boots_the_same_domain_again(rig: Rig) -> None:
    wish = rig.domain(7)
    rig.driver.start(wish)
    wait_for(lambda: rig.boots(wish.vm_id) == 1)
    before = found(rig.driver, wish.vm_id)
    assert before is not None
    assert rig.driver.ask_reboot(wish.vm_id, "reset") is True
    wait_for(lambda: rig.boots(wish.vm_id) == 2)
    after = found(rig.driver, wish.vm_id)
    assert after is not None
    assert msgspec.structs.replace(after, pid=before.pid) == before  # a container's first process is another one
    rig.driver.remove(wish.vm_id)


def test_suspended_it_stands_still_until_it_is_resumed(rig: Rig) -> None:
    if not rig.driver.capabilities().suspend:
        pytest.skip("capability suspend")
    wish = rig.domain(10, driver_guests.TICKING)
    rig.driver.suspend(wish.vm_id)  # not there: nothing happens
    rig.driver.start(wish)
    wait_for(lambda: rig.ticks(wish.vm_id) > 2)
    for _ in range(2):
        rig.driver.suspend(wish.vm_id)
    still = found(rig.driver, wish.vm_id)
    assert still is not None
    assert (still.running, still.paused) == (True, "suspended")
    time.sleep(0.2)
    ticks = rig.ticks(wish.vm_id)
    time.sleep(1.0)
    assert rig.ticks(wish.vm_id) == ticks
    adopted = rig.again()
    assert found(adopted, wish.vm_id) == still
    adopted.close()
    for _ in range(2):
        rig.driver.resume(wish.vm_id)
    wait_for(lambda: rig.ticks(wish.vm_id) > ticks)
    on = found(rig.driver, wish.vm_id)
    assert on is not None
    assert (on.running, on.paused, on.pid) == (True, None, still.pid)
    assert rig.boots(wish.vm_id) == 1  # it went on, it was not booted
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


@pytest.mark.parametrize("policy", ["destroy", "preserve"])
def test_a_panic_is_seen_as_one(rig: Rig, policy: str) -> None:
    if not rig.driver.capabilities().panic:
        pytest.skip("capability panic")
    wish = msgspec.structs.replace(rig.domain(11), on_crash=policy)
    rig.driver.start(wish)
    wait_for(lambda: rig.boots(wish.vm_id))
    rig.panic(wish.vm_id)
    kept = policy == "preserve"  # the other one may be seen standing still for a moment
    ended = wait_for(lambda: (d := found(rig.driver, wish.vm_id)) and (d.paused if kept else not d.running) and d)
    if policy == "destroy":
        assert (ended.running, ended.reason) == (False, "panicked")
    else:
        assert (ended.running, ended.paused) == (True, "panicked")
        assert ended.pid is not None
        rig.driver.resume(wish.vm_id)  # what crashed is no suspended vm
        assert found(rig.driver, wish.vm_id) == ended
        rig.driver.destroy(wish.vm_id)
        off = found(rig.driver, wish.vm_id)
        assert off is not None
        assert (off.running, off.paused) == (False, None)
    rig.driver.remove(wish.vm_id)


def test_a_new_epoch_replaces_the_old(rig: Rig) -> None:
    old, new = rig.domain(8, epoch=1), rig.domain(8, epoch=2)
    rig.driver.start(old)
    before = found(rig.driver, old.vm_id)
    rig.driver.start(new)
    now = [d for d in rig.driver.observe().domains if d.vm_id == old.vm_id]
    assert [d.epoch for d in now] == [2]
    assert before is not None
    assert now[0].running
    assert now[0].pid != before.pid
    rig.driver.remove(old.vm_id)


def test_foreign_domains_are_shown_and_left_alone(rig: Rig) -> None:
    looks_like_ours = f"{vm_id(9)}.e1"
    rig.add_foreign(looks_like_ours)
    observed = rig.driver.observe()
    assert looks_like_ours in observed.foreign
    assert vm_id(9) not in [d.vm_id for d in observed.domains]
    rig.driver.destroy(vm_id(9))
    rig.driver.remove(vm_id(9))
    assert rig.has_foreign(looks_like_ours)


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
