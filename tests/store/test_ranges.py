"""Networks with overlapping ranges never come to one node that can have one of them only, however close the requests are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest
from tests.world import World

from nubila import errors
from nubila.intent import catalog, network, port_wish
from nubila.intent.asking import Asking, Outcome
from nubila.intent.carry import Done
from nubila.intent.vm_create import VmCreate, create
from nubila.model.draft import Draft, Drafted
from nubila.store import ddl
from nubila.store.database import Database, Retry
from nubila.store.port import PortStore

BRIDGES = {"drivers": {"hypervisor": {"fake": {}}, "network": {"bridge": {"overlapping_ranges": False}}}}
CIDR = "10.9.0.0/24"  # of the world's own network
Attempt = Callable[[Callable[[datetime], Asking]], Any]


@pytest.fixture
async def wired(world: World) -> World:
    """Its nodes are of bridges, and a second project has a network of the same range."""
    await world.open_session(world.node_ids[0], **BRIDGES)
    return world


async def project(world: World, name: str, cidr: str = CIDR) -> UUID:
    done = await world.do(
        lambda a: catalog.create_project(catalog.ProjectCreate(name=name), a), project_id=None, operator=True
    )
    project_id = done.refers["project"]
    assert project_id is not None
    body = network.NetworkCreate(name="default", subnets=[network.SubnetCreate(cidr=cidr)])
    await world.do(lambda a: network.create(body, a), project_id=project_id)
    return project_id


def creating(world: World, project_id: UUID, name: str, networks: list[str] | None = None) -> Attempt:
    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        view = await world.vms.create_view(
            project_id,
            name=name,
            flavor=("tiny", None),
            image=("mini", None),
            networks=None if networks is None else (networks, []),
            keys=([], []),
            random=[world.random.getrandbits(62) for _ in range(16)],
        )
        entropy = [world.random.getrandbits(40) for _ in range(8)]
        body = VmCreate(name=name, flavor="tiny", image="mini", networks=networks)
        nodes = await world.fleet.snapshot()
        return create(body, view, nodes, asking(view["now"]), seed=1, sealed=None, entropy=entropy)

    return attempt


def asked(world: World, project_id: UUID, now: datetime) -> Asking:
    return Asking(actor="user:x", request="r", now=now, mint=world.mint, project_id=project_id)


async def drafted(world: World, attempt: Attempt, project_id: UUID) -> Draft:
    made = await attempt(lambda now: asked(world, project_id, now))
    assert isinstance(made, Drafted), made
    return made.draft


async def on_nodes(world: World) -> list[tuple[str, int]]:
    """Each VM's name, and on which of the nodes its ports are."""
    rows = await world.database.fetch(
        "select v.name, p.node_id from port p join vm v on v.id = p.vm_id where p.removed_at is null order by v.name"
    )
    return [(r["name"], world.node_ids.index(r["node_id"])) for r in rows]


@pytest.mark.parametrize("guarded", [True, False])
async def test_two_creates_that_saw_an_empty_node_do_not_both_come_to_it(
    wired: World, postgres_socket: str, guarded: bool
) -> None:
    """Drafted from the same look, committed at once by two processes. The mutant, without the claim, places both."""
    other = await project(wired, "other")
    drafts = [
        await drafted(wired, creating(wired, of, name), of) for of, name in ((wired.project_id, "a"), (other, "b"))
    ]
    if not guarded:
        for draft in drafts:
            assert draft.ranges
            draft.ranges.clear()
    second = await Database.open(host=postgres_socket, database=wired.name, size=1)
    try:
        both = asyncio.gather(wired.database.commit(drafts[0]), second.commit(drafts[1]), return_exceptions=True)
        lost = [r for r in await both if isinstance(r, BaseException)]
    finally:
        await second.close()
    assert len(await on_nodes(wired)) == (1 if guarded else 2)
    if guarded:
        assert isinstance(lost[0], Retry)
        assert lost[0].claim == "ranges"
        assert await wired.database.value("select sum(amount) from allocation where class = 'cores'") == 1


