"""Seals: what was sealed is told from what somebody made of it with SQL, each kind of tampering by its name."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tests.world import World

from nubila.store import audit
from nubila.store.audit import Anchor, AuditStore, Verdict
from nubila.store.seal import SealStore, SeenSeal, of_row


async def sealed(world: World, rounds: int = 3) -> SealStore:
    """A log of some blocks."""
    seals = SealStore(world.database)
    for n in range(rounds):
        await world.create_vm(f"v{n}")
        while await seals.seal(rows_max=4) is not None:
            pass
    return seals


async def verdict(world: World, anchors: Sequence[Anchor] = ()) -> Verdict:
    return await AuditStore(world.database).verify(1, anchors)


def told(found: Verdict) -> set[tuple[str, int | None]]:
    return {(f.what, f.seq) for f in found.findings}


async def anchor(world: World, back: int = 0) -> Anchor:
    row = await world.database.row(
        "select fabric_epoch, block, hash from seal order by block desc limit 1 offset $1", back
    )
    assert row is not None
    return Anchor(source="n1", **dict(row))


async def test_a_log_that_nobody_touched_is_sound(world: World) -> None:
    await sealed(world)
    found = await verdict(world, [await anchor(world), await anchor(world, 2)])
    assert (found.findings, found.sound, found.unsealed) == ([], True, 0)
    assert found.rows == await world.database.value("select count(*) from change")
    assert found.seals == await world.database.value("select count(*) from seal") > 3
    await world.create_vm("more")
    assert (await verdict(world)).unsealed > 0


async def test_nothing_new_makes_no_seal_and_no_transaction_is_divided(world: World) -> None:
    seals = await sealed(world)
    assert await seals.seal() is None
    divided = "select count(*) from (select xid from change c join seal s on c.xid >= s.low and c.xid < s.horizon group by xid having count(distinct s.block) > 1) x"
    assert await world.database.value(divided) == 0


SEALED = "select seq from change where kind = 'vm' and xid < (select max(horizon) from seal) order by seq limit 1"


@pytest.mark.parametrize(
    ("sql", "what"),
    [
        ("update change set actor = 'user:nobody' where seq = $1", "altered"),
        ('update change set content = content || \'{"name": "other"}\' where seq = $1', "altered"),
        ("update change set at = at + interval '1 microsecond' where seq = $1", "altered"),
        ("update change set project_id = null where seq = $1", "altered"),
        ("delete from change where seq = $1", "missing"),
    ],
)
async def test_a_row_altered_or_deleted_is_named(world: World, sql: str, what: str) -> None:
    await sealed(world)
    seq = await world.database.value(SEALED)
    await world.database.execute(sql, seq)
    found = await verdict(world)
    assert told(found) == {(what, seq)}
    assert not found.sound


async def test_a_row_inserted_among_older_ones_is_named(world: World) -> None:
    await sealed(world)
    copy = "insert into change (xid, kind, object_id, action, content, fabric_epoch) select {}, kind, object_id, action, content, {} from change where seq = $1 returning seq"
    seq = await world.database.value(SEALED)
    among = await world.database.value(copy.format("xid", "1"), seq)
    never = await world.database.value(copy.format("'99999999999'::xid8", "1"), seq)
    later = await world.database.value(copy.format("xid", "7"), seq)
    assert told(await verdict(world)) == {("inserted", among), ("inserted", never), ("inserted", later)}


async def test_a_row_altered_together_with_its_seal_breaks_the_chain(world: World) -> None:
    """Whoever computes the block's seal anew has to write all that follow anew; and then the anchors tell."""
    await sealed(world)
    seen = await anchor(world)
    block = await world.database.value("select block from seal order by block offset 1 limit 1")
    await world.database.execute("update seal set count = count + 1 where block = $1", block)
    found = await verdict(world)
    assert {f.what for f in found.findings} == {"rewritten"}
    assert block in {f.block for f in found.findings}
    # the whole chain anew, without a fault in itself
    seq = await world.database.value(SEALED)
    await world.database.execute("update change set actor = 'user:nobody' where seq = $1", seq)
    await world.database.execute("delete from seal")
    while await SealStore(world.database).seal(rows_max=4) is not None:
        pass
    assert (await verdict(world)).sound
    found = await verdict(world, [seen])
    assert {f.what for f in found.findings} & {"rewritten", "tail-cut"}
    assert not found.sound


async def test_seals_taken_out_of_the_middle_are_missed(world: World) -> None:
    await sealed(world)
    await world.database.execute("delete from seal where block = 2")
    found = await verdict(world)
    assert "rewritten" in {f.what for f in found.findings}
    assert "The seals 2 to 2 are missing." in {f.detail for f in found.findings}


async def test_a_tail_cut_with_its_seals_is_known_from_what_a_node_saw(world: World) -> None:
    seals = await sealed(world)
    head = await seals.newest()
    assert head is not None
    await seals.anchor({world.node_ids[0]: SeenSeal(head["fabric_epoch"], head["block"], head["hash"])})
    horizon = await world.database.value("select low from seal order by block desc limit 1 offset 1")
    await world.database.execute("delete from change where xid >= $1::text::xid8", str(horizon))
    await world.database.execute("delete from seal where low >= $1::text::xid8", str(horizon))
    found = await verdict(world)
    assert [(f.what, "n1 saw seal" in f.detail) for f in found.findings] == [("tail-cut", True)]


async def test_without_the_comparison_of_digests_an_altered_row_passes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin: the guard taken away, the tampering goes unnoticed."""
    await sealed(world)
    await world.database.execute("update change set actor = 'x' where seq = $1", await world.database.value(SEALED))
    monkeypatch.setattr(audit, "compare", lambda *_: None)
    assert (await verdict(world)).sound


async def test_a_seal_says_its_own_hash(world: World) -> None:
    await sealed(world)
    rows = await world.database.fetch(
        "select *, low::text::numeric as low, horizon::text::numeric as horizon from seal"
    )
    assert all(of_row(dict(r)).hash == r["hash"] for r in rows)
