"""Reset, suspend, crash policy, protection, holds and reading back: over HTTP, on nodes that carry them out."""

from __future__ import annotations

from nubila.model.ids import parse
from tests.fleet.image_client import small_iso, upload
from tests.fleet.installation import Installation, until
from tests.fleet.puppet import puppet_of
from tests.fleet.tenant import Tenant, refused


def test_reset_and_suspend_reach_the_machine(cloud: Installation, tenant: Tenant) -> None:
    owner = tenant.owner
    vm = tenant.running("a")
    before = cloud.domains()[vm["id"]]
    done = owner.post("/v1/vms/a/reset?wait=20").ok()
    assert (done["operation"]["state"], done["vm"]["state"]) == ("done", "running")
    assert cloud.domains()[vm["id"]]["boots"] == before["boots"] + 1
    done = owner.post("/v1/vms/a/suspend?wait=20").ok()
    assert (done["operation"]["state"], done["vm"]["state"]) == ("done", "suspended")
    domain = cloud.domains()[vm["id"]]
    assert (domain["running"], domain["paused"], domain["pid"]) == (True, "suspended", before["pid"])
    for word in ("suspend", "reset", "reboot", "start"):
        refused(owner.post(f"/v1/vms/a/{word}"), 409, "conflict")
    done = owner.post("/v1/vms/a/resume?wait=20").ok()
    assert (done["operation"]["state"], done["vm"]["state"]) == ("done", "running")
    assert cloud.domains()[vm["id"]]["paused"] is None
    refused(owner.post("/v1/vms/a/resume"), 409, "conflict")
    owner.post("/v1/vms/a/suspend?wait=20").ok()
    stopped = owner.post("/v1/vms/a/stop?wait=20", {"mode": "clean", "timeout_s": 5}).ok()
    assert stopped["vm"]["state"] == "stopped"
    for word in ("suspend", "reset", "resume"):
        refused(owner.post(f"/v1/vms/a/{word}"), 409, "conflict")
    assert owner.post("/v1/vms/a/start?wait=20").ok()["vm"]["state"] == "running"


def test_plans_of_the_verbs_show_what_they_change_and_change_nothing(cloud: Installation, tenant: Tenant) -> None:
    owner = tenant.owner
    vm = tenant.running("a")
    number = owner.get("/v1/vms/a").ok()["generation"] + 1
    for word, field, becomes in (("reset", "resets", number), ("suspend", "suspended", True)):
        plan = owner.post(f"/v1/vms/a/{word}?plan=1").ok()
        assert plan["effects"][0]["details"][field]["becomes"] == becomes
    assert cloud.domains()[vm["id"]]["paused"] is None
    assert owner.post(f"/v1/plans/{plan['id']}/apply?wait=20").ok()["vm"]["state"] == "suspended"


def test_a_suspend_that_waits_can_be_cancelled(cloud: Installation, tenant: Tenant) -> None:
    with puppet_of(cloud) as puppet:
        vm_id = puppet.running(tenant, "a")
        op = tenant.owner.post("/v1/vms/a/suspend").ok()["operation"]
        assert puppet.wish(vm_id)["suspended"] is True
        assert tenant.owner.post(f"/v1/operations/{op['id']}/cancel").ok()["cancelled"] == "yes"
        assert not puppet.wish(vm_id).get("suspended")
        op = tenant.owner.post("/v1/vms/a/reset").ok()["operation"]
        assert tenant.owner.post(f"/v1/operations/{op['id']}/cancel").ok()["cancelled"] == "yes"
        assert puppet.wish(vm_id).get("resets", 0) == 0


