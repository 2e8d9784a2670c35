"""Twenty crash points on libvirt, a directory of disks and bridges, out of a network namespace of their own: the agent is
killed before or after a side effect, or has it carried out twice; its next one comes to the wished end, nothing is left."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest

from tests import counts
from tests.crash import scenarios, volume_scenarios
from tests.crash.boundary import Plan
from tests.crash.conftest import Bench
from tests.crash.course import EXHAUSTIVE, MODES, ONCE, carried_out, side_by_side
from tests.crash.host import settled, wait_node
from tests.crash.reals import RealHost
from tests.crash.scenarios import Scenario, Subject
from tests.drivers import driver_guests
from tests.drivers.driver_netns import own_netns
from tests.fleet.caller import Reply
from tests.fleet.installation import Installation, installed
from tests.fleet.tenant import Tenant

pytestmark = [pytest.mark.real, pytest.mark.slow]
HOSTS, SAMPLE, SEED = 2, 20, 7
_NUMBER = itertools.count(1)


def image(cloud: Installation, name: str, kind: str) -> None:
    """A guest of 512 bytes on a disk that no other image has."""
    operator = cloud.operator()
    operator.post("/v1/images", {"name": name, "format": "raw"}).ok()
    disk = driver_guests.boot_sector(kind) + name.encode()
    operator.put_bytes(f"/v1/images/{name}/content", disk.ljust(1 << 20, b"\0")).ok()


@pytest.fixture(scope="module")
def real_benches() -> Iterator[list[Bench]]:
    with own_netns(), installed(nodes=0) as cloud:
        image(cloud, RealHost.image, driver_guests.OBEDIENT)
        made: list[Bench] = []
        try:
            for n in range(HOSTS):
                host = RealHost(cloud, f"nbcrash{n}")
                made.append(Bench(host, Tenant(cloud, cidr=f"10.9{n}.0.0/16", cidr6=f"fd09:{n}::/64")))
                host.start()
            for bench in made:
                wait_node(cloud, bench.host.name)
                bench.host.stop()
            yield made
        finally:
            for bench in made:
                print((cloud.logs / f"{bench.host.name}.log").read_text()[-4000:])  # shown when it failed
                bench.host.close()


def from_a_new_image(s: Subject) -> Reply:
    """One whose bytes are not on the node yet."""
    name = f"fresh{next(_NUMBER)}"
    image(s.tenant.cloud, name, driver_guests.DEAF)
    return s.create(image=name)


BY_NAME = {x.name: x for x in (*scenarios.SCENARIOS, *volume_scenarios.SCENARIOS)}
FRESH = Scenario(name="create-fresh", before=scenarios.nothing, act=from_a_new_image, holds=BY_NAME["create"].holds)
# Which side effects a verb has here, one of each kind that this machine has. What takes the guest's consent to let a disk
# go needs more than a guest of 512 bytes: the drivers' own tests have it.
POINTS: tuple[tuple[Scenario, str], ...] = (
    (FRESH, "storage.ensure_image"),
    *((BY_NAME[name], effect) for name, effect in (
        ("create", "journal.append"),
        ("create", "network.ensure_network"),
        ("create", "network.ensure_group"),
        ("create", "network.ensure_port"),
        ("create", "storage.ensure_volume"),
        ("create", "hypervisor.start"),
        ("start", "hypervisor.start"),
        ("stop", "hypervisor.ask_stop"),
        ("stop-hard", "hypervisor.destroy"),
        ("reboot", "hypervisor.ask_reboot"),
        ("suspend", "hypervisor.suspend"),
        ("resume", "hypervisor.resume"),
        ("repair", "hypervisor.repair"),
        ("remove", "hypervisor.remove"),
        ("remove", "network.remove_port"),
        ("remove", "storage.remove_volume"),
        ("volume-attach", "hypervisor.attach_disk"),
        ("volume-grow", "storage.grow_volume"),
        ("volume-grow-live", "hypervisor.resize_disk"),
        ("volume-limit-live", "hypervisor.tune_disk"),
        ("snapshot", "storage.make_snapshot"),
        ("snapshot-live", "hypervisor.snapshot_disk"),
        ("snapshot-remove", "storage.remove_snapshot"),
        ("snapshot-remove-live", "hypervisor.drop_disk_snapshot"),
        ("roll-back", "storage.roll_back"),
        ("clone", "storage.copy_volume"),
        ("clone-live", "storage.begin_copy"),
        ("clone-live", "hypervisor.copy_disk"),
        ("clone-live", "storage.end_copy"),
    )),
)  # fmt: skip


def chosen() -> list[tuple[Scenario, Plan]]:
    """All in each mode, or as many as asked for of different kinds, each in a mode of its own."""
    every = [
        (scenario, Plan(effect=effect, number=1, mode=mode))
        for scenario, effect in POINTS
        for mode in MODES
        if mode != "twice" or effect not in ONCE
    ]
    if EXHAUSTIVE:
        return every
    draw = random.Random(SEED)
    kinds = draw.sample([effect for _, effect in POINTS], SAMPLE)
    return [draw.choice([p for p in every if p[1].effect == kind]) for kind in kinds]


def test_f2_twenty_side_effects_on_libvirt_may_be_the_last(real_benches: list[Bench]) -> None:
    points = chosen()
    came = sum(side_by_side(real_benches, points, lambda point, bench: carried_out(*point, bench)))
    counts.add(counts.REAL_POINTS, came)
    assert came == len(points) >= SAMPLE
    for bench in real_benches:
        with bench.host.running(Plan(grace_s=0.3)):
            settled(bench.host.cloud, bench.host)
        assert bench.host.litter() == []
