"""What a node may be: roles with the addresses that they need, attributes of a role, what it offers to placement."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nubila import errors
from nubila.intent import node as nodes
from nubila.intent import node_change, node_life
from nubila.intent.asking import Asking, Outcome, builtins
from nubila.model import node
from nubila.model.draft import Drafted, Row
from nubila.protocol import Hello

ASKING = Asking(actor="a", request="r", now=datetime(2026, 1, 1, tzinfo=UTC), mint=lambda: UUID(int=1), operator=True)
STATUS = node.Status(
    boot_id="b",
    cores=8,
    memory_mib=8000,
    disk_gib=100,
    address="10.0.0.7",
    links=(
        node.Link(name="e0", addresses=("10.0.0.7/24", "10.2.0.7/24")),
        node.Link(name="e1", addresses=("fd00::7/64",)),
    ),
)


def row(spec: node.Spec = node.Spec(), status: node.Status | None = STATUS, **columns: Any) -> Row:
    state = node.state(spec, status)
    return {
        "id": str(UUID(int=7)), "name": "h", "spec": builtins(spec), "status": None if status is None else builtins(status),
        "generation": 1, "version": 1, "labels": {}, "state": state.value, **columns,
    }  # fmt: skip


def changed(of: Row, inventory: list[Row] | None = None, **body: Any) -> Outcome:
    asked = msgspec.convert(body, node_change.NodeChange)
    return node_change.change(asked, node_change.View(row=of, inventory=inventory or []), ASKING)


def spec_of(outcome: Outcome) -> node.Spec:
    assert isinstance(outcome, Drafted), outcome
    return msgspec.convert(outcome.draft.update["node"][0]["spec"], node.Spec)


def refused(outcome: Outcome, words: str) -> errors.NubilaError:
    assert isinstance(outcome, errors.NubilaError), outcome
    assert words in outcome.detail
    return outcome


def test_every_role_is_described() -> None:
    assert set(node.ROLES) == set(node.Role)
    fields = {f for role in node.ROLES.values() for f in role.attributes}
    assert fields <= set(node.Spec.__struct_fields__) & set(node_change.NodeChange.__struct_fields__)


def test_a_role_is_refused_to_a_node_that_lacks_an_address_that_it_needs() -> None:
    roles = ["hypervisor", "storage"]
    told = refused(changed(row(), roles=roles), "needs an address for storage, and node 'h' has none")
    assert [x["address"] for x in told.fields["lacks"]] == ["storage", "backup"]
    assert "nubila node change h --address storage=" in told.how
    both = {"storage": "10.2.0.7", "backup": "fd00::7"}
    spec = spec_of(changed(row(), roles=roles, addresses=both))
    assert node.addresses(spec, STATUS) == {"management": "10.0.0.7", **both}
    has = row(spec)
    refused(
        changed(has, addresses={"backup": None}), "(has disks for the VMs of other nodes) needs an address for backup"
    )
    kept = spec_of(changed(has, addresses={"backup": "10.2.0.7"}))
    assert kept.addresses == {"storage": "10.2.0.7", "backup": "10.2.0.7"}
    assert spec_of(changed(has, roles=["hypervisor"], addresses={"backup": None})).roles == (node.Role.HYPERVISOR,)


def test_an_address_is_one_of_the_nodes_own() -> None:
    told = refused(changed(row(), addresses={"storage": "10.9.9.9"}), "has no address 10.9.9.9 (for storage)")
    assert told.fields["known"] == ["10.0.0.7", "10.2.0.7", "fd00::7"]
    older = msgspec.structs.replace(STATUS, links=())  # an agent that does not say
    assert spec_of(changed(row(status=older), addresses={"storage": "10.9.9.9"})).addresses == {"storage": "10.9.9.9"}
    with pytest.raises(msgspec.ValidationError):
        changed(row(), addresses={"storage": "10.2.0.7/24"})


def test_a_node_that_lost_an_address_can_still_be_changed() -> None:
    """Only what makes it worse is refused; that it lacks one is shown."""
    spec = node.Spec(roles=(node.Role.ROUTER,), addresses={node.Purpose.UNDERLAY: "10.7.0.1"})
    assert node.lacks(spec, STATUS) == ((node.Role.ROUTER, node.Purpose.UNDERLAY),)
    assert isinstance(changed(row(spec), rack="r1"), Drafted)


def test_an_attribute_belongs_to_its_role() -> None:
    storage = node.Spec(roles=(node.Role.FENCER,))
    refused(changed(row(storage), cpu_overcommit=2.0), "cpu_overcommit is an attribute of the role hypervisor")
    assert spec_of(changed(row(storage), cpu_overcommit=2.0, roles=["hypervisor"])).cpu_overcommit == 2.0


def test_only_what_runs_vms_offers_room_for_them() -> None:
    assert set(node.inventory(node.Spec(roles=(node.Role.STORAGE,)), STATUS).values()) == {(0, 0)}
    held = [
        {"class": c.value, "total": t, "reserved": r, "used": 1}
        for c, (t, r) in node.inventory(node.Spec(), STATUS).items()
    ]
    refused(changed(row(), held, roles=["fencer"]), "would offer 0 cores, and what is placed there holds 1")
    assert isinstance(changed(row(), [{**h, "used": 0} for h in held], roles=["fencer"]), Drafted)


def test_an_enrolling_node_says_what_it_waits_for() -> None:
    spec = node.Spec(approved=False, roles=(node.Role.STORAGE,))
    assert node.waits_for(spec, None) == ("an operator's approval", "the first session of its agent")
    assert node.waits_for(spec, STATUS)[1:] == (
        "an address for storage, which the role storage needs",
        "an address for backup, which the role storage needs",
    )
    has = msgspec.structs.replace(
        spec, approved=True, addresses={node.Purpose.STORAGE: "10.2.0.7", node.Purpose.BACKUP: "10.2.0.7"}
    )
    assert (node.state(spec, STATUS), node.state(has, STATUS)) == (node.State.ENROLLING, node.State.RUNNING)


# --- its life

VERBS: dict[str, Callable[[node_change.View], Outcome]] = {
    "approve": lambda v: node_life.approve(v, ASKING),
    "drain": lambda v: node_life.drain(node_life.NodeAway(reason="r"), v, ASKING),
    "maintenance": lambda v: node_life.maintain(node_life.NodeAway(reason="r"), v, ASKING),
    "return": lambda v: node_life.come_back(v, ASKING),
    "lost": lambda v: node_life.lose(node_life.NodeAway(reason="r"), v, ASKING),
    "patch on": lambda v: node_change.change(node_change.NodeChange(maintenance=True), v, ASKING),
    "patch off": lambda v: node_change.change(node_change.NodeChange(maintenance=False), v, ASKING),
    "session": lambda v: nodes.open_session(HELLO, v.row, [], v.inventory, ASKING),
    "roles": lambda v: node_change.change(node_change.NodeChange(roles=(node.Role.ROUTER,)), v, ASKING),
    "retire": lambda v: node_life.retire(v, ASKING),
}
HELLO = Hello(
    protocol=1, agent_version="0", fqdn="h", boot_id="b", kernel="k", cores=8, memory_mib=8000, disk_gib=100,
    virt_methods=(), drivers={}, links=(node.Link(name="e0", addresses=("10.0.0.7/24",)),),
)  # fmt: skip


@given(
    st.booleans(),
    st.sampled_from([(node.Role.HYPERVISOR,), (node.Role.ROUTER,)]),
    st.lists(st.tuples(st.sampled_from(sorted(VERBS)), st.sampled_from([0.0, 99.0]), st.integers(0, 1)), max_size=12),
)
def test_every_verb_in_every_state_is_a_legal_step_or_refused(
    approved: bool, roles: tuple[node.Role, ...], verbs: list[tuple[str, float, int]]
) -> None:
    """Whatever operators and agents do in whatever order: the database's guards never have to refuse it."""
    now = row(node.Spec(approved=approved, roles=roles), None)
    for verb, silent_s, heard in verbs:
        session = None if now["status"] is None else 3
        outcome = VERBS[verb](node_change.View(row=now, session=session, silent_s=silent_s, heard=heard))
        if isinstance(outcome, errors.NubilaError):
            assert outcome.how
            continue
        was, now = now, {**now, **(outcome.draft.update.get("node") or [{}])[0]}
        assert now["state"] == was["state"] or now["state"] in node.TRANSITIONS[node.State(was["state"])], (verb, was)
        spec = msgspec.convert(now["spec"], node.Spec)
        assert (now["state"] == "lost") == spec.lost or now["state"] == "retired"
        assert not (spec.maintenance and spec.draining)
        if was["state"] == "lost" and now["state"] != "lost":
            assert now["state"] == "retired" or (now["state"] == "maintenance" and spec.came_back)
        if spec.came_back:
            assert now["state"] in ("maintenance", "draining", "retired")
        if now["state"] == "retired":
            return