def test_a_withdrawn_number_is_never_given_again(cloud: Installation, tenant: Tenant) -> None:
    """The node did what was withdrawn and had not said so: that is no word on what is wished after it."""
    with puppet_of(cloud) as puppet:
        vm_id = puppet.running(tenant, "a")
        for verb, field in (("reboot", "reboots"), ("reset", "resets")):
            stood = puppet.wish(vm_id).get(field, 0)
            numbers = []
            for _ in range(2):
                op = tenant.owner.post(f"/v1/vms/a/{verb}").ok()["operation"]
                numbers.append(puppet.wish(vm_id)[field])
                assert tenant.owner.post(f"/v1/operations/{op['id']}/cancel").ok()["cancelled"] == "yes"
                assert puppet.wish(vm_id).get(field, 0) == stood  # not the other one that was withdrawn
            op = tenant.owner.post(f"/v1/vms/a/{verb}").ok()["operation"]["id"]
            wished = puppet.wish(vm_id)[field]
            assert stood < numbers[0] < numbers[1] < wished
            puppet.report(puppet.as_wished(vm_id, **{field: numbers[1]})).ok()
            assert tenant.owner.get(f"/v1/operations/{op}").ok()["state"] == "running"
            assert tenant.vm("a")["state"] == "rebooting"
            puppet.report(puppet.as_wished(vm_id, **{field: wished})).ok()
            assert tenant.owner.get(f"/v1/operations/{op}").ok()["state"] == "done"


def test_a_vm_that_ends_while_suspended_is_stopped_and_says_why(cloud: Installation, tenant: Tenant) -> None:
    with puppet_of(cloud) as puppet:
        vm_id = puppet.running(tenant, "a")
        op = tenant.owner.post("/v1/vms/a/suspend").ok()["operation"]
        puppet.report(puppet.as_wished(vm_id, paused="suspended")).ok()
        assert tenant.vm("a")["state"] == "suspended"
        assert tenant.owner.get(f"/v1/operations/{op['id']}").ok()["state"] == "done"
        puppet.report(puppet.as_wished(vm_id, power="off", reason="its memory is lost")).ok()
        shown = tenant.vm("a")
        assert (shown["state"], shown["status"]["reason"]) == ("stopped", "its memory is lost")
        wished = until(
            lambda: (w := puppet.wish(vm_id))["power"] == "off" and w, 15
        )  # nobody starts it behind our back
        assert not wished.get("suspended")


def test_a_verb_whose_vm_ended_meanwhile_ends_too(cloud: Installation, tenant: Tenant) -> None:
    with puppet_of(cloud) as puppet:
        vm_id = puppet.running(tenant, "a")
        op = tenant.owner.post("/v1/vms/a/suspend").ok()["operation"]
        puppet.report(puppet.as_wished(vm_id, power="off", reason="the guest shut itself down")).ok()
        ended = tenant.owner.get(f"/v1/operations/{op['id']}").ok()
        assert (ended["state"], ended["status"]["reason"]) == ("overtaken", "the guest shut itself down")


def test_a_panic_that_is_preserved_is_shown_and_must_be_stopped(cloud: Installation, tenant: Tenant) -> None:
    with puppet_of(cloud) as puppet:
        vm_id = puppet.running(tenant, "a")
        assert tenant.owner.patch("/v1/vms/a", {"on_crash": "preserve"}).ok()["vm"]["spec"]["on_crash"] == "preserve"
        assert puppet.wish(vm_id)["on_crash"] == "preserve"
        crash = "2026-01-01T00:00:00Z: the guest's kernel panicked"
        puppet.report(puppet.as_wished(vm_id, paused="panicked", reason="it panicked", last_crash=crash)).ok()
        shown = tenant.vm("a")
        assert (shown["state"], shown["status"]["reason"], shown["status"]["last_crash"]) == (
            "crashed",
            "it panicked",
            crash,
        )
        for word in ("reset", "suspend", "resume", "reboot"):
            refused(tenant.owner.post(f"/v1/vms/a/{word}"), 409, "conflict")
        assert tenant.owner.post("/v1/vms/a/stop", {"mode": "hard"}).status == 202
    refused(tenant.owner.patch("/v1/vms/a", {"on_crash": "explode"}), 422, "invalid")


