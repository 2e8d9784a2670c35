"""Refusals as people read them: whole sentences, the numbers, and a fix that exists."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest

from nubila import errors
from nubila.intent import node_change as nodes
from nubila.intent.asking import Asking, builtins
from nubila.intent.refusing import refused
from nubila.model import ids, node
from nubila.model.draft import Drafted
from nubila.placement.decide import Refusal, decide
from nubila.placement.filters import FILTERS
from nubila.placement.nodes import Node, Nodes, Request

ID = ids.uuid7(1_700_000_000_000, 7)


def host(**more: object) -> Node:
    given: dict[str, object] = {
        "id": ID, "name": "h", "zone": "default", "placeable": True, "silent_s": 0.0, "virt_methods": ("qemu",), "physical_cores": 4,
        "free_cores": 8, "free_memory_mib": 1000, "free_disk_gib": 50,
    }  # fmt: skip
    return Node(**{**given, **more})  # type: ignore[arg-type]


def said(request: Request, *hosts: Node) -> errors.NoCapacity:
    answer = decide(request, Nodes(hosts))
    assert isinstance(answer, Refusal)
    return refused(answer, request, False)


SMALL = {"cores": 1, "memory_mib": 64, "disk_gib": 1}


@pytest.mark.parametrize(
    ("request_", "more", "detail", "fix"),
    [
        ({**SMALL, "memory_mib": 1312}, {}, "the nearest one lacks 312 MiB of memory. It would fit with memory_mib = 1000.", "would_fit"),
        ({**SMALL, "virt_method": "kvm"}, {}, "the nearest one does not offer the virt method.", "Leave the virt method out"),
        (SMALL, {"placeable": False}, "the nearest one takes no new VMs now.", "Try again later"),
        ({**SMALL, "memory_mib": 1001, "disk_gib": 60}, {}, "lacks 1 MiB of memory and lacks 10 GiB of disk.", "Ask your operator for more"),
        ({**SMALL, "cores": 5}, {}, "the nearest one has 1 cores fewer than the VM asks for.", "would_fit"),
    ],
)  # fmt: skip
def test_no_capacity_is_a_sentence_with_a_fix_that_exists(
    request_: dict[str, object], more: dict[str, object], detail: str, fix: str
) -> None:
    told = said(Request(**request_), host(**more))  # type: ignore[arg-type]
    assert detail in told.detail
    assert fix in told.how
    assert ("would_fit" in told.how) == bool(told.fields["would_fit"])


def test_every_filter_has_words_for_one_node_and_a_way_out() -> None:
    for f in FILTERS:
        assert f.one, f.name
        assert ("{}" in f.one) == bool(f.unit), f.name
        assert f.fix or f.quantity, f.name


def test_operators_are_told_why_each_host_could_not_have_it_and_tenants_of_no_host() -> None:
    request = Request(cores=1, memory_mib=1100, disk_gib=1, zone="a")
    hosts = (
        host(name="far", zone="b", free_memory_mib=600),
        host(name="near", zone="a"),
        host(name="away", placeable=False),
    )
    answer = decide(request, Nodes(hosts))
    assert isinstance(answer, Refusal)
    assert [(h.node_name, h.short) for h in answer.hosts] == [
        ("near", {"memory": "100 MiB"}),
        ("far", {"zone": "is in another zone", "memory": "500 MiB"}),
        ("away", {"running": "takes no new VMs now", "zone": "is in another zone", "memory": "100 MiB"}),
    ]
    told = {operator: refused(answer, request, operator) for operator in (True, False)}
    assert [h["node_name"] for h in told[True].fields["refusal"]["hosts"]] == ["near", "far", "away"]
    shown = str(told[False].fields) + told[False].detail + told[False].how
    assert not any(word in shown for word in ("near'", "far'", "away'", "refusal", str(ID)))


STATUS = node.Status(cores=4, memory_mib=8000, disk_gib=100, boot_id="b")
HELD = [
    {"node_id": str(ID), "class": "cores", "total": 16, "reserved": 0, "used": 4},
    {"node_id": str(ID), "class": "memory_mib", "total": 8000, "reserved": 1024, "used": 6000},
    {"node_id": str(ID), "class": "disk_gib", "total": 100, "reserved": 10, "used": 0},
]
ROW = {
    "id": str(ID),
    "name": "h",
    "generation": 3,
    "state": "running",
    "labels": {},
    "spec": builtins(node.Spec()),
    "status": builtins(STATUS),
}


def changed(**body: object) -> Drafted | errors.NubilaError:
    asking = Asking(
        actor="a", request="r", now=datetime(2026, 1, 1, tzinfo=UTC), mint=lambda: UUID(int=1), operator=True
    )
    return nodes.change(nodes.NodeChange(**body), nodes.View(row=ROW, inventory=HELD), asking)  # type: ignore[arg-type]


def test_a_node_cannot_keep_back_more_than_it_has_nor_what_is_held() -> None:
    for body, words in (
        ({"reserved_memory_mib": 8001}, "node 'h' has 8000 MiB of memory"),
        ({"reserved_disk_gib": 101}, "node 'h' has 100 GiB of disk"),
        ({"cpu_overcommit": 0.1}, "would offer 0 cores, and what is placed there holds 4"),
        ({"reserved_memory_mib": 2001}, "would offer 5999 memory_mib, and what is placed there holds 6000"),
    ):
        told = changed(**body)
        assert isinstance(told, errors.NubilaError), body
        assert words in told.detail
    for fine in ({"reserved_memory_mib": 2000}, {"cpu_overcommit": 1.0}, {"reserved_disk_gib": 100}):
        assert isinstance(changed(**fine), Drafted), fine


def test_a_node_that_offers_too_little_already_can_still_be_changed() -> None:
    """Only a change that makes it worse is refused: 7 of 8 GiB were promised before the machine lost memory."""
    over = [{**h, "used": 7900} if h["class"] == "memory_mib" else h for h in HELD]
    asking = Asking(
        actor="a", request="r", now=datetime(2026, 1, 1, tzinfo=UTC), mint=lambda: UUID(int=1), operator=True
    )
    for body, fine in (
        ({"maintenance": True}, True),
        ({"reserved_memory_mib": 500}, True),
        ({"reserved_memory_mib": 1025}, False),
    ):
        told = nodes.change(nodes.NodeChange(**body), nodes.View(row=ROW, inventory=over), asking)  # type: ignore[arg-type]
        assert isinstance(told, Drafted) == fine, body