def test_only_what_runs_gets_vms() -> None:
    assert {node.State.RUNNING} == node.PLACEABLE


def life(verb: str, spec: node.Spec = node.Spec(), **seen: Any) -> Outcome:
    view: dict[str, Any] = {"session": 3, "silent_s": 0.0, "heard": 1, **seen}
    return VERBS[verb](node_change.View(row=row(spec), **view))


def test_what_speaks_is_not_lost() -> None:
    refused(life("lost", silent_s=29.0), "was heard from 29 s ago: what speaks is not lost")
    refused(life("lost", session=None, silent_s=None), "was never heard from")
    done = life("lost", silent_s=31.0)
    assert spec_of(done).lost
    assert isinstance(done, Drafted)
    assert done.draft.update["node_seen"] == [{"node_id": str(UUID(int=7)), "session": -3}]


def test_a_lost_node_that_speaks_again_is_in_maintenance_until_it_said_what_it_runs() -> None:
    lost = node.Spec(lost=True, draining=True)
    for verb in ("drain", "maintenance", "return"):
        refused(life(verb, lost), "is lost")
    spec = spec_of(life("session", lost))
    assert (spec.lost, spec.came_back, spec.maintenance, spec.draining) == (False, True, True, False)
    assert "came back" in spec.maintenance_reason
    for verb in ("return", "patch off"):
        for seen in ({"heard": 0}, {"silent_s": 31.0}, {"silent_s": None}):
            told = refused(life(verb, spec, **seen), "has not said yet what runs there")
            assert "Try again" in told.how
        back = spec_of(life(verb, spec))
        assert (back.came_back, back.maintenance, back.maintenance_reason) == (False, False, "")
    # a node that was never lost returns whether it is heard or not: what is unknown about it is shown
    assert isinstance(life("return", node.Spec(maintenance=True), silent_s=99.0, heard=0), Drafted)