def test_what_a_virt_method_cannot_do_is_refused_with_its_name(cloud: Installation, tenant: Tenant) -> None:
    with puppet_of(cloud) as puppet:
        puppet.running(tenant, "a")
        cloud.sql(
            'update virt_method set capabilities = \'{"reset": false, "suspend": false}\' where node_id = $1',
            parse("node", puppet.id),
        )
        for word in ("reset", "suspend"):
            told = refused(tenant.owner.post(f"/v1/vms/a/{word}"), 422, "unsupported")
            assert puppet.method in told["detail"]


def test_protected_it_cannot_be_removed_until_the_protection_is_taken_away(cloud: Installation, tenant: Tenant) -> None:
    owner = tenant.owner
    vm = tenant.running("a", protected=True)
    refused(owner.delete("/v1/vms/a"), 409, "conflict")
    refused(owner.delete("/v1/vms/a?plan=1"), 409, "conflict")
    assert cloud.domains()[vm["id"]]["running"]
    owner.patch("/v1/vms/a", {"protected": False}).ok()
    assert owner.delete("/v1/vms/a?wait=20").ok()["vm"]["state"] == "removed"


def test_protected_it_is_not_removed_by_a_cancelled_create_either(cloud: Installation, tenant: Tenant) -> None:
    with puppet_of(cloud) as puppet:
        made = tenant.create("a", virt_method=puppet.method, protected=True)
        refused(tenant.owner.post(f"/v1/operations/{made['operation']['id']}/cancel"), 409, "conflict")
        assert not puppet.wish(made["vm"]["id"])["gone"]


CHANGES = (
    ("PATCH", "", {"name": "b"}), ("PATCH", "", {"labels": {"a": "1"}}), ("PATCH", "", {"protected": True}), ("DELETE", "", None),
    ("POST", "/start", None), ("POST", "/stop", {}), ("POST", "/reboot", {}), ("POST", "/reset", None), ("POST", "/suspend", None),
    ("POST", "/resume", None),
)  # fmt: skip


def test_a_hold_refuses_every_change_with_its_reason(cloud: Installation, tenant: Tenant) -> None:
    owner = tenant.owner
    tenant.running("a")
    refused(owner.post("/v1/vms/a/unhold"), 409, "conflict")
    shown = owner.post("/v1/vms/a/hold", {"reason": "evidence"}).ok()["vm"]
    assert [(h["plane"], h["reason"]) for h in shown["spec"]["holds"]] == [("user", "evidence")]
    for method, path, body in CHANGES:
        told = refused(owner.call(method, f"/v1/vms/a{path}", body), 409, "conflict")
        assert "evidence" in told["detail"]
    after = tenant.vm("a")
    assert (after["generation"], after["spec"]) == (shown["generation"], shown["spec"])
    owner.post("/v1/vms/a/unhold").ok()
    assert owner.patch("/v1/vms/a", {"labels": {"a": "1"}}).status == 200
    refused(owner.post("/v1/vms/a/hold", {"reason": ""}), 422, "invalid")


def test_an_operators_hold_is_lifted_by_operators_only(cloud: Installation, tenant: Tenant) -> None:
    owner, operator = tenant.owner, cloud.operator()
    vm = tenant.running("a")
    owner.post("/v1/vms/a/hold", {"reason": "mine"}).ok()
    operator.post(f"/v1/vms/{vm['id']}/hold", {"reason": "theirs"}).ok()
    told = refused(owner.post("/v1/vms/a/stop", {}), 409, "conflict")
    assert "theirs" in told["detail"]
    assert "op-" not in str(told)  # who of them is not told
    owner.post("/v1/vms/a/unhold").ok()  # one's own goes
    refused(owner.post("/v1/vms/a/unhold"), 403, "forbidden")
    refused(owner.post("/v1/vms/a/stop", {}), 409, "conflict")
    operator.post(f"/v1/vms/{vm['id']}/unhold").ok()
    assert owner.post("/v1/vms/a/stop?wait=20", {"mode": "hard"}).ok()["vm"]["state"] == "stopped"


