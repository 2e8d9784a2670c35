"""Rows of one kind are written by one statement, and what a draft looks at is read by keys, however many others there are."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest
from tests.world import World

from nubila.model.draft import Draft
from nubila.store import node, vm
from nubila.store.database import Retry

READ = """select relname, coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) as rows from pg_stat_xact_user_tables
    where relname = any($1)"""
MANY = 18


@pytest.fixture
async def many(world: World) -> World:
    """One project with 18 vms in one network, and another network of another range beside it."""
    for i in range(MANY):
        await world.create_vm(f"v{i}")
    return world


async def rows_read(world: World, sql: str, *values: Any) -> dict[str, int]:
    """How many rows of each table PostgreSQL fetched for this query, on a connection like every other."""
    async with world.database.connection() as c, c.transaction():
        before = {r["relname"]: r["rows"] for r in await c.fetch(READ, ["port", "address", "vm", "security_group"])}
        await c.fetch(sql, *values)
        after = {r["relname"]: r["rows"] for r in await c.fetch(READ, ["port", "address", "vm", "security_group"])}
    return {k: v - before.get(k, 0) for k, v in after.items()}


@pytest.mark.parametrize("analysed", [False, True], ids=["new tables", "known tables"])
async def test_what_a_create_looks_at_does_not_grow_with_the_vms(many: World, analysed: bool) -> None:
    if analysed:
        await many.database.execute("analyze")
    some = [many.random.getrandbits(62) for _ in range(4)]
    asked = (many.project_id, "tiny", None, "mini", None, [], [], [], [], some, True, "new", True)
    read = await rows_read(many, vm.CREATE, *asked)
    assert read["port"] == 0
    assert read["address"] <= len(some)
    assert read["vm"] == 0
    # the same look, at a name that is taken, sees that one
    assert (await rows_read(many, vm.CREATE, *asked[:-2], "v1", True))["vm"] <= 1
    row = await many.database.row(vm.CREATE, *asked[:-2], "v1", True)
    assert row is not None
    assert row["taken"] == "v1"


@pytest.mark.parametrize("analysed", [False, True], ids=["new tables", "known tables"])
async def test_what_a_node_is_told_does_not_grow_with_the_vms(many: World, analysed: bool) -> None:
    if analysed:
        await many.database.execute("analyze")
    node_id = many.node_ids[0]
    revision = await many.database.value("select revision from node_revision where node_id = $1", node_id)
    read = await rows_read(many, node.NEWS, node_id, revision - 1)
    assert read["vm"] == 1
    assert read["port"] < MANY // 3
    news = await many.nodes.news(node_id, revision - 1)
    assert news is not None
    assert news["vms"].count('"hostname"') == 1
    everything = await many.nodes.news(node_id, 0)
    assert everything is not None
    assert everything["vms"].count('"hostname"') == MANY
    assert (await many.nodes.position(node_id, revision) or {})["behind"] is False


async def test_the_claim_that_does_not_hold_is_the_one_that_is_named(world: World) -> None:
    """The claims before it in the same statement held, and their rows already show it."""
    await world.database.execute("update quota set amount = 3 where class in ('cores', 'vms')")
    await world.database.execute("update quota set used = 2 where class = 'vms'")
    before = await world.database.fetch("select * from quota order by class")
    draft = Draft(actor="test", request="r")
    for class_ in ("cores", "disk_gib", "vms"):
        draft.takes_quota(world.project_id, class_, 2)
    with pytest.raises(Exception, match="quota of vms is 3; 2 are used, 1 left, and this needs 2"):
        await world.database.commit(draft)
    assert await world.database.fetch("select * from quota order by class") == before


async def test_claims_of_one_kind_are_summed(world: World) -> None:
    draft = Draft(actor="test", request="r")
    for _ in range(3):
        draft.takes_quota(world.project_id, "vms", 2)
        draft.takes_capacity(world.node_ids[0], "cores", 1)
    await world.database.commit(draft)
    assert await world.database.value("select used from quota where class = 'vms'") == 6
    assert await world.database.value("select used from inventory where class = 'cores'") == 3


async def test_of_several_rows_the_one_that_is_gone_is_named_and_none_is_written(many: World) -> None:
    rows = await many.database.fetch("select id, name from vm order by id limit 3")
    draft = Draft(actor="test", request="r")
    for row in rows:
        draft.updates("vm", {"id": row["id"]}, name="n" + row["name"])
    gone = UUID(int=7)
    draft.updates("vm", {"id": gone}, name="nobody")
    with pytest.raises(Retry) as e:
        await many.database.commit(draft)
    assert e.value.changed == [{"kind": "vm", "id": str(gone), "was": True, "is_now": "gone"}]
    assert await many.database.value("select count(*) from vm where name like 'nv%'") == 0
    draft.update["vm"].pop()
    await many.database.commit(draft)
    assert await many.database.value("select count(*) from vm where name like 'nv%'") == 3
    logged = await many.database.fetch("select content->>'name' as name from change where request = 'r' order by seq")
    assert [r["name"] for r in logged] == ["n" + r["name"] for r in rows]


async def test_a_row_that_a_draft_changes_twice_is_written_once(world: World) -> None:
    await world.create_vm("a")
    vm_id = UUID((await world.vm("a"))["vm"]["id"])
    row = await world.resources.whole("vm", object_id=vm_id)
    assert row is not None
    draft = Draft(actor="test", request="r")
    draft.changes("vm", row, version=True, name="b")
    draft.changes("vm", row, version=True, labels={"x": "y"})
    await world.database.commit(draft)
    after = await world.resources.whole("vm", object_id=vm_id)
    assert after is not None
    assert (after["name"], after["labels"], after["version"]) == ("b", {"x": "y"}, row["version"] + 1)
    assert await world.database.value("select count(*) from change where request = 'r'") == 1


@pytest.mark.parametrize(
    ("status", "made"),
    [
        ({"ready": False, "made": True}, True),  # lost: not to be made anew
        ({"ready": True}, True),  # of the version before
        ({"ready": False, "made": False}, False),
        (None, False),
    ],
)
async def test_a_node_is_told_whether_a_disk_was_made_before(world: World, status: Any, made: bool) -> None:
    await world.create_vm("v")
    volume_id = await world.database.value("update volume set status = $1 returning id", json.dumps(status))
    await world.database.execute(
        "insert into wanted (node_id, vm_id, kind, revision) select node_id, $1, 'volume', revision from node_revision",
        volume_id,
    )
    row = await world.database.row(node.NEWS, world.node_ids[0], 0)
    assert row is not None
    (vm,), (volume,) = (json.loads(row[k]) for k in ("vms", "volumes"))
    assert (vm["disks"][0]["made"], volume["made"]) == (made, made)
