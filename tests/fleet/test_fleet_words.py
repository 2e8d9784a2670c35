"""What people read who ask for what cannot be: over HTTP, on a whole installation."""

from __future__ import annotations

from tests.fleet.installation import Installation
from tests.fleet.tenant import Tenant, absent, refused


def test_a_filter_that_finds_nothing_by_a_typing_mistake_is_refused(cloud: Installation, tenant: Tenant) -> None:
    owner = tenant.owner
    told = refused(owner.get("/v1/vms?state=runing"), 422, "invalid")
    assert "pending, starting, running" in told["detail"]
    assert "shown while a node is silent" in refused(owner.get("/v1/vms?state=unknown"), 422, "invalid")["detail"]
    for kind, state in (("vms", "stopped"), ("ports", "active"), ("operations", "done"), ("networks", "active")):
        assert owner.get(f"/v1/{kind}?state={state}").status == 200, kind
        refused(owner.get(f"/v1/{kind}?state=bogus"), 422, "invalid")
    assert "no field 'bogus'" in refused(owner.get("/v1/networks?fields=bogus"), 422, "invalid")["detail"]
    assert owner.get("/v1/networks?fields=name").ok()["items"] == [{"name": "default"}]
    for wrong in ("-1", "0", "65537"):
        refused(owner.get(f"/v1/vms/a/console?bytes={wrong}"), 422, "invalid")


def test_a_vm_cannot_be_named_like_another_ones_id(tenant: Tenant) -> None:
    other = tenant.running("a")["id"]
    for ident in (other, absent("network"), absent("flavor")):
        assert (
            "not in the form of an id"
            in refused(tenant.owner.post("/v1/vms", tenant.wish(ident)), 422, "invalid")["detail"]
        )
        refused(tenant.owner.patch("/v1/vms/a", {"name": ident}), 422, "invalid")
    assert [v["id"] for v in tenant.owner.list("/v1/vms")] == [other]
