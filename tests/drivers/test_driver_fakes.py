"""The fakes' own promises: their script, their journal, their speed, and that a registry imports no driver."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from nubila.drivers import CapabilityMissing, DriverError, hypervisor, registry
from nubila.drivers.hypervisor.base import Domain
from nubila.drivers.hypervisor.fake import FakeHypervisor
from nubila.drivers.hypervisor.fake_world import HypervisorWorld
from nubila.drivers.script import Script, Table


def domain(number: int = 1, epoch: int = 1) -> Domain:
    return Domain(
        vm_id=f"vm-{number}", uuid="u", epoch=epoch, virt_method="qemu", cores=1, memory_mib=64, directory="/d",
        uid=1, gid=1, disks=(), nics=(),
    )  # fmt: skip


def test_a_scripted_failure_changes_nothing() -> None:
    fake = FakeHypervisor()
    fake.script.fail("start", times=2, reason="no memory", again=False)
    for _ in range(2):
        with pytest.raises(DriverError, match="no memory") as error:
            fake.start(domain())
        assert not error.value.again
    assert fake.observe().domains == ()
    fake.start(domain())
    assert len(fake.observe().domains) == 1
    assert fake.script.calls["start"] == 3


def test_a_lost_reply_comes_after_the_effect() -> None:
    fake = FakeHypervisor()
    fake.script.lose_reply("*")
    with pytest.raises(DriverError):
        fake.start(domain())
    assert [d.running for d in fake.observe().domains] == [True]


def test_delays_and_clearing() -> None:
    script = Script()
    script.delay("x", 0.05, times=1)
    script.fail("x", times=None)
    began = time.monotonic()
    for _ in range(2):
        with pytest.raises(DriverError):
            script.enter("x")
    assert 0.05 <= time.monotonic() - began < 1
    script.clear()
    script.enter("x")


def test_a_boot_of_the_machine_stops_all_for_no_known_reason() -> None:
    fake = FakeHypervisor()
    fake.start(domain())
    fake.world.host_boot()
    assert [(d.running, d.reason) for d in fake.observe().domains] == [(False, None)]


class Row(msgspec.Struct):
    value: int


def test_a_journal_cut_in_the_middle_of_a_line_is_read_up_to_there(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    table = Table(Row, path)
    for number in range(3):
        table.put(str(number), Row(number))
    table.drop("1")
    with path.open("ab") as file:
        file.write(b'["3",{"val')
    assert {row.value for row in Table(Row, path).all()} == {0, 2}


def test_a_journal_goes_on_after_a_cut_line(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    Table(Row, path).put("0", Row(0))
    with path.open("ab") as file:
        file.write(b'["1",{"val')
    Table(Row, path).put("2", Row(2))
    assert {row.value for row in Table(Row, path).all()} == {0, 2}


def test_fakes_are_cheap(tmp_path: Path) -> None:
    """They carry benchmarks of hundreds of vms a second: a domain's life may cost some 50 us, not more."""
    fake = FakeHypervisor(HypervisorWorld(tmp_path / "world"))
    wishes = [domain(n) for n in range(1000)]
    began = time.process_time()
    for wish in wishes:
        fake.start(wish)
        fake.destroy(wish.vm_id)
        fake.remove(wish.vm_id)
    assert time.process_time() - began < 0.3


def test_an_unknown_driver_is_named_with_those_that_exist() -> None:
    with pytest.raises(CapabilityMissing, match="fake, libvirt"):
        registry.load(hypervisor.DRIVERS, "xen")


def test_registries_import_no_driver() -> None:
    code = (
        "import sys; from nubila.drivers import hypervisor, storage, network, image_store, registry; "
        "sys.exit(bool({'libvirt', 'pyroute2', 'lxml'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
