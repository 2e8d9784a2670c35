"""Refusals over random fleets of fifty nodes in the database: counts, nearest miss and what would fit, against brute force."""

from __future__ import annotations

import random
from uuid import UUID

import msgspec
import pytest
from tests.unit.test_placement import assert_nearest, oracle, would_fit
from tests.world import World

from nubila import errors
from nubila.intent import catalog
from nubila.placement.decide import Refusal
from nubila.placement.nodes import Node, Request

FLEETS, REQUESTS, NODES = 5, 8, 50
NEVER_S = 1e9
SEEN = "insert into node_seen (node_id, session, seen_at) values ($1, 1, now()) on conflict (node_id) do update set seen_at = now()"
UNSEEN = "delete from node_seen where node_id = $1"
TOTALS = "update inventory set total = $3, reserved = $4, used = $5 where node_id = $1 and class = $2"


class Kept(msgspec.Struct):
    """A refusal as it is kept: the numbers are in the answer to the operator."""

    request: Request
    refusal: Refusal


async def shaken(world: World, draw: random.Random) -> list[Node]:
    """Every node becomes another one, by SQL; returns them in the order of their ids."""
    out = []
    async with world.database.connection() as c, c.transaction():
        for node_id in sorted(world.node_ids):
            amounts = {
                "cores": draw.randrange(0, 17),
                "memory_mib": draw.randrange(0, 4096),
                "disk_gib": draw.randrange(0, 50),
            }
            for class_, free in amounts.items():
                used, reserved = draw.randrange(9), draw.randrange(5)
                await c.execute(TOTALS, node_id, class_, free + used + reserved, reserved, used)
            # heard from now or never: the time that the test itself takes decides nothing
            silent = draw.choice((0.0, 0.0, 0.0, NEVER_S))
            methods = draw.choice((["fake"], ["fake"], ["qemu", "fake"], []))
            state = draw.choice(("running", "running", "running", "maintenance"))
            physical = draw.randrange(1, 17)
            status = {"virt_methods": methods, "cores": physical}
            await c.execute(UNSEEN if silent else SEEN, node_id)
            await c.execute(
                "update node set state = $2, status = status || $3::text::jsonb where id = $1",
                node_id, state, msgspec.json.encode(status).decode(),
            )  # fmt: skip
            out.append(
                Node(
                    id=UUID(str(node_id)),
                    name=f"n{world.node_ids.index(node_id) + 1}",
                    zone="default",
                    placeable=state == "running",
                    silent_s=silent,
                    virt_methods=tuple(methods),
                    physical_cores=physical,
                    free_cores=amounts["cores"],
                    free_memory_mib=amounts["memory_mib"],
                    free_disk_gib=amounts["disk_gib"],
                )
            )
    world.fleet.outdated()
    return out


async def refusal(world: World, name: str, cores: int, memory_mib: int, disk_gib: int) -> Kept | None:
    """What a tenant's create is refused with; None when there was a node for it."""
    size = catalog.FlavorCreate(name=name, cores=cores, memory_mib=memory_mib, disk_gib=disk_gib)
    await world.do(lambda a: catalog.create_flavor(size, a), project_id=None)
    told: errors.NoCapacity | None = None
    try:
        await world.create_vm(name, plan=True, flavor=name, virt_method="fake")
    except errors.NoCapacity as e:
        told = e
    if told is None or told.inside is None:
        return None
    kept = msgspec.json.decode(told.inside, type=Kept)
    assert told.fields["would_fit"] == kept.refusal.would_fit
    assert told.fields["short_of"] == (kept.refusal.nearest.short if kept.refusal.nearest else None)
    return kept


@pytest.mark.slow
async def test_fifty_random_nodes_refuse_with_the_numbers_that_brute_force_finds(world: World) -> None:
    for _ in range(NODES - 1):
        await world.add_node()
    await world.database.execute("update quota set amount = 1099511627776")
    draw, refused, fitted = random.Random(20261121), 0, 0
    for fleet in range(FLEETS):
        nodes = await shaken(world, draw)
        for n in range(REQUESTS):
            size = (draw.randrange(8, 18), draw.randrange(2048, 4097), draw.randrange(25, 51))
            kept = await refusal(world, f"f{fleet}-{n}", *size)
            request = Request(cores=size[0], memory_mib=size[1], disk_gib=size[2], virt_method="fake")
            short = [oracle(request, node) for node in nodes]
            if kept is None:
                fitted += 1
                assert any(not s for s in short)
                continue
            refused += 1
            assert all(short)
            told = kept.refusal
            assert told.nodes == NODES
            counts = {f.filter: (f.refused, f.alone) for f in told.filters}
            names = {name for s in short for name in s}
            assert counts == {k: (sum(k in s for s in short), sum(set(s) == {k} for s in short)) for k in names}
            assert all(f.least == min(s[f.filter] for s in short if f.filter in s) for f in told.filters if f.unit)
            assert_nearest(told, request, nodes)
            assert told.would_fit == would_fit(request, nodes)
    assert refused > 10, (refused, fitted)
    assert fitted > 0, (refused, fitted)