async def test_the_later_one_waits_for_the_earlier_ones_end(wired: World, postgres_socket: str) -> None:
    """The first commit is not over when the second one comes to its claims: it is waited for, and then seen."""
    other = await project(wired, "other")
    first = await drafted(wired, creating(wired, wired.project_id, "a"), wired.project_id)
    late = await drafted(wired, creating(wired, other, "b"), other)
    second = await Database.open(host=postgres_socket, database=wired.name, size=1)
    try:
        async with wired.database.connection() as c:
            transaction = c.transaction()
            await transaction.start()
            await c.fetchval(f"select {ddl.COMMIT}($1::text::jsonb)", first.encoded())
            waiting = asyncio.ensure_future(second.commit(late))
            await asyncio.sleep(0.3)
            assert not waiting.done()
            await transaction.commit()
        with pytest.raises(Retry):
            await waiting
    finally:
        await second.close()
    assert await on_nodes(wired) == [("a", 0)]


async def test_the_loser_is_placed_elsewhere_or_told(wired: World) -> None:
    """Many at once, of two projects and one range: each node has networks of one project, and who finds none is told."""
    await wired.add_node(**BRIDGES)
    await wired.database.execute("update quota set amount = 1000")
    projects = [wired.project_id, await project(wired, "other"), await project(wired, "third")]
    await wired.database.execute("update quota set amount = 1000")

    async def one(n: int) -> Done:
        of = projects[n % 3]
        caller = wired.caller("vm.create", project_id=of)
        done = await wired.carrier.carry(caller, creating(wired, of, f"v{n}"))
        assert isinstance(done, Done)
        return done

    outcomes = await asyncio.gather(*(one(n) for n in range(12)), return_exceptions=True)
    lost = [o for o in outcomes if isinstance(o, BaseException)]
    assert all(isinstance(o, errors.NoCapacity | errors.Stale) for o in lost), lost
    rows = await wired.database.fetch("select distinct p.node_id, p.project_id from port p where p.removed_at is null")
    assert len(rows) == len({r["node_id"] for r in rows}) == 2
    told = await asyncio.gather(*(one(n) for n in range(12, 15)), return_exceptions=True)
    assert [type(t) for t in told].count(errors.NoCapacity) == 1
    assert sum(isinstance(t, Done) for t in told) == 2


async def test_a_port_that_is_added_meets_a_create_in_the_same_way(wired: World) -> None:
    await wired.do(
        lambda a: network.create(
            network.NetworkCreate(name="more", subnets=[network.SubnetCreate(cidr="10.40.0.0/24")]), a
        )
    )
    first = creating(wired, wired.project_id, "a", ["default"])
    assert isinstance(await wired.carrier.carry(wired.caller("vm.create"), first), Done)
    other = await project(wired, "other", "10.40.0.0/25")
    view, ports = await wired.vm("a"), PortStore(wired.database)
    place = await ports.place(wired.project_id, ("more", None), wired.node_ids[0], [1, 2, 3])
    groups = (await ports.groups(wired.project_id))["groups"]
    adds = port_wish.create(
        port_wish.PortCreate(network="more"), view, place, groups, asked(wired, wired.project_id, view["now"]), random=7
    )
    assert isinstance(adds, Drafted)
    creates = await drafted(wired, creating(wired, other, "b"), other)
    await wired.database.commit(creates)
    with pytest.raises(Retry) as lost:
        await wired.database.commit(adds.draft)
    assert lost.value.claim == "ranges"
    adds.draft.ranges.clear()  # the mutant
    await wired.database.commit(adds.draft)


async def test_ranges_apart_and_nodes_that_can_have_both_claim_nothing_in_vain(world: World) -> None:
    """The twins: a node of other wires takes both, and one of bridges two networks whose ranges are apart."""
    same, apart = await project(world, "same"), await project(world, "apart", "10.60.0.0/24")
    both = [await drafted(world, creating(world, of, name), of) for of, name in ((world.project_id, "a"), (same, "b"))]
    assert [d.ranges for d in both] == [[], []]
    for draft in both:
        await world.database.commit(draft)
    await world.open_session(world.node_ids[0], **BRIDGES)
    draft = await drafted(world, creating(world, apart, "c"), apart)
    assert len(draft.ranges) == 1
    await world.database.commit(draft)
    assert len(await on_nodes(world)) == 3