def test_a_hold_also_stands_before_a_cancel(cloud: Installation, tenant: Tenant) -> None:
    with puppet_of(cloud) as puppet:
        made = tenant.create("a", virt_method=puppet.method)
        tenant.owner.post("/v1/vms/a/hold", {"reason": "evidence"}).ok()
        told = refused(tenant.owner.post(f"/v1/operations/{made['operation']['id']}/cancel"), 409, "conflict")
        assert "evidence" in told["detail"]


def test_boot_string_and_user_data_read_back_and_reading_the_secret_is_kept(
    cloud: Installation, tenant: Tenant
) -> None:
    owner = tenant.owner
    vm = tenant.running("a", user_data="#!/bin/sh\nsecret word\n", boot_string="ks=1")
    tenant.running("b")
    assert owner.get("/v1/vms/a/boot-string").ok()["boot_string"] == "ks=1"
    assert owner.get("/v1/vms/b/boot-string").ok()["boot_string"] == ""
    refused(owner.get("/v1/vms/b/user-data"), 404, "not-found")
    reads = (
        "select count(*) from call where outcome = 'read-secret' and object_id = $1 and action = 'vm.read_user_data'"
    )
    assert cloud.sql(reads, parse("vm", vm["id"]))[0]["count"] == 0
    answer = owner.get("/v1/vms/a/user-data")
    assert answer.ok()["user_data"] == "#!/bin/sh\nsecret word\n"
    assert answer.headers["cache-control"] == "no-store"
    assert cloud.sql(reads, parse("vm", vm["id"]))[0]["count"] == 1
    reader = cloud.caller("user", tenant.person(f"{tenant.name}-reader", "reader"))
    refused(reader.get("/v1/vms/a/user-data"), 403, "forbidden")
    assert reader.get("/v1/vms/a/boot-string").status == 200
    assert "secret word" not in owner.get("/v1/vms/a").raw.decode()
    other = Tenant(cloud)
    refused(other.owner.get(f"/v1/vms/{vm['id']}/user-data"), 404, "not-found")
    refused(cloud.operator().get(f"/v1/vms/{vm['id']}/user-data"), 404, "not-found")


def used(tenant: Tenant) -> tuple[int, int]:
    quota = tenant.quota()
    return quota["cores"]["used"], quota["memory_mib"]["used"]


def held(cloud: Installation, vm_id: str) -> tuple[dict[str, int], dict[str, int]]:
    """What the vm holds of its node, and what is used there by all, less what others hold."""
    rows = cloud.sql("select class, amount from allocation where holder_id = $1", parse("vm", vm_id))
    node = "select node_id from vm where id = $1"
    totals = cloud.sql(
        f"select i.class, i.used - coalesce((select sum(a.amount) from allocation a where a.node_id = i.node_id"
        f" and a.class = i.class and a.holder_id <> $1), 0) as mine from inventory i where i.node_id = ({node})"
        " and i.class <> 'disk_gib'",
        parse("vm", vm_id),
    )
    mine = {r["class"]: r["amount"] for r in rows if r["class"] != "disk_gib"}
    return mine, {r["class"]: int(r["mine"]) for r in totals}


