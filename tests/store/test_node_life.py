"""No node goes while anything is promised there, whatever the race; what cannot be is refused by the database too."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest
from tests.world import HELLO, World

from nubila import errors
from nubila.access import principal
from nubila.api.internal.enrol import open_session
from nubila.intent import node_change, node_life
from nubila.intent.asking import Asking
from nubila.intent.carry import Done
from nubila.model.draft import Drafted
from nubila.store.database import Retry
from nubila.store.ddl import COMMIT
from nubila.store.node import NodeStore


async def viewed(world: World, node_id: UUID) -> node_change.View:
    rows = await world.accounts.node_rows(node_id)
    assert rows is not None
    whole, methods, inventory = (msgspec.json.decode(rows[k] or "[]") for k in ("node", "methods", "inventory"))
    seen = {"session": rows["session"], "heard": rows["heard"] or 0, "silent_s": rows["silent_s"]}
    return node_change.View(row=whole, methods=methods, inventory=inventory, **seen)


async def retires(world: World, node_id: UUID) -> Drafted:
    asking = Asking(actor="x", request="r", now=await world.accounts.now(), mint=world.mint, operator=True)
    outcome = node_life.retire(await viewed(world, node_id), asking)
    assert isinstance(outcome, Drafted)
    return outcome


async def state(world: World, node_id: UUID) -> str:
    found: str = await world.database.value("select state from node where id = $1", node_id)
    return found


@pytest.mark.parametrize("guarded", [True, False])
async def test_a_node_stays_for_a_vm_whose_claim_came_first(world: World, guarded: bool) -> None:
    """The create has claimed and not committed when the retirement looks for users: it finds none, and waits for the claim.
    The mutant, without the guard of inventories, then goes from under the vm."""
    (node_id,) = world.node_ids
    if not guarded:
        await world.database.execute("drop trigger guard_empty on inventory")
    retiring = await retires(world, node_id)
    asking = Asking(
        actor="x", request="r", now=await world.accounts.now(), mint=world.mint, project_id=world.project_id
    )
    made = await world.creating(_wish("a"))(lambda now: msgspec.structs.replace(asking, now=now))
    assert isinstance(made, Drafted)
    creating = await asyncpg.connect(host=world.socket, user="nubila", database=world.name)
    try:
        async with creating.transaction():
            await creating.fetchval(f"select {COMMIT}($1::text::jsonb)", made.draft.encoded())
            gone = asyncio.create_task(world.database.commit(retiring.draft))
            await asyncio.sleep(0.5)
            assert not gone.done()  # it waits for the claim
        if not guarded:
            await gone
            assert await state(world, node_id) == "retired"
            assert await world.database.value("select count(*) from vm where removed_at is null") == 1
            return
        with pytest.raises(Retry) as e:
            await gone
    finally:
        await creating.close()
    assert e.value.changed[0]["kind"] == "inventory"
    assert await state(world, node_id) == "running"


def _wish(name: str) -> Any:
    from nubila.intent.vm_create import VmCreate

    return VmCreate(name=name, flavor="tiny", image="mini")


async def retired(world: World, node_id: UUID) -> Done:
    async def attempt(asking: Any) -> Any:
        return node_life.retire(await viewed(world, node_id), asking(await world.accounts.now()))

    done = await world.carrier.carry(world.caller("node.retire", project_id=None, operator=True), attempt)
    assert isinstance(done, Done)
    return done


async def test_what_holds_a_node_is_listed_once(world: World) -> None:
    (node_id,) = world.node_ids
    await world.create_vm("a")
    with pytest.raises(errors.InUse) as e:
        await retired(world, node_id)
    kinds = sorted((u["kind"], u["name"][:5]) for u in e.value.fields["users"])
    assert kinds == [("vm", "a"), ("volume", "a-roo")]
    assert "1 VM (a of project p) and 1 volume (a-root-" in e.value.detail


async def test_room_that_was_promised_to_something_unknown_holds_a_node_too(world: World) -> None:
    (node_id,) = world.node_ids
    text = "insert into allocation (holder_id, class, node_id, amount) values ($1, 'cores', $2, 1)"
    await world.database.execute(text, world.mint(), node_id)
    with pytest.raises(errors.InUse, match="used by 1 object"):
        await retired(world, node_id)
    await world.database.execute("delete from allocation")
    await retired(world, node_id)
    assert await state(world, node_id) == "retired"


@pytest.mark.parametrize(
    ("change", "sqlstate"),
    [
        ("state = 'lost'", "23514"),
        ("state = 'unknown'", "NB422"),
        ("""spec = spec || '{"maintenance": true, "draining": true}'""", "23514"),
        ("""state = 'enrolling'""", "NB422"),
    ],
)
async def test_what_cannot_be_is_refused_by_the_database(world: World, change: str, sqlstate: str) -> None:
    with pytest.raises(asyncpg.PostgresError) as e:
        await world.database.execute(f"update node set {change}")
    assert e.value.sqlstate == sqlstate
    await world.database.execute("""update node set state = 'lost', spec = spec || '{"lost": true}'""")
    with pytest.raises(asyncpg.PostgresError, match="transition"):
        await world.database.execute("update node set state = 'running'")


async def test_the_number_of_an_ended_session_never_comes_again(world: World) -> None:
    (node_id,) = world.node_ids
    before = world.sessions[node_id]
    await world.database.execute("update node_seen set seen_at = now() - interval '99 s'")
    view = await viewed(world, node_id)
    await world.do(lambda a: node_life.lose(node_life.NodeAway(), view, a), project_id=None, operator=True)
    position = await world.nodes.position(node_id)
    assert position is not None
    assert (await state(world, node_id), position["session"]) == ("lost", -before)
    assert await world.nodes.lost(node_id)
    assert await world.open_session(node_id) == before + 1
    assert (await state(world, node_id), await world.nodes.lost(node_id)) == ("maintenance", False)


async def test_a_node_that_is_declared_lost_while_it_opens_a_session_does_not_stay_lost(world: World) -> None:
    """Between what the session's opening writes of the node, and the session itself."""
    (node_id,) = world.node_ids

    class Between(NodeStore):
        times = 0

        async def new_session(self, node_id: UUID) -> int:
            self.times += 1
            if self.times == 1:
                await world.database.execute("update node_seen set seen_at = now() - interval '99 s'")
                view = await viewed(world, node_id)
                await world.do(lambda a: node_life.lose(node_life.NodeAway(), view, a), project_id=None, operator=True)
            return await super().new_session(node_id)

    nodes = Between(world.database)
    context = SimpleNamespace(
        carrier=world.carrier, accounts=world.accounts, nodes=nodes, notifier=world.notifier, fabric_epoch=1, region="r"
    )
    call: Any = SimpleNamespace(
        context=context, principal=principal.node(node_id), body=HELLO, request_id="req-test", idempotency_key=None
    )
    answer = await open_session(call)
    position = await world.nodes.position(node_id)
    assert position is not None
    assert answer.body.session == position["session"] > 0
    assert (nodes.times, await state(world, node_id)) == (2, "maintenance")
