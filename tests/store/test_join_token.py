"""A join token that is taken back lets nobody in, whatever the race, and its list has a past."""

from __future__ import annotations

from uuid import UUID

import msgspec
import pytest
from tests.world import World

from nubila.intent import account, node
from nubila.intent.asking import Asking
from nubila.model.draft import Draft, Drafted, Row
from nubila.store.account import Rights
from nubila.store.change import ChangeStore
from nubila.store.cursor import Cursor
from nubila.store.database import Retry
from nubila.store.past import Moment, PastDatabase


async def made(world: World, ttl_s: int = 3600) -> UUID:
    token_id = world.mint()
    body = node.JoinTokenCreate(ttl_s=ttl_s, name="joins")
    await world.do(lambda a: node.create_join_token(body, a, token_id, ("", "00")), project_id=None, operator=True)
    return token_id


async def row(world: World, token_id: UUID) -> Row:
    found = await world.accounts.join_token(token_id)
    assert found is not None
    decoded: Row = msgspec.json.decode(found["token"])
    return decoded


async def drafts(world: World, token: Row) -> tuple[Draft, Draft]:
    """Of an enrolment and of a removal, both made from the same look."""
    asking = Asking(actor="x", request="r", now=await world.accounts.now(), mint=world.mint, operator=True)
    enrols = node.enrol("n.example", token, asking, world.mint(), "racer", "k")
    removes = account.remove_join_token(token, asking)
    assert isinstance(enrols, Drafted)
    assert isinstance(removes, Drafted)
    return enrols.draft, removes.draft


@pytest.mark.parametrize("guarded", [True, False])
async def test_a_token_taken_back_lets_no_machine_in_that_has_just_asked(world: World, guarded: bool) -> None:
    """The removal comes between the look and the commit. The mutant, which looks at the token's row alone, joins."""
    token_id = await made(world)
    enrols, removes = await drafts(world, await row(world, token_id))
    await world.database.commit(removes)
    if guarded:
        with pytest.raises(Retry):
            await world.database.commit(enrols)
        assert await world.database.value("select count(*) from node where name = 'racer'") == 0
    else:
        del enrols.facts["credential"]
        await world.database.commit(enrols)
        assert await world.database.value("select count(*) from node where name = 'racer'") == 1


async def test_a_machine_that_came_first_stays_a_node(world: World) -> None:
    token_id = await made(world)
    enrols, removes = await drafts(world, await row(world, token_id))
    await world.database.commit(enrols)
    await world.database.commit(removes)
    assert await world.database.value("select count(*) from node where name = 'racer'") == 1
    assert await world.accounts.join_token(token_id) is None
    assert await world.database.value("select count(*) from credential where id = $1", token_id) == 0


async def test_the_list_as_it_was(world: World) -> None:
    """By time and by cursor: open, expired, taken back, and before that not there."""

    async def listed(moment: Moment | None) -> dict[UUID, bool]:
        database = world.database if moment is None else PastDatabase(world.database, moment)
        rows = await Rights(database).join_tokens(None, 100)
        return {r["id"]: r["expired"] for r in rows if r["id"] in (token_id, short)}

    async def now() -> Moment:
        return Moment(at=await world.database.value("select clock_timestamp()"))

    async def cursor() -> Cursor:
        end: Cursor = await ChangeStore(world.database).end(1)
        return end

    short = token_id = world.mint()
    begun, before = await now(), await cursor()
    token_id, short = await made(world), await made(world)
    await world.database.execute("update join_token set expires_at = now() + interval '0.3 s' where id = $1", short)
    both, of_both = await now(), await cursor()
    while (await listed(None)) != {token_id: False, short: True}:
        await world.database.execute("select pg_sleep(0.05)")
    late = await now()
    token = await row(world, token_id)
    await world.do(lambda a: account.remove_join_token(token, a), project_id=None, operator=True)
    after, of_end = await now(), await cursor()
    assert await listed(begun) == await listed(Moment(cursor=before)) == {}
    assert await listed(both) == await listed(Moment(cursor=of_both)) == {token_id: False, short: False}
    assert await listed(late) == {token_id: False, short: True}
    assert await listed(after) == await listed(Moment(cursor=of_end)) == await listed(None) == {short: True}