def test_size_is_claimed_and_given_back_when_the_guest_can_have_no_more(cloud: Installation, tenant: Tenant) -> None:
    owner = tenant.owner
    vm = tenant.running("a")
    spec = vm["spec"]
    cores, memory = spec["cores"], spec["memory_mib"]
    status = until(lambda: (s := tenant.vm("a")["status"])["cores"] and s)
    assert (status["cores"], status["memory_mib"], status["at_next_start"]) == (cores, memory, [])
    plan = owner.patch("/v1/vms/a?plan=1", {"cores": cores + 1, "memory_mib": memory * 2}).ok()
    details = plan["effects"][0]["details"]
    assert details["cores"]["when"].startswith("now")
    assert details["memory_mib"]["when"] == "at the next start"
    assert plan["quota_left"]["cores"]["after"] == plan["quota_left"]["cores"]["limit"] - cores - 1
    assert used(tenant) == (cores, memory)
    done = owner.patch("/v1/vms/a?wait=20", {"cores": cores + 1, "memory_mib": memory * 2, "labels": {"a": "b"}}).ok()
    assert (done["operation"]["state"], done["vm"]["labels"]) == ("done", {"a": "b"})
    assert used(tenant) == (cores + 1, memory * 2)
    assert held(cloud, vm["id"]) == ({"cores": cores + 1, "memory_mib": memory * 2},) * 2
    assert cloud.domains()[vm["id"]]["cores"] == cores + 1
    status = until(lambda: (s := tenant.vm("a")["status"])["cores"] == cores + 1 and s)
    assert (status["cores"], status["memory_mib"], status["at_next_start"]) == (cores + 1, memory, ["memory_mib"])
    owner.post("/v1/vms/a/stop?wait=20", {"mode": "hard"}).ok()
    owner.post("/v1/vms/a/start?wait=20").ok()
    assert cloud.domains()[vm["id"]]["memory_mib"] == memory * 2
    # smaller again: the quota is free at once, the node's only when it says that the guest cannot have it back
    owner.patch("/v1/vms/a?wait=20", {"cores": cores, "memory_mib": memory}).ok()
    assert used(tenant) == (cores, memory)
    assert cloud.domains()[vm["id"]]["memory_mib"] == memory
    assert held(cloud, vm["id"]) == ({"cores": cores + 1, "memory_mib": memory * 2},) * 2
    owner.post("/v1/vms/a/stop?wait=20", {"mode": "hard"}).ok()
    until(lambda: held(cloud, vm["id"]) == ({"cores": cores, "memory_mib": memory},) * 2)
    owner.delete("/v1/vms/a?wait=20").ok()
    assert used(tenant) == (0, 0)


def test_a_size_that_does_not_fit_is_refused_with_numbers(cloud: Installation) -> None:
    tenant = Tenant(cloud, quota={"cores": 3})
    vm = tenant.running("a")
    told = refused(tenant.owner.patch("/v1/vms/a", {"cores": 10}), 403, "quota-exceeded")
    assert told["quota"]["left"] == 3 - vm["spec"]["cores"]
    told = refused(tenant.owner.patch("/v1/vms/a", {"memory_mib": 1 << 24}), 507, "no-capacity")
    assert told["short_of"]["memory_mib"] > 0
    refused(tenant.owner.patch("/v1/vms/a", {"cores": 0}), 422, "invalid")
    refused(tenant.owner.patch("/v1/vms/a", {"flavor": "nosuch"}), 422, "invalid")
    assert tenant.vm("a")["spec"] == vm["spec"]
    same = tenant.owner.patch("/v1/vms/a", {"cores": vm["spec"]["cores"]}).ok()
    assert same["vm"]["generation"] == tenant.vm("a")["generation"]


def test_a_flavor_gives_its_size_to_a_stopped_vm(cloud: Installation, tenant: Tenant) -> None:
    cloud.operator().post("/v1/flavors", {"name": f"f-{tenant.name}", "cores": 3, "memory_mib": 96, "disk_gib": 1}).ok()
    made = tenant.create("a", wait=20, power="off")["vm"]
    done = tenant.owner.patch("/v1/vms/a?wait=20", {"flavor": f"f-{tenant.name}"}).ok()
    assert (done["operation"]["state"], done["vm"]["flavor"]) == ("done", f"f-{tenant.name}")
    tenant.owner.post("/v1/vms/a/start?wait=20").ok()
    domain = cloud.domains()[made["id"]]
    assert (domain["cores"], domain["memory_mib"]) == (3, 96)


def iso(tenant: Tenant, name: str, blocks: int = 20) -> str:
    image: dict[str, str] = tenant.owner.post("/v1/images", {"name": name, "format": "iso"}).ok()
    upload(tenant.owner, name, small_iso(blocks))
    return image["id"]


