"""Nodes and placements as operators see them: load, what is still there, why each host could not have it."""

from __future__ import annotations

from tests.cli.fake_api import Canned, Cli, Fake


def test_a_list_of_nodes_shows_their_load_and_what_they_are_for(cli: Cli, fake: Fake) -> None:
    amounts = {
        "cores": {"total": 16, "reserved": 0, "used": 3},
        "memory_mib": {"total": 8000, "reserved": 1000, "used": 512},
        "disk_gib": {"total": 100, "reserved": 10, "used": 7},
    }
    node = {
        "id": "node-1",
        "kind": "node",
        "name": "h1",
        "state": "draining",
        "spec": {"zone": "a", "rack": "r1"},
        "inventory": amounts,
    }
    fake.on("GET", "/v1/nodes", Canned({"items": [{**node, "holds": {"vms": 2, "volumes": 3}}], "next": None}))
    out = cli("node", "list").out
    for word in ("draining", "a", "r1", "2", "3/16", "512/7000", "7/90"):
        assert f" {word} " in out, word
    fake.on("POST", "/v1/nodes/h1/drain", Canned({**node, "holds": {"vms": 2, "volumes": 1}}))
    assert "Still there: 2 VMs and 1 volume; `nubila vm list --as operator --node h1`" in cli("node", "drain", "h1").out


def test_wide_decisions_say_why_each_host_could_not_have_it(cli: Cli, fake: Fake) -> None:
    hosts = [
        {"node_id": "n", "node_name": "h1", "short": {"memory": "5 MiB"}},
        {"node_id": "m", "node_name": "h2", "short": {"zone": "is in another zone"}},
    ]
    refusal = {"nodes": 2, "nearest": hosts[0], "hosts": hosts}
    fake.on(
        "GET",
        "/v1/decisions",
        Canned({"items": [{"id": "dec-1", "kind": "decision", "refusal": refusal}], "next": None}),
    )
    out = cli("decision", "list", "--refused", "-o", "wide").out
    assert "h1: memory 5 MiB" in out
    assert "h2: zone is in another zone" in out
