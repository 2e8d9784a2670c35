"""Several hypervisors of one node as one: each domain is where its virt method is, and is found there by who comes later."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from driver_rig import vm_id
from driver_rig_fake import FakeRig

from nubila.drivers import DriverError
from nubila.drivers.hypervisor.base import Capabilities
from nubila.drivers.hypervisor.fake import FakeHypervisor
from nubila.drivers.hypervisor.fake_world import HypervisorWorld
from nubila.drivers.hypervisor.several import Several


@pytest.fixture
def worlds(tmp_path: Path) -> dict[str, HypervisorWorld]:
    made = {"machines": HypervisorWorld(tmp_path / "m"), "containers": HypervisorWorld(tmp_path / "c")}
    made["containers"].capabilities = Capabilities(virt_methods=("lxc",), media=False)
    return made


def several(worlds: dict[str, HypervisorWorld]) -> Several:
    return Several({name: FakeHypervisor(world) for name, world in worlds.items()})


def test_a_domain_runs_where_its_method_is_and_is_found_there(
    worlds: dict[str, HypervisorWorld], tmp_path: Path
) -> None:
    rig = FakeRig(tmp_path)
    machine, container = rig.domain(1), msgspec.structs.replace(rig.domain(2), virt_method="lxc")
    first = several(worlds)
    assert first.capabilities().virt_methods == ("kvm", "qemu", "lxc")
    assert first.described()["containers"].media is False
    for wish in (machine, container):
        first.start(wish)
    assert [d.vm_id for d in worlds["machines"].domains.all()] == [vm_id(1)]
    assert [d.vm_id for d in worlds["containers"].domains.all()] == [vm_id(2)]
    later = several(worlds)  # it has seen nothing yet
    later.suspend(vm_id(2))
    suspended = worlds["containers"].domains.get(vm_id(2))
    assert suspended is not None
    assert suspended.paused == "suspended"
    assert {d.vm_id for d in later.observe().domains} == {vm_id(1), vm_id(2)}
    assert {s.vm_id for s in later.shapes()} == {vm_id(1), vm_id(2)}
    later.destroy(vm_id(2))
    assert [d.running for d in later.observe().domains] == [True, False]
    for number in (1, 2, 3):
        several(worlds).remove(vm_id(number))
    assert later.observe().domains == ()


def test_a_method_that_nobody_offers_now_is_tried_again_later(
    worlds: dict[str, HypervisorWorld], tmp_path: Path
) -> None:
    wish = msgspec.structs.replace(FakeRig(tmp_path).domain(1), virt_method="other")
    with pytest.raises(DriverError) as error:
        several(worlds).start(wish)
    assert error.value.again is True
    assert "'other'" in error.value.reason
