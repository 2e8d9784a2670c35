"""The conformance suite of hypervisor drivers: one text, run on every driver of the registry. Here a domain's life; what it
is made of while it runs is in test_driver_hypervisor_devices.py.
"""

from __future__ import annotations

import time

import driver_guests
import msgspec
import pytest
from driver_rig import Rig, found, shaped, vm_id, wait_for
from driver_rigs import RIGS

from nubila.drivers.hypervisor import DRIVERS
from nubila.drivers.hypervisor.base import shape_of


def test_every_driver_is_tested() -> None:
    assert set(RIGS) == set(DRIVERS)


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