def test_an_iso_goes_in_and_out_while_it_runs_and_is_in_use_meanwhile(cloud: Installation, tenant: Tenant) -> None:
    owner = tenant.owner
    vm = tenant.running("a")
    one, two = iso(tenant, "one", 20), iso(tenant, "two", 21)
    for name, image_id in (("one", one), ("two", two)):
        done = owner.post("/v1/vms/a/insert?wait=20", {"image": name}).ok()
        assert (done["operation"]["state"], done["vm"]["status"]["media"]) == ("done", image_id)
        assert done["vm"]["spec"]["media"]["name"] == name
        domain = cloud.domains()[vm["id"]]
        assert domain["media"].endswith(done["vm"]["spec"]["media"]["sha256"])
        assert domain["boots"] == 1
    refused(owner.delete("/v1/images/two"), 409, "in-use")
    assert owner.delete("/v1/images/one").status < 300
    refused(owner.post("/v1/vms/a/insert", {"image": "two"}), 409, "conflict")
    refused(owner.post("/v1/vms/a/insert", {"image": "mini"}), 422, "invalid")
    refused(owner.post("/v1/vms/a/insert", {"image": "nosuch"}), 422, "invalid")
    done = owner.post("/v1/vms/a/eject?wait=20").ok()
    assert (done["operation"]["state"], done["vm"]["status"]["media"]) == ("done", None)
    assert cloud.domains()[vm["id"]]["media"] is None
    refused(owner.post("/v1/vms/a/eject"), 409, "conflict")
    assert owner.delete("/v1/images/two").status < 300
    owner.post("/v1/images", {"name": "empty", "format": "iso"}).ok()
    refused(owner.post("/v1/vms/a/insert", {"image": "empty"}), 409, "conflict")


def test_another_projects_iso_is_not_there(cloud: Installation, tenant: Tenant) -> None:
    tenant.running("a")
    theirs = iso(Tenant(cloud), "theirs")
    for named in ("theirs", theirs):
        refused(tenant.owner.post("/v1/vms/a/insert", {"image": named}), 422, "invalid")


def test_rescue_boots_from_the_iso_and_unrescue_from_the_disk(cloud: Installation, tenant: Tenant) -> None:
    owner = tenant.owner
    vm = tenant.running("a")
    iso(tenant, "help")
    refused(owner.post("/v1/vms/a/rescue", {"image": "help"}), 409, "conflict")
    owner.post("/v1/vms/a/stop?wait=20", {"mode": "hard"}).ok()
    done = owner.post("/v1/vms/a/rescue?wait=20", {"image": "help"}).ok()
    assert (done["operation"]["state"], done["vm"]["state"], done["vm"]["spec"]["rescue"]) == ("done", "running", True)
    domain = cloud.domains()[vm["id"]]
    assert (domain["running"], domain["boot"]) == (True, ["cdrom", "disk"])
    assert domain["media"]
    for path in ("eject", "unrescue"):
        refused(owner.post(f"/v1/vms/a/{path}"), 409, "conflict")
    owner.post("/v1/vms/a/stop?wait=20", {"mode": "hard"}).ok()
    assert owner.post("/v1/vms/a/unrescue?wait=20").ok()["vm"]["state"] == "stopped"
    owner.post("/v1/vms/a/start?wait=20").ok()
    domain = cloud.domains()[vm["id"]]
    assert (domain["boot"], domain["media"]) == (["disk"], None)


def test_the_boot_order_holds_from_the_next_start(cloud: Installation, tenant: Tenant) -> None:
    owner = tenant.owner
    vm = tenant.running("a")
    owner.patch("/v1/vms/a", {"boot": ["cdrom", "disk"]}).ok()
    refused(owner.patch("/v1/vms/a", {"boot": ["disk", "disk"]}), 422, "invalid")
    refused(owner.patch("/v1/vms/a", {"boot": []}), 422, "invalid")
    assert cloud.domains()[vm["id"]]["boot"] == ["disk"]
    owner.post("/v1/vms/a/stop?wait=20", {"mode": "hard"}).ok()
    owner.post("/v1/vms/a/start?wait=20").ok()
    assert cloud.domains()[vm["id"]]["boot"] == ["cdrom", "disk"]
