"""commit(draft): all of it or nothing; facts, claims and quotas hold under races; every mutant of a guard is noticed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

import msgspec
import pytest
from tests.world import World

from nubila import errors
from nubila.intent import operation, vm
from nubila.intent.asking import Asking, Outcome
from nubila.intent.carry import Carrier, Done
from nubila.intent.vm_create import VmCreate
from nubila.model.draft import Draft, Drafted
from nubila.store.database import Retry
from nubila.store.resource import Filter


async def test_create_writes_every_row_and_claims(world: World) -> None:
    await world.create_vm("a")
    view = await world.vm("a")
    assert view["vm"]["state"] == "pending"
    assert len(view["ports"]) == 1
    assert len(view["addresses"]) == 1
    assert len(view["attachments"]) == 1
    assert {a["class"]: a["amount"] for a in view["allocations"]} == {"cores": 1, "memory_mib": 128, "disk_gib": 1}
    used = await world.database.fetch("select class, used from inventory order by class")
    assert [(r["class"], r["used"]) for r in used] == [("cores", 1), ("disk_gib", 1), ("memory_mib", 128)]
    assert await world.database.value("select used from quota where class = 'vms'") == 1


async def test_quota_race_makes_exactly_n(world: World) -> None:
    """A9: 60 parallel creates at a quota of 20 make 20, and every number agrees."""
    outcomes = await asyncio.gather(*(world.create_vm(f"v{i}") for i in range(60)), return_exceptions=True)
    made = [o for o in outcomes if not isinstance(o, BaseException)]
    assert len(made) == 20
    assert all(
        isinstance(o, errors.QuotaExceeded | errors.Stale | Retry) for o in outcomes if isinstance(o, BaseException)
    )
    assert await world.database.value("select used from quota where class = 'vms'") == 20
    assert await world.database.value("select count(*) from vm") == 20
    assert await world.database.value("select count(distinct address) from address where origin = 'allocated'") == 20
    sums = await world.database.fetch(
        "select i.class, i.used, (select coalesce(sum(a.amount), 0)::bigint from allocation a where a.class = i.class) as held from inventory i"
    )
    assert all(r["used"] == r["held"] for r in sums)


async def test_capacity_race_never_oversells(world: World) -> None:
    """Eight gigabytes less one reserved hold 3 VMs of 2 GiB, whatever the race."""
    await world.database.execute("update quota set amount = 100000")
    from nubila.intent import catalog

    await world.do(
        lambda a: catalog.create_flavor(catalog.FlavorCreate(name="big", cores=1, memory_mib=2048, disk_gib=1), a),
        project_id=None,
    )
    outcomes = await asyncio.gather(
        *(world.create_vm(f"v{i}", flavor="big") for i in range(12)), return_exceptions=True
    )
    assert sum(not isinstance(o, BaseException) for o in outcomes) == 3
    assert await world.database.value("select used from inventory where class = 'memory_mib'") == 3 * 2048


async def test_a_stale_fact_writes_nothing_and_says_was_and_is_now(world: World) -> None:
    await world.create_vm("a")
    row = (await world.vm("a"))["vm"]
    before = await world.counts()
    draft = Draft(actor="t", request="r")
    draft.changes("vm", {**row, "generation": row["generation"] + 3}, generation=9)
    draft.inserts("decision", id=world.mint(), vm_id=row["id"], project_id=row["project_id"], node_id=None, answer={})
    with pytest.raises(Retry) as e:
        await world.database.commit(draft)
    assert e.value.changed == [
        {"kind": "vm", "id": row["id"], "was": row["generation"] + 3, "is_now": row["generation"]}
    ]
    assert await world.counts() == before


async def test_a_missing_fact_is_gone(world: World) -> None:
    draft = Draft(actor="t", request="r")
    missing = world.mint()
    draft.rests_on("flavor", {"id": missing, "generation": 1})
    draft.inserts("decision", id=world.mint(), vm_id=world.mint(), project_id=world.project_id, node_id=None, answer={})
    with pytest.raises(Retry) as e:
        await world.database.commit(draft)
    assert e.value.changed[0]["is_now"] == "gone"


async def test_sixteen_racing_changes_one_wins(world: World) -> None:
    await world.create_vm("a")
    view = await world.vm("a")
    results = await asyncio.gather(
        *(world.do(lambda a: vm.change(vm.VmChange(labels={"n": "1"}), view, a)) for _ in range(16)),
        return_exceptions=True,
    )
    assert sum(not isinstance(r, BaseException) for r in results) == 1
    assert (await world.vm("a"))["vm"]["generation"] == 2


async def test_f32_mutant_without_facts_more_than_one_wins(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard removed: what each change rests on is not looked at, and later ones undo earlier ones unseen."""
    await world.create_vm("a")
    view = await world.vm("a")
    monkeypatch.setattr(Draft, "_fact", lambda *_: None)
    results = await asyncio.gather(
        *(world.do(lambda a: vm.change(vm.VmChange(labels={"n": "1"}), view, a)) for _ in range(16)),
        return_exceptions=True,
    )
    assert sum(not isinstance(r, BaseException) for r in results) == 16


