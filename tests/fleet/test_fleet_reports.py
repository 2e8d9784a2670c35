"""What nodes say and what becomes of it: late, repeated and foreign reports, silence, explanations, cancels, deadlines."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from nubila.model.ids import parse
from tests.fleet.installation import IMAGE, Installation, until
from tests.fleet.puppet import ROOT, Puppet, puppet_of
from tests.fleet.tenant import Tenant, absent, refused


@pytest.fixture(scope="module")
def lasting(cloud: Installation) -> Iterator[Puppet]:
    with puppet_of(cloud) as made:
        yield made


@pytest.fixture
def puppet(lasting: Puppet) -> Puppet:
    lasting.revive()
    return lasting


@pytest.fixture
def stranger(cloud: Installation) -> Iterator[Puppet]:
    """Another node, whose certificate was stolen."""
    with puppet_of(cloud) as made:
        yield made


def test_i4_late_repeated_and_reordered_reports_never_take_a_state_back(
    cloud: Installation, tenant: Tenant, puppet: Puppet
) -> None:
    vm_id = tenant.create("a", virt_method=puppet.method)["vm"]["id"]
    said = [puppet.as_wished(vm_id, power="off", starts=0, doing="making the volume"), puppet.as_wished(vm_id)]
    for report in said:
        assert puppet.report(report).ok()["taken"] == 1
    for body in ({"mode": "hard"}, None, {"mode": "hard"}):  # stop, start, stop
        tenant.owner.post(f"/v1/vms/a/{'start' if body is None else 'stop'}", body).ok()
        said.append(puppet.as_wished(vm_id))
        assert puppet.report(said[-1]).ok()["taken"] == 1
    end = tenant.vm("a")
    assert (end["state"], end["observed_generation"], end["generation"]) == ("stopped", 4, 4)
    last, older = said[-1], said[:-1]
    rng = random.Random(11)
    for report in rng.choices([*older, last], k=40):
        answer = puppet.report(report).ok()
        assert answer.get("refused", []) == ([] if report == last else [vm_id])
        shown = tenant.vm("a")
        assert (shown["state"], shown["status"], shown["observed_generation"]) == ("stopped", end["status"], 4)
    assert [o["state"] for o in tenant.owner.list(f"/v1/operations?resource={vm_id}")] == ["done"] * 4
    # the same generation twice in one message, and wishes that were never made
    assert puppet.report({**last, "generation": 5}).ok()["refused"] == [vm_id]
    assert puppet.report({**last, "epoch": 2}).ok()["refused"] == [vm_id]
    assert puppet.report({**last, "epoch": 0}).ok()["refused"] == [vm_id]
    assert tenant.vm("a")["observed_generation"] == 4


def test_i4_what_is_gone_stays_gone(cloud: Installation, tenant: Tenant, puppet: Puppet) -> None:
    vm_id = puppet.running(tenant, "a")
    alive = puppet.as_wished(vm_id)
    assert puppet.report({**alive, "gone": True}).ok()["taken"] == 1  # nobody wished that: it is not believed
    assert tenant.vm("a")["state"] == "running"
    before = tenant.quota()["vms"]["used"]
    operation = tenant.owner.delete("/v1/vms/a").ok()["operation"]["id"]
    gone = puppet.as_wished(vm_id, power="off")
    assert gone["gone"]
    for _ in range(3):
        puppet.report(gone).ok()
    puppet.report(alive).ok()
    refused(tenant.owner.get("/v1/vms/a"), 404, "not-found")
    assert tenant.owner.get(f"/v1/operations/{operation}").ok()["state"] == "done"
    assert tenant.quota()["vms"]["used"] == before - 1  # given back once
    assert cloud.sql("select count(*) as n from allocation where holder_id = $1", parse("vm", vm_id)) == [{"n": 0}]


def test_a29_a_certificate_speaks_for_its_own_node_only(
    cloud: Installation, tenant: Tenant, puppet: Puppet, stranger: Puppet
) -> None:
    vm_id = puppet.running(tenant, "a")
    before = tenant.vm("a")
    report = puppet.as_wished(vm_id, power="off", reason="the guest shut itself down")
    told = [stranger.report({**report, "vm_id": i}).ok() for i in (vm_id, absent("vm"))]
    assert told[0] == told[1]  # it does not even learn that there is such a vm
    assert tenant.vm("a")["status"] == before["status"]
    # nor in the other's session
    refused(stranger.report(report, session=puppet.session + 1000), 409, "wrong-session")
    assert vm_id not in str(stranger.wanted())
    # nor at the other planes
    for plane in ("user", "operator"):
        caller = cloud.caller(plane)
        caller.certificate = stranger.caller.certificate
        refused(caller.get("/v1/me"), 401, "unauthenticated")
    # and the session of the other goes on: the twin
    assert puppet.report(puppet.as_wished(vm_id)).ok()["taken"] == 1


def test_a29_an_image_is_given_to_nodes_whose_vms_use_it(
    cloud: Installation, tenant: Tenant, puppet: Puppet, stranger: Puppet
) -> None:
    puppet.running(tenant, "a")
    image_id = tenant.owner.list("/v1/images?name=mini")[0]["id"]
    given = puppet.caller.get(f"{ROOT}/images/{image_id}/content")
    assert (given.status, given.raw) == (200, IMAGE)
    refused(stranger.caller.get(f"{ROOT}/images/{image_id}/content"), 404, "not-found")
    refused(cloud.caller("internal").get(f"{ROOT}/images/{image_id}/content"), 401, "unauthenticated")


def test_a29_an_answer_to_a_question_that_another_node_was_asked_is_ignored(
    tenant: Tenant, puppet: Puppet, stranger: Puppet
) -> None:
    vm_id = puppet.running(tenant, "a")
    with ThreadPoolExecutor(1) as pool:
        shown = pool.submit(tenant.owner.get, "/v1/vms/a/console?bytes=500")
        question = until(lambda: puppet.wanted().get("questions"), 10)[0]
        assert (question["about"], question["vm_id"], question["max_bytes"]) == ("console", vm_id, 500)
        path = f"{ROOT}/answers/{question['question_id']}"
        stranger.caller.post(path, {"session": stranger.session, "text": "forged"}).ok()
        puppet.caller.post(path, {"session": puppet.session, "text": "login: \u00e4"}).ok()
        assert shown.result().ok() == "login: \u00e4"


def test_an_older_session_is_refused(puppet: Puppet) -> None:
    old, new = puppet.session, puppet.open()
    assert new > old
    refused(puppet.report(session=old), 409, "wrong-session")
    refused(puppet.caller.get(f"{ROOT}/wanted?since=0&session={old}"), 409, "wrong-session")
    assert puppet.report().status == 200


def test_a_spent_join_token_serves_its_machine_only(puppet: Puppet) -> None:
    again = puppet.enrol().ok()  # the first answer was lost
    assert again["node_id"] == puppet.id
    refused(puppet.enrol(ec.generate_private_key(ec.SECP256R1())), 401, "unauthenticated")


def test_a_silent_nodes_vm_is_unknown_with_its_age(cloud: Installation, tenant: Tenant, puppet: Puppet) -> None:
    vm_id = puppet.running(tenant, "a")
    time.sleep(2.2)  # what was heard is written down every two seconds
    puppet.silent_for(20)
    assert tenant.vm("a")["state"] == "running"
    puppet.silent_for(95)
    shown = tenant.vm("a")
    assert (shown["state"], shown["last_state"]) == ("unknown", "running")
    assert 95 <= shown["last_report_age_s"] < 110
    listed = {v["id"]: v for v in tenant.owner.list("/v1/vms")}[vm_id]
    assert listed["state"] == "unknown"
    node = cloud.operator().get(f"/v1/nodes/{puppet.id}").ok()
    assert (node["state"], node["last_state"]) == ("unknown", "running")
    told = refused(tenant.owner.post("/v1/vms", tenant.wish("b", virt_method=puppet.method)), 507, "no-capacity")
    assert told["short_of"]
    puppet.report().ok()
    until(lambda: tenant.vm("a")["state"] == "running", 5)


def test_why_names_what_is_waited_for_and_since_when(cloud: Installation, tenant: Tenant, puppet: Puppet) -> None:
    owner = tenant.owner
    made = tenant.create("a", virt_method=puppet.method)
    path = f"/v1/operations/{made['operation']['id']}/why"
    why = owner.get(path).ok()
    assert (why["state"], why["overdue"], why["can_cancel"]) == ("waiting", False, True)
    assert "take up the wish" in why["summary"]
    assert 0 <= why["chain"][0]["since_s"] < 10
    assert 200 < why["deadline_in_s"] <= 300
    puppet.report(
        puppet.as_wished(made["vm"]["id"], power="off", starts=0, doing="fetching the image", progress=0.5)
    ).ok()
    why = owner.get(path).ok()
    assert why["state"] == "running"
    assert "fetching the image" in why["summary"]
    assert owner.get(f"/v1/operations/{made['operation']['id']}").ok()["status"]["progress"] == 0.5
    puppet.report(
        puppet.as_wished(made["vm"]["id"], power="off", starts=0, reason="the pool is full", failing=True)
    ).ok()
    assert "the pool is full" in owner.get(path).ok()["summary"]
    assert tenant.vm("a")["state"] == "failed"
    time.sleep(2.2)
    puppet.silent_for(95)
    why = owner.get(path).ok()
    assert "95 s ago" in why["summary"]
    assert 95 <= why["chain"][0]["since_s"] < 110
    names = (puppet.id, puppet.method)
    assert not any(n in owner.get(path).raw.decode() for n in names)
    assert puppet.method in cloud.operator().get(path).raw.decode()  # operators are told which node
    puppet.fulfil(made["vm"]["id"])
    assert owner.get(path).ok()["summary"] == "It ended: done."


def test_why_with_the_agent_stopped(cloud: Installation, tenant: Tenant) -> None:
    with cloud.paused("agent"):
        made = tenant.create("a")
        why = tenant.owner.get(f"/v1/operations/{made['operation']['id']}/why").ok()
        assert why["state"] == "waiting"
        assert why["chain"][0]["waits_for"] == "its node to take up the wish"
        cloud.quiet()
        cloud.sql("update node_seen set seen_at = now() - interval '60 s'")
        assert (
            "was last heard from 6" in tenant.owner.get(f"/v1/operations/{made['operation']['id']}/why").ok()["summary"]
        )
        assert tenant.vm("a")["state"] == "unknown"
    assert tenant.owner.get(f"/v1/operations/{made['operation']['id']}?wait=20").ok()["state"] == "done"
    until(lambda: tenant.vm("a")["state"] == "running", 5)


# verb -> how it is asked for
VERBS: dict[str, tuple[str, str, object]] = {
    "create": ("POST", "", None), "start": ("POST", "/start", None), "stop": ("POST", "/stop", {"mode": "clean", "timeout_s": 60}),
    "reboot": ("POST", "/reboot", {}), "remove": ("DELETE", "", None),
}  # fmt: skip
# state of the operation when it is cancelled -> what its node says before that
REACHED = ("waiting", "running", "done", "overtaken", "cancelled")


@pytest.mark.parametrize(("verb", "state"), list(itertools.product(VERBS, REACHED)))
def test_a_cancel_is_legal_in_every_state_and_leads_to_an_end(
    tenant: Tenant, puppet: Puppet, verb: str, state: str
) -> None:
    owner = tenant.owner
    operation, vm_id = asked(tenant, puppet, verb)
    reach(tenant, puppet, operation, vm_id, state)
    expected = "waiting" if verb == "remove" and state in ("overtaken", "cancelled") else state
    assert owner.get(f"/v1/operations/{operation}").ok()["state"] == expected

    reply = owner.post(f"/v1/operations/{operation}/cancel")
    assert reply.status == 200, reply
    assert reply.body["detail"]
    open_and_undone = expected in ("waiting", "running") and verb != "remove"
    assert reply.body["cancelled"] == ("yes" if open_and_undone else "no")
    if open_and_undone:
        assert reply.body["operation"]["state"] == "cancelled"
        assert reply.body["operation"]["status"]["reason"] == "cancelled on request"
        assert reply.body["operation"]["ended_at"]

    if vm_id in {v["vm_id"] for v in puppet.wanted()["vms"]}:
        puppet.fulfil(vm_id)
    assert {o["state"] for o in owner.list(f"/v1/operations?resource={vm_id}")} <= {"done", "cancelled", "overtaken"}
    if open_and_undone and verb == "create":
        refused(owner.get(f"/v1/vms/{vm_id}"), 404, "not-found")
    elif open_and_undone:
        assert tenant.vm("a")["state"] == {"start": "stopped", "stop": "running", "reboot": "running"}[verb]


def asked(tenant: Tenant, puppet: Puppet, verb: str) -> tuple[str, str]:
    """An operation of that verb that its node has not taken up; and the vm."""
    if verb == "create":
        made = tenant.create("a", virt_method=puppet.method)
        return made["operation"]["id"], made["vm"]["id"]
    vm_id = puppet.running(tenant, "a")
    if verb == "start":
        tenant.owner.post("/v1/vms/a/stop", {"mode": "hard"}).ok()
        puppet.fulfil(vm_id)
    method, path, body = VERBS[verb]
    return tenant.owner.call(method, f"/v1/vms/a{path}", body).ok()["operation"]["id"], vm_id


def reach(tenant: Tenant, puppet: Puppet, operation: str, vm_id: str, state: str) -> None:
    match state:
        case "running":
            wish = puppet.as_wished(vm_id)
            before = {
                "power": "off" if wish["starts"] == 1 and wish["power"] == "on" and wish["reboots"] == 0 else "on",
                "gone": False,
            }
            if wish["starts"] > 1:
                before["power"] = "off"
            counters = {"starts": wish["starts"] - (before["power"] == "off"), "reboots": max(0, wish["reboots"] - 1)}
            puppet.report({**wish, **before, **counters, "doing": "working on it"}).ok()
        case "done":
            puppet.fulfil(vm_id)
        case "overtaken":
            tenant.owner.delete(f"/v1/vms/{vm_id}")
        case "cancelled":
            tenant.owner.post(f"/v1/operations/{operation}/cancel").ok()


def test_a_passed_deadline_alarms_and_the_work_goes_on(cloud: Installation, tenant: Tenant, puppet: Puppet) -> None:
    made = tenant.create("a", virt_method=puppet.method)
    operation = made["operation"]["id"]
    path = f"/v1/operations/{operation}"
    cloud.sql("update operation set deadline_at = now() - interval '5 s' where id = $1", parse("operation", operation))
    until(lambda: (tenant.owner.get(path).ok()["status"] or {}).get("overdue"), 10)
    shown = tenant.owner.get(path).ok()
    assert (shown["state"], shown["ended_at"]) == ("waiting", None)
    why = tenant.owner.get(f"{path}/why").ok()
    assert why["overdue"]
    assert "The deadline passed" in why["summary"]
    alarms = [line for line in cloud.log_lines("core") if line.get("event") == "operation.overdue"]
    assert any(made["vm"]["name"] in str(a) and a["level"] == "warning" for a in alarms)
    assert len([a for a in alarms if a.get("operation") == shown["name"]]) >= 1
    puppet.fulfil(made["vm"]["id"])
    shown = tenant.owner.get(path).ok()
    assert (shown["state"], shown["status"]["overdue"]) == ("done", True)


def test_a_guest_that_shuts_itself_down_stays_off(cloud: Installation, tenant: Tenant, puppet: Puppet) -> None:
    vm_id = puppet.running(tenant, "a")
    puppet.report(puppet.as_wished(vm_id, power="off", reason="the guest shut itself down")).ok()
    assert tenant.vm("a")["state"] == "stopped"
    wished: Callable[[], bool] = lambda: tenant.vm("a")["spec"]["power"] == "off"  # noqa: E731
    until(wished, 10, why="the wish to follow the guest")
    assert puppet.wish(vm_id)["power"] == "off"
    assert tenant.owner.post("/v1/vms/a/start").ok()["operation"]["state"] == "waiting"
    puppet.fulfil(vm_id)
    assert tenant.vm("a")["state"] == "running"
