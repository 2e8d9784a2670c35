"""The vocabulary: ids, addresses, states. States computed from any spec and status are legal and explained."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tools import states

from nubila.intent import operation as vm_cancel
from nubila.intent import volume_cancel
from nubila.model import ids, network, operation, vm
from nubila.store import ddl, tables

ROOT = Path(__file__).parents[2]


@given(st.integers(0, (1 << 48) - 1), st.integers(0, (1 << 74) - 1))
def test_ids_round_trip_and_sort_by_time(ms: int, entropy: int) -> None:
    value = ids.uuid7(ms, entropy)
    assert value.version == 7
    assert value.variant == "specified in RFC 4122"
    assert ids.parse("vm", ids.text("vm", value)) == value
    assert ids.uuid7(min(ms + 1, (1 << 48) - 1), 0).int >= value.int or ms == (1 << 48) - 1


@pytest.mark.parametrize(
    "text", ["", "vm-", "vm-" + "z" * 26, "vol-" + "0" * 26, "vm-" + "0" * 25, "vm-" + "i" * 26, "VM-" + "0" * 26]
)
def test_what_is_no_id_is_none(text: str) -> None:
    assert ids.parse("vm", text) is None
    assert ids.parse("vm", ids.text("vm", UUID(int=5))) == UUID(int=5)


def test_prefixes_are_unique() -> None:
    assert len(set(ids.PREFIX.values())) == len(ids.PREFIX)


@given(st.integers(0, (1 << 40) - 1))
def test_macs_are_local_unicast_and_make_their_own_address(entropy: int) -> None:
    mac = network.mac(entropy)
    first = int(mac[:2], 16)
    assert first & 1 == 0
    assert first & 2 == 2
    assert ipaddress.ip_address(network.eui64("fd00:1::/64", mac)) in ipaddress.ip_network("fd00:1::/64")


SPEC = vm.Spec(cores=1, memory_mib=128, virt_method="qemu", hostname="h", flavor_id="flv-x", image_id="img-x")
spec_ = st.builds(
    lambda power, starts, reboots, gone: msgspec.structs.replace(
        SPEC, power=power, starts=starts, reboots=reboots, gone=gone
    ),
    st.sampled_from(vm.Power),
    st.integers(0, 3),
    st.integers(0, 3),
    st.booleans(),
)
status_ = st.none() | st.builds(
    vm.Status,
    power=st.sampled_from(["on", "off"]),
    starts=st.integers(0, 3),
    reboots=st.integers(0, 3),
    gone=st.booleans(),
    reason=st.none() | st.just("why"),
    failing=st.booleans(),
)


@given(spec_, status_, spec_, status_)
def test_every_computed_step_is_a_legal_transition(
    s1: vm.Spec, r1: vm.Status | None, s2: vm.Spec, r2: vm.Status | None
) -> None:
    """Whatever is wished and reported, in whatever order: the database's guard never has to refuse it."""
    was = vm.state(s1, r1 if not s1.gone else None)
    becomes = vm.state(s2, r2 if r2 is not None else r1, was=was)
    if was is vm.State.REMOVING and s1.gone:
        assert becomes in (vm.State.REMOVING, vm.State.REMOVED)
    elif r1 is not None and r2 is None:
        return
    if was is not becomes and not (r2 is None and r1 is None and becomes is vm.State.PENDING):
        assert becomes in vm.TRANSITIONS[was] or (
            becomes is vm.State.REMOVED and vm.State.REMOVING in vm.TRANSITIONS[was]
        )


@given(spec_, status_)
def test_silence_is_never_stopped(spec: vm.Spec, status: vm.Status | None) -> None:
    if status is None and not spec.gone:
        assert vm.state(spec, status) is vm.State.PENDING


def test_every_operation_verb_has_a_goal_and_a_deadline() -> None:
    assert set(operation.GOAL) == set(operation.Verb) == set(operation.DEADLINE_S)


@pytest.mark.parametrize("noun", states.NOUNS)
def test_drawn_states_are_up_to_date(noun: str) -> None:
    assert (ROOT / "docs" / "states" / f"{noun}.md").read_text() == states.drawn(noun), "run: make docs"


@pytest.mark.parametrize("noun", states.NOUNS)
def test_transition_tables_are_complete_and_reach_their_end(noun: str) -> None:
    table: Mapping[StrEnum, frozenset[StrEnum]] = states.NOUNS[noun]
    assert set(table) == set(type(next(iter(table))))
    ends = {s for s, to in table.items() if not to}
    assert ends
    for start in table:
        reached, new = {start}, {start}
        while new:
            new = {b for s in new for b in table[s]} - reached
            reached |= new
        assert reached & ends, f"{start} is stuck"


def test_the_newest_migration_holds_what_the_tables_generate() -> None:
    newest = sorted((ROOT / "src/nubila/store/migrations/versions").glob("*_functions.sql"))[-1]
    assert newest.read_text() == ddl.functions(), "run: make docs"


def test_tables_are_locked_in_one_order() -> None:
    assert len({t.name for t in tables.TABLES}) == len(tables.TABLES)
    assert [t.name for t in tables.TABLES][-2:] == ["inventory", "quota"]


def test_every_verb_says_what_its_cancel_does() -> None:
    """A verb without a word here would be one that cannot be cancelled."""
    assert set(operation.Verb) == {*vm_cancel.CANCELLING, *volume_cancel.CANCELLING}
    of_a_vm = set(operation.Verb) - {
        operation.Verb.ATTACH,
        operation.Verb.DETACH,
        operation.Verb.CHANGE,
        operation.Verb.ROLL_BACK,
    }
    assert of_a_vm == set(vm_cancel.CANCELLING)