@pytest.mark.parametrize("guarded", [True, False])
async def test_f32_one_vm_of_a_name_by_constraint(world: World, guarded: bool) -> None:
    """Drafted from one look, committed at once: one wins. The mutant, without the constraint, makes all of them."""
    if not guarded:
        await world.database.execute("drop index vm_name_key")
    drafts = []
    for _ in range(8):
        body = VmCreate(name="same", flavor="tiny", image="mini")
        drafted = await world.creating(body)(lambda now: asking(world, now))
        assert isinstance(drafted, Drafted)
        drafts.append(drafted.draft)
    results = await asyncio.gather(*(world.database.commit(d) for d in drafts), return_exceptions=True)
    lost = [r for r in results if isinstance(r, BaseException)]
    assert all(isinstance(r, errors.NameTaken | Retry) for r in lost), lost
    assert await world.database.value("select count(*) from vm where name = 'same'") == 8 - len(lost)
    assert (len(lost) == 7) == guarded


def asking(world: World, now: datetime) -> Asking:
    return Asking(actor="user:x", request="r", now=now, mint=world.mint, project_id=world.project_id)


async def reboots(world: World, carrier: Carrier) -> Done:
    """A reboot under one key, from a client that repeats it unchanged."""
    caller = world.caller("vm.reboot", idempotency_key="k", fingerprint="f")

    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        return vm.reboot(vm.VmReboot(), await world.vm("a"), asking(await world.accounts.now()))

    done = await carrier.carry(caller, attempt)
    assert isinstance(done, Done)
    return done


@pytest.mark.parametrize("guarded", [True, False])
async def test_f1_a_process_that_died_after_its_commit_is_answered_for_by_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch, guarded: bool
) -> None:
    """The client's repetition comes to another process. The mutant, whose commits keep no key, reboots twice."""
    await world.create_vm("a")
    await world.database.execute(
        "update vm set state = 'running', observed_generation = generation, status = jsonb_build_object('power', 'on')"
    )
    if not guarded:
        inserts = Draft.inserts
        monkeypatch.setattr(
            Draft, "inserts", lambda d, kind, /, **row: None if kind == "idempotency" else inserts(d, kind, **row)
        )

    class Died(BaseException):
        pass

    def die(hints: object) -> None:
        raise Died

    with monkeypatch.context() as m, pytest.raises(Died):
        m.setattr(world.notifier, "tell", die)  # between the commit and the answer
        await reboots(world, world.carrier)
    once = (await world.vm("a"))["vm"]["spec"]["reboots"]
    assert once > 0
    next_one = Carrier(world.database, world.notifier, world.fleet, world.mint)
    if guarded:
        assert (await reboots(world, next_one)).replayed
        assert (await world.vm("a"))["vm"]["spec"]["reboots"] == once
    else:
        await reboots(world, next_one)
        assert (await world.vm("a"))["vm"]["spec"]["reboots"] > once


