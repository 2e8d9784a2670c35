"""Rights can be taken back, operators can act on any project, and who uses a thing is said by name."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from tests.fleet.installation import PUBLIC_KEY, Installation, until
from tests.fleet.puppet import Puppet
from tests.fleet.tenant import Tenant, absent, refused


def refused_soon(cloud: Installation, plane: str, token: str) -> None:
    until(
        lambda: cloud.caller(plane, token).get("/v1/me").status == 401, 3, why="a token is known for a second at most"
    )


def test_a_membership_taken_away_takes_its_tokens(cloud: Installation, tenant: Tenant) -> None:
    operator, other = cloud.operator(), Tenant(cloud)
    token = tenant.person(f"{tenant.name}-ada", "member")
    ada = f"{tenant.name}-ada"
    operator.put(f"/v1/projects/{other.name}/members/{ada}", {"role": "reader"}).ok()
    kept = operator.post(f"/v1/users/{ada}/tokens", {"name": "t", "project": other.name}).ok()["secret"]
    members = operator.get(f"/v1/projects/{tenant.name}/members").ok()["items"]
    assert [(m["user"], m["role"]) for m in members] == [(ada, "member"), (tenant.user, "owner")]
    plan = operator.delete(f"/v1/projects/{tenant.name}/members/{ada}?plan=1").ok()
    assert [(e["action"], e["kind"]) for e in plan["effects"]] == [("remove", "member"), ("remove", "token")]
    assert cloud.caller("user", token).get("/v1/me").status == 200
    operator.delete(f"/v1/projects/{tenant.name}/members/{ada}").ok()
    refused_soon(cloud, "user", token)
    assert cloud.caller("user", kept).get("/v1/me").status == 200
    refused(operator.delete(f"/v1/projects/{tenant.name}/members/{ada}"), 404, "not-found")
    operator.put(f"/v1/projects/{tenant.name}/members/{ada}", {"role": "member"}).ok()
    time.sleep(1.1)
    refused(cloud.caller("user", token).get("/v1/me"), 401, "unauthenticated")  # no old token comes back to life


def test_a_user_that_is_deleted_can_do_nothing(cloud: Installation, tenant: Tenant) -> None:
    operator = cloud.operator()
    operator.delete(f"/v1/users/{tenant.user}").ok()
    refused_soon(cloud, "user", tenant.token)
    assert operator.get(f"/v1/projects/{tenant.name}/members").ok()["items"] == []
    refused(operator.get(f"/v1/users/{tenant.user}"), 404, "not-found")
    assert operator.post("/v1/users", {"name": tenant.user}).status == 201  # its name is free
    time.sleep(1.1)
    refused(cloud.caller("user", tenant.token).get("/v1/me"), 401, "unauthenticated")


def test_operators_come_and_go_but_never_the_last(cloud: Installation) -> None:
    operator = cloud.operator()
    for o in operator.list("/v1/operators"):  # those that other tests made
        if o["name"] != "root":
            operator.delete(f"/v1/operators/{o['id']}").ok()
    assert "only operator" in refused(operator.delete("/v1/operators/root"), 409, "conflict")["detail"]
    operator.post("/v1/operators", {"name": "grace"}).ok()
    secret = operator.post("/v1/operators/grace/tokens", {"name": "t"}).ok()["secret"]
    grace = cloud.caller("operator", secret)
    assert grace.get("/v1/me").ok()["name"] == "grace"
    assert grace.get("/v1/operators/grace").ok()["name"] == "grace"
    operator.delete("/v1/operators/grace").ok()
    refused_soon(cloud, "operator", secret)


def test_a_join_token_can_be_taken_back(cloud: Installation) -> None:
    operator = cloud.operator()
    made = operator.post("/v1/join-tokens", {"name": "never"}).ok()
    shown = {t["id"]: t for t in operator.list("/v1/join-tokens?limit=2")}[made["id"]]
    assert (shown["state"], shown["spec"]["name"], shown["node"]) == ("open", "never", None)
    assert made["token"] not in str(shown)
    assert [t["state"] for t in operator.list("/v1/join-tokens")].count("used") >= 2
    then = quote(datetime.now(UTC).isoformat())
    operator.delete(f"/v1/join-tokens/{made['id']}").ok()
    body = {"token": made["token"], "csr_pem": "x", "fqdn": "never.example"}
    assert cloud.caller("internal").post("/internal/v1/enrol", body).status in (401, 422)
    assert made["id"] not in {t["id"] for t in operator.list("/v1/join-tokens")}
    refused(operator.delete(f"/v1/join-tokens/{made['id']}"), 404, "not-found")
    assert {t["id"]: t for t in operator.list(f"/v1/join-tokens?as_of={then}")}[made["id"]] == shown
    told = {t["id"]: t["action"] for t in operator.list(f"/v1/join-tokens?as_of={then}&until=now")}
    assert told[made["id"]] == "gone"


def test_a_retired_node_is_a_node_no_more(cloud: Installation, tenant: Tenant) -> None:
    puppet, operator = Puppet(cloud), cloud.operator()
    vm_id = puppet.running(tenant, "a")
    told = refused(operator.delete(f"/v1/nodes/{puppet.id}"), 409, "in-use")
    assert "1 VM (a of project" in told["detail"]
    tenant.owner.delete("/v1/vms/a").ok()
    puppet.fulfil(vm_id)
    assert operator.delete(f"/v1/nodes/{puppet.id}").ok()["state"] == "retired"
    until(lambda: puppet.caller.get(f"/internal/v1/wanted?since=0&session={puppet.session}").status == 401, 3)
    refused(tenant.owner.post("/v1/vms", tenant.wish("b", virt_method=puppet.method)), 507, "no-capacity")
    refused(operator.get(f"/v1/nodes/{puppet.id}"), 404, "not-found")


def test_operators_stop_and_remove_what_is_anybodys(cloud: Installation, tenant: Tenant) -> None:
    operator, name = cloud.operator(), f"only-{tenant.name}"
    vm = tenant.running(name)
    stopped: Any = operator.post(f"/v1/vms/{name}/stop?wait=20", {"mode": "hard"}).ok()  # by a name that only one has
    assert stopped["vm"]["state"] == "stopped"
    assert not cloud.domains()[vm["id"]]["running"]
    assert operator.post(f"/v1/vms/{vm['id']}/start?wait=20").ok()["vm"]["state"] == "running"
    assert operator.post(f"/v1/vms/{vm['id']}/reboot?wait=20", {}).ok()["operation"]["state"] == "done"
    assert operator.get(f"/v1/vms/{name}").ok()["id"] == vm["id"]
    refused(operator.delete(f"/v1/networks/{tenant.network_id}"), 409, "in-use")
    assert operator.delete(f"/v1/vms/{vm['id']}?wait=20").ok()["vm"]["state"] == "removed"
    assert vm["id"] not in cloud.domains()
    operator.delete(f"/v1/networks/{tenant.network_id}").ok()
    assert tenant.owner.list("/v1/networks") == []
    told = refused(operator.get("/v1/vms/nosuch"), 404, "not-found")
    assert "--as operator" in told["fix"]
    refused(operator.post("/v1/vms/nosuch/start"), 404, "not-found")


def test_a_name_that_several_projects_have_is_not_guessed(cloud: Installation, tenant: Tenant) -> None:
    other = Tenant(cloud)
    mine, theirs = tenant.running("twin"), other.running("twin")
    operator = cloud.operator()
    assert "id" in refused(operator.get("/v1/vms/twin"), 409, "conflict")["fix"]
    refused(operator.post("/v1/vms/twin/stop", {"mode": "hard"}), 409, "conflict")
    refused(operator.delete("/v1/networks/default"), 409, "conflict")
    assert (tenant.vm("twin")["state"], other.vm("twin")["state"]) == ("running", "running")
    assert operator.get(f"/v1/vms/{mine['id']}").ok()["id"] != theirs["id"]


def test_who_uses_a_thing_is_said_by_name(cloud: Installation, tenant: Tenant) -> None:
    operator, owner = cloud.operator(), tenant.owner
    vm = tenant.running("web")
    assert "used by" in refused(operator.delete("/v1/images/mini"), 409, "in-use")["detail"]
    told = refused(operator.delete(f"/v1/projects/{tenant.name}"), 409, "in-use")
    assert "1 VM (web of project" in told["detail"]
    assert {"kind": "vm", "id": vm["id"], "name": "web"} in told["users"]
    assert "changed" not in told
    assert "users" in told["fix"]
    told = refused(owner.delete("/v1/networks/default"), 409, "in-use")
    assert told["detail"] == "Network 'default' is used by 1 VM (web)."
    assert told["users"] == [{"kind": "vm", "id": vm["id"], "name": "web"}]
    owner.post("/v1/keypairs", {"name": "k", "public_key": PUBLIC_KEY}).ok()
    refused(owner.delete(f"/v1/networks/{absent('network')}"), 404, "not-found")


def test_a_cancelled_operation_is_shown_as_one(cloud: Installation, tenant: Tenant) -> None:
    tenant.running("a")
    with cloud.paused("agent"):
        op = tenant.owner.post("/v1/vms/a/stop", {"timeout_s": 50}).ok()["operation"]["id"]
        assert "started again" in tenant.owner.get(f"/v1/operations/{op}/why").ok()["cancel_means"]
        done = tenant.owner.post(f"/v1/operations/{op}/cancel").ok()
    assert (done["cancelled"], done["operation"]["state"]) == ("yes", "cancelled")
    assert "cancelled" not in done["operation"]["spec"]
    late = tenant.owner.post(f"/v1/operations/{op}/cancel").ok()
    assert (late["cancelled"], late["detail"][:8]) == ("no", "Too late")
    why = tenant.owner.get(f"/v1/operations/{op}/why").ok()
    assert (why["deadline_in_s"], why["cancel_means"], why["can_cancel"]) == (None, None, False)


def test_whose_and_when_is_said_alike_everywhere(cloud: Installation, tenant: Tenant) -> None:
    operator = cloud.operator()
    me = tenant.owner.get("/v1/me").ok()
    assert (me["name"], me["project"]) == (tenant.user, tenant.name)
    mine = tenant.owner.list("/v1/tokens")[0]
    assert (mine["account"], mine["project"]) == (tenant.user, tenant.name)
    theirs = [t for t in operator.list("/v1/tokens") if t["plane"] == "operator"]
    assert {t["account"] for t in theirs} >= {"root"}
    assert {t["project"] for t in theirs} == {None}
    plan = tenant.owner.post(
        "/v1/vms?plan=1", tenant.wish("p", user_data="s3cret", boot_string="b", labels={"a": "b"})
    ).ok()
    made = operator.post("/v1/join-tokens", {}).ok()
    token = tenant.owner.post("/v1/tokens", {"name": "t3", "expires_in_s": 60}).ok()["token"]
    for moment in (
        plan["created_at"], plan["expires_at"], made["expires_at"], token["spec"]["expires_at"], mine["created_at"],
        tenant.owner.get(f"/v1/plans/{plan['id']}").ok()["expires_at"],
    ):  # fmt: skip
        assert moment.endswith("Z"), moment
    vm, _, port = plan["effects"]
    assert (vm["details"]["user_data"], vm["details"]["boot_string"], vm["details"]["labels"]) == (
        "6 characters",
        "b",
        {"a": "b"},
    )
    assert "s3cret" not in str(plan)
    assert port["name"].startswith("p-0-")  # as the plan of its removal names it
    operator.delete(f"/v1/join-tokens/{made['id']}").ok()


def test_the_reason_of_a_maintenance_ends_with_it(cloud: Installation) -> None:
    operator = cloud.operator()
    node = operator.list("/v1/nodes")[0]["id"]
    on = operator.patch(f"/v1/nodes/{node}", {"maintenance": True, "maintenance_reason": "disks"}).ok()
    assert on["spec"]["maintenance_reason"] == "disks"
    assert operator.patch(f"/v1/nodes/{node}", {"maintenance": False}).ok()["spec"]["maintenance_reason"] == ""
