"""Every first verb over HTTP with ?wait=, and the promises that hold for all writes: If-Match, ETag, Idempotency-Key."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from nubila.model.ids import parse
from tests.fleet.caller import Caller
from tests.fleet.installation import PUBLIC_KEY, Installation, until
from tests.fleet.tenant import Tenant, refused


def test_a_vms_whole_life(cloud: Installation, tenant: Tenant) -> None:
    owner = tenant.owner
    owner.post("/v1/keypairs", {"name": "k", "public_key": PUBLIC_KEY}).ok()
    vm = tenant.running(
        "a",
        keys=["k"],
        user_data="#!/bin/sh\n",
        boot_string="opaque",
        labels={"tier": "web"},
        hostname="host-a",
        disk_gib=3,
    )
    assert (vm["flavor"], vm["image"], vm["labels"], vm["spec"]["hostname"]) == (
        "tiny",
        "mini",
        {"tier": "web"},
        "host-a",
    )
    assert vm["spec"]["boot_string"] == "opaque"
    assert vm["last_report_age_s"] < 30
    assert "node" not in vm
    assert cloud.operator().get(f"/v1/vms/{vm['id']}").ok()["node"]

    def verb(word: str, body: object = None) -> Any:
        reply = owner.post(f"/v1/vms/a/{word}?wait=20", body)
        assert reply.status == 202, reply
        assert reply.body["operation"]["state"] == "done", reply
        assert owner.get("/v1/vms/a").ok()["state"] == reply.body["vm"]["state"]
        return reply.body["vm"]

    assert verb("stop", {"mode": "hard"})["state"] == "stopped"
    assert not cloud.domains()[vm["id"]]["running"]
    assert verb("start")["state"] == "running"
    assert cloud.domains()[vm["id"]]["boots"] == 2
    assert verb("reboot", {})["state"] == "running"
    assert cloud.domains()[vm["id"]]["boots"] == 3
    assert verb("stop", {"mode": "clean", "timeout_s": 5})["state"] == "stopped"
    started = verb("start")
    assert started["status"]["starts"] == started["spec"]["starts"]
    assert cloud.domains()[vm["id"]]["boots"] == 4
    assert owner.get("/v1/vms/a/console?bytes=100").status == 200
    renamed = owner.patch("/v1/vms/a", {"name": "b", "labels": {"tier": "db"}})
    assert (renamed.status, renamed.body["vm"]["name"], renamed.body["vm"]["labels"]) == (200, "b", {"tier": "db"})
    refused(owner.get("/v1/vms/a"), 404, "not-found")
    assert [v["name"] for v in owner.list("/v1/vms?label=tier=db")] == ["b"]
    gone = owner.delete("/v1/vms/b?wait=20")
    assert (gone.status, gone.body["operation"]["state"], gone.body["vm"]["state"]) == (202, "done", "removed")
    refused(owner.get("/v1/vms/b"), 404, "not-found")
    assert vm["id"] not in cloud.domains()
    assert owner.list("/v1/volumes") == owner.list("/v1/ports") == []
    assert {c: q["used"] for c, q in tenant.quota().items() if c != "networks"} == dict.fromkeys(
        ("cores", "disk_gib", "images", "memory_mib", "vms", "volumes"), 0
    )
    assert [o["state"] for o in owner.list(f"/v1/operations?resource={vm['id']}")] == ["done"] * 7


def test_a_vm_made_stopped_stays_stopped_until_it_is_started(cloud: Installation, tenant: Tenant) -> None:
    made = tenant.create("a", wait=20, power="off")
    assert (made["vm"]["state"], made["operation"]["state"]) == ("stopped", "done")
    refused(tenant.owner.post("/v1/vms/a/reboot", {}), 409, "conflict")
    refused(tenant.owner.post("/v1/vms/a/stop", {}), 409, "conflict")
    assert tenant.owner.post("/v1/vms/a/start?wait=20").ok()["vm"]["state"] == "running"
    refused(tenant.owner.post("/v1/vms/a/start"), 409, "conflict")


def test_if_match_and_etag(tenant: Tenant) -> None:
    owner = tenant.owner
    tenant.running("a")
    # Until the last of the node's reports is in, each changes it.
    shown = until(
        lambda: (
            (r := owner.get("/v1/vms/a"))
            and owner.get("/v1/vms/a", if_none_match=r.headers["etag"]).status == 304
            and r
        )
    )
    tag = shown.headers["etag"]
    assert owner.get("/v1/vms/a", if_none_match='"other"').status == 200
    told = refused(owner.patch("/v1/vms/a", {"labels": {"a": "1"}}, if_match='"99.1"'), 412, "precondition-failed")
    assert told["generation"] == shown.body["generation"]
    assert owner.patch("/v1/vms/a", {"labels": {"a": "1"}}, if_match=tag).status == 200
    assert owner.get("/v1/vms/a", if_none_match=tag).status == 200  # it changed
    for method, path, body in (
        ("POST", "/v1/vms/a/stop", {"mode": "hard"}), ("POST", "/v1/vms/a/reboot", {}), ("DELETE", "/v1/vms/a", None),
        ("DELETE", "/v1/networks/default", None),
    ):  # fmt: skip
        if "networks" not in path:
            refused(owner.call(method, path, body, if_match=tag), 412, "precondition-failed")
    assert owner.delete("/v1/vms/a?wait=20", if_match=owner.get("/v1/vms/a").headers["etag"]).status == 202


@pytest.mark.parametrize("plane", ["user", "operator"])
def test_every_write_on_an_object_heeds_if_match(cloud: Installation, tenant: Tenant, plane: str) -> None:
    """A precondition that is not looked at would be a promise broken in silence."""
    operator, owner = cloud.operator(), tenant.owner
    name = tenant.name
    owner.post("/v1/keypairs", {"name": "k", "public_key": PUBLIC_KEY}).ok()
    operator.post("/v1/flavors", {"name": f"f-{name}", "cores": 1, "memory_mib": 64, "disk_gib": 1}).ok()
    operator.post("/v1/images", {"name": f"i-{name}", "format": "raw"}).ok()
    node = operator.list("/v1/nodes")[0]["name"]
    token = owner.post("/v1/tokens", {"name": "t2"}).ok()["token"]["id"]
    operator_token = operator.post("/v1/tokens", {"name": f"t-{name}"}).ok()["token"]["id"]
    writes: dict[str, list[tuple[Caller, str, str, object]]] = {
        "user": [
            (owner, "DELETE", "/v1/keypairs/k", None), (owner, "DELETE", "/v1/networks/default", None), (owner, "DELETE", f"/v1/tokens/{token}", None),
        ],
        "operator": [
            (operator, "PATCH", f"/v1/projects/{name}", {"description": "x"}), (operator, "PATCH", f"/v1/users/{tenant.user}", {"email": "a@b"}),
            (operator, "PATCH", f"/v1/nodes/{node}", {"labels": {"a": name}}), (operator, "DELETE", f"/v1/flavors/f-{name}", None),
            (operator, "DELETE", f"/v1/images/i-{name}", None), (operator, "DELETE", f"/v1/tokens/{operator_token}", None),
        ],
    }  # fmt: skip
    for caller, method, path, body in writes[plane]:
        refused(caller.call(method, path, body, if_match='"77.7"'), 412, "precondition-failed")
        reply = caller.call(method, path, body, if_match="*")
        assert reply.status == 200, (path, reply)


def test_a_lost_answer_is_repeated_by_its_key(tenant: Tenant) -> None:
    owner, wish = tenant.owner, tenant.wish("a")
    owner.send_only("POST", "/v1/vms", wish, {"idempotency-key": "k1"})
    until(lambda: owner_sees(tenant, "a"), 10, why="the create whose answer nobody read")
    owner.hang_up()
    again = owner.post("/v1/vms", wish, idempotency_key="k1")
    assert again.status == 201
    assert again.headers["idempotent-replay"] == "true"
    assert (again.body["vm"]["id"], again.body["operation"]["resource_id"]) == (tenant.vm("a")["id"],) * 2
    other = tenant.at("front2").post("/v1/vms", wish, idempotency_key="k1")
    assert (other.status, other.body["vm"]["id"]) == (201, again.body["vm"]["id"])
    refused(owner.post("/v1/vms", wish), 409, "name-taken")  # without the key it is another request
    refused(owner.post("/v1/vms", tenant.wish("b"), idempotency_key="k1"), 422, "idempotency-key-reused")
    refused(owner.post("/v1/vms/a/stop", {}, idempotency_key="k1"), 422, "idempotency-key-reused")
    assert [v["name"] for v in owner.list("/v1/vms")] == ["a"]
    assert owner.post("/v1/vms", tenant.wish("b"), idempotency_key="k2").status == 201


def owner_sees(tenant: Tenant, name: str) -> bool:
    return tenant.at("front2").get(f"/v1/vms/{name}").status == 200


def test_the_same_key_in_parallel_makes_one(tenant: Tenant) -> None:
    fronts = tenant.fronts()
    with ThreadPoolExecutor(16) as pool:
        replies = list(
            pool.map(lambda n: fronts[n % 2].post("/v1/vms", tenant.wish("a"), idempotency_key="same"), range(16))
        )
    assert [r.status for r in replies] == [201] * 16, replies
    assert len({r.body["vm"]["id"] for r in replies}) == 1
    assert len(tenant.owner.list("/v1/vms")) == 1
    assert tenant.quota()["vms"]["used"] == 1


def test_a_reboot_repeated_by_its_key_reboots_once(cloud: Installation, tenant: Tenant) -> None:
    vm = tenant.running("a")
    for _ in range(3):
        assert tenant.owner.post("/v1/vms/a/reboot?wait=20", {}, idempotency_key="r").status == 202
    assert tenant.vm("a")["status"]["reboots"] == tenant.vm("a")["spec"]["reboots"] > 0
    assert cloud.domains()[vm["id"]]["boots"] == 2
    tenant.owner.post("/v1/vms/a/reboot?wait=20", {}, idempotency_key="r2").ok()
    assert cloud.domains()[vm["id"]]["boots"] == 3


def test_names_are_taken_per_project_and_free_after_removal(cloud: Installation, tenant: Tenant) -> None:
    owner = tenant.owner
    tenant.running("a")
    tenant.running("b")
    refused(owner.post("/v1/vms", tenant.wish("a")), 409, "name-taken")
    refused(owner.patch("/v1/vms/b", {"name": "a"}), 409, "name-taken")
    refused(owner.post("/v1/networks", {"name": "default", "subnets": [{"cidr": "10.8.0.0/24"}]}), 409, "name-taken")
    refused(cloud.operator().post("/v1/projects", {"name": tenant.name}), 409, "name-taken")
    refused(
        cloud.operator().post("/v1/flavors", {"name": "tiny", "cores": 1, "memory_mib": 64, "disk_gib": 1}),
        409,
        "name-taken",
    )
    assert Tenant(cloud).create("a")["vm"]["name"] == "a"
    owner.delete("/v1/vms/a?wait=20").ok()
    assert owner.patch("/v1/vms/b", {"name": "a"}).status == 200


def test_what_is_used_cannot_be_removed(cloud: Installation, tenant: Tenant) -> None:
    operator, owner = cloud.operator(), tenant.owner
    operator.post("/v1/images", {"name": f"i-{tenant.name}", "format": "raw"}).ok()
    refused(owner.post("/v1/vms", tenant.wish("a", image=f"i-{tenant.name}")), 409, "conflict")  # it has no content yet
    operator.put_bytes(f"/v1/images/i-{tenant.name}/content", b"y" * 8192).ok()
    refused(operator.put_bytes(f"/v1/images/i-{tenant.name}/content", b"z" * 8192), 409, "conflict")
    tenant.running("a", image=f"i-{tenant.name}")
    for reply in (
        operator.delete(f"/v1/images/i-{tenant.name}"), owner.delete("/v1/networks/default"), operator.delete(f"/v1/projects/{tenant.name}"),
    ):  # fmt: skip
        assert (reply.status, reply.slug) in ((409, "in-use"), (409, "stale")), reply
    owner.delete("/v1/vms/a?wait=20").ok()
    assert operator.delete(f"/v1/images/i-{tenant.name}").status == 200
    assert owner.delete("/v1/networks/default").status == 200
    assert operator.delete(f"/v1/projects/{tenant.name}").status == 200
    time.sleep(1.1)  # a token is known for a second
    refused(owner.get("/v1/me"), 401, "unauthenticated")


def test_a_client_that_hangs_up_costs_nothing(cloud: Installation, tenant: Tenant) -> None:
    """A held request whose client is gone must neither spin nor stay."""
    tenant.running("a")
    cloud.processes["agent"].poll()
    with cloud.paused("agent"):
        operation = tenant.owner.post("/v1/vms/a/reboot", {}).ok()["operation"]["id"]
        for path in (f"/v1/operations/{operation}?wait=60", "/v1/changes?after=end&wait=60", "/v1/vms/a/console"):
            for _ in range(3):
                tenant.owner.send_only("GET", path)
                tenant.owner.hang_up()
        cursor = tenant.owner.get("/v1/changes?after=end").ok()["cursor"]
        for _ in range(3):
            tenant.owner.send_only("GET", f"/v1/changes?after={cursor}&wait=60")
            tenant.owner.hang_up()
        time.sleep(0.5)
        before = cloud.cpu_s("front1")
        time.sleep(2)
        assert cloud.cpu_s("front1") - before < 0.5
    assert tenant.owner.get(f"/v1/operations/{operation}?wait=20").ok()["state"] == "done"


def test_f16_what_background_work_has_set_aside_is_shown_to_operators(cloud: Installation, tenant: Tenant) -> None:
    """In a list of its own, and where they look why an operation does not end. A tenant learns that it rests, not why."""
    operator, reason = cloud.operator(), "ValueError: poisoned"
    assert operator.get("/v1/parked").ok()["items"] == []
    with cloud.paused("agent"):
        made = tenant.create("a")
        about = {"vm": made["vm"]["id"], "operation": made["operation"]["id"]}
        why = f"/v1/operations/{about['operation']}/why"
        assert "Nubila's own work" not in operator.get(why).ok()["summary"]
        for kind, ident in about.items():
            text = (
                "insert into parked (kind, object_id, reason, until) values ($1, $2, $3, now() + interval '10 minutes')"
            )
            cloud.sql(text, kind, parse(kind, ident), reason)
            items = operator.get("/v1/parked").ok()["items"]
            assert [(i["kind"], i["id"], i["reason"]) for i in items] == [(kind, ident, reason)]
            assert items[0]["name"] == made[kind]["name"]
            assert items[0]["since"] < items[0]["next_attempt_at"]
            told = operator.get(why).ok()
            assert reason in told["summary"]
            assert "Nubila's own work" in told["chain"][-1]["waits_for"]
            mine = tenant.owner.get(why).ok()
            assert "tried again in" in mine["summary"]
            assert "poisoned" not in str(mine)
            cloud.sql("delete from parked")
    refused(tenant.owner.get("/v1/parked"), 404, "not-found")