async def test_an_image_in_use_cannot_be_removed_and_a_racing_create_finds_it_gone(world: World) -> None:
    from nubila.intent import catalog

    row = await world.resources.whole("image", name="mini")
    assert row is not None
    plan = world.create_vm("a")
    remove = world.do(lambda a: catalog.remove("image", row, a), project_id=None)
    made, removed = await asyncio.gather(plan, remove, return_exceptions=True)
    assert isinstance(made, BaseException) != isinstance(removed, BaseException)
    if not isinstance(made, BaseException):
        assert isinstance(removed, errors.Stale)
        assert removed.fields["changed"][0]["user_kind"] == "vm"


async def test_an_illegal_transition_is_refused_by_the_database(world: World) -> None:
    await world.create_vm("a")
    row = (await world.vm("a"))["vm"]
    draft = Draft(actor="t", request="r")
    draft.changes("vm", row, state="removed", removed_at="2026-01-01T00:00:00Z", spec={**row["spec"], "gone": True})
    with pytest.raises(Retry) as refused:
        await world.database.commit(draft)
    assert refused.value.changed == [{"kind": "vm", "was": "able to become removed", "is_now": "pending"}]


async def test_a_cancel_that_comes_as_the_operation_ends_is_answered_by_a_new_look(world: World) -> None:
    """Operations are written by their ids alone: the guard of their states tells that one has ended meanwhile."""
    await world.create_vm("a")
    looks: list[str] = []

    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        view = await world.vm("a")
        op = (await world.resources.list("operation", Filter(project_id=world.project_id)))[0]
        looks.append(op["state"])
        row = {
            "id": str(op["id"]),
            "name": op["name"],
            "state": op["state"],
            "spec": msgspec.json.decode(op["spec"]),
            "status": {},
        }
        outcome = operation.cancel(row, view, asking(await world.accounts.now()))
        if len(looks) == 1:
            await world.database.execute("update operation set state = 'done', ended_at = now()")
        return outcome

    done = await world.carrier.carry(world.caller("operation.cancel"), attempt)
    assert looks == ["waiting", "done"]
    assert isinstance(done, Done)
    assert done.secret["cancelled"] == "no"
    assert (await world.vm("a"))["vm"]["state"] == "pending"


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("attachment", {"state": "revoked"}),  # without a proof
        ("attachment", {"state": "incoming"}),  # without a migration
        ("vm", {"state": "removing"}),  # that nobody wished gone
        ("vm", {"epoch": 0}),
        ("operation", {"state": "done"}),  # without its time
    ],
)
async def test_impossible_pairs_cannot_be_written(world: World, table: str, change: dict[str, object]) -> None:
    await world.create_vm("a")
    sets = ", ".join(f"{k} = '{v}'" for k, v in change.items())
    with pytest.raises(Exception, match="check constraint|cannot go from"):
        await world.database.execute(f"update {table} set {sets}")


async def test_same_key_same_vm_and_other_body_is_refused(world: World) -> None:
    """I6 and A13: one resource per key; the key is the principal's own."""
    first = await world.create_vm("a", key="k1")
    again = await world.create_vm("a", key="k1")
    assert first.refers == again.refers  # type: ignore[union-attr]
    assert again.replayed  # type: ignore[union-attr]
    with pytest.raises(errors.KeyReused):
        await world.create_vm("b", key="k1")
    assert await world.database.value("select count(*) from vm") == 1


async def test_twenty_parallel_calls_with_one_key_make_one_vm(world: World) -> None:
    done = await asyncio.gather(*(world.create_vm("a", key="k") for _ in range(20)))
    assert len({str(d.refers["vm"]) for d in done}) == 1  # type: ignore[union-attr]
    assert await world.database.value("select count(*) from vm") == 1
    assert await world.database.value("select used from quota where class = 'vms'") == 1
