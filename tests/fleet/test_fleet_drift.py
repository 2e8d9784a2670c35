"""The drift ledger through the API: what a node says of itself, who may see it, and what operators do about it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.fleet.installation import Installation
from tests.fleet.puppet import ROOT, Puppet, puppet_of
from tests.fleet.tenant import Tenant


@pytest.fixture
def puppet(cloud: Installation) -> Iterator[Puppet]:
    with puppet_of(cloud) as made:
        yield made


def said(puppet: Puppet, *drifts: dict[str, Any]) -> None:
    body = {"session": puppet.session, "fabric_epoch": 1, "revision": 0, "vms": [], "drifts": list(drifts)}
    puppet.caller.post(f"{ROOT}/reports", body).ok()


def of(vm_id: str, **more: str) -> dict[str, Any]:
    fields = {"kind": "domain", "thing": f"{vm_id}.e1", "field": "cores", "wished": "1", "observed": "2"}
    return {**fields, "cause": "changed-outside", "vm_id": vm_id, **more}


FOREIGN = {
    "kind": "domain", "thing": "theirs", "field": "there", "wished": "", "observed": "there", "cause": "foreign",
}  # fmt: skip


def test_operators_see_repair_adopt_and_ignore_and_tenants_see_nothing(
    cloud: Installation, tenant: Tenant, puppet: Puppet
) -> None:
    operator = cloud.operator()
    vm_id = puppet.running(tenant, "web")
    said(puppet, of(vm_id), FOREIGN)
    lines = {d["status"]["thing"]: d for d in operator.list(f"/v1/drifts?node={puppet.id}")}
    assert set(lines) == {f"{vm_id}.e1", "theirs"}
    web, theirs = lines[f"{vm_id}.e1"], lines["theirs"]
    assert (web["vm"], web["state"], web["status"]["wished"], web["status"]["observed"]) == ("web", "open", "1", "2")
    assert tenant.owner.get("/v1/drifts").status == 404
    assert "drift" not in str(tenant.owner.get("/v1/changes?limit=1000").ok())

    refused = operator.post(f"/v1/drifts/{theirs['id']}/repair")
    assert (refused.status, refused.body["slug"]) == (409, "conflict")
    assert "never touched" in refused.body["detail"]
    assert refused.body["fix"]
    ignored = operator.post(f"/v1/drifts/{theirs['id']}/ignore", {"hours": 1, "reason": "known"}).ok()
    assert ignored["state"] == "ignored"
    assert [d["id"] for d in operator.list("/v1/drifts?cause=foreign&state=ignored")] == [theirs["id"]]
    assert operator.delete(f"/v1/drifts/{theirs['id']}/ignore").ok()["state"] == "open"

    planned = operator.post(f"/v1/drifts/{web['id']}/repair?plan=1").ok()
    assert planned["effects"][0]["details"]["repairs"]["was"] == 0
    assert puppet.wish(vm_id).get("repairs", 0) == 0
    op = operator.post(f"/v1/drifts/{web['id']}/repair").ok()["operation"]
    number = puppet.wish(vm_id)["repairs"]
    assert planned["effects"][0]["details"]["repairs"]["becomes"] == number > 0
    assert puppet.report(puppet.as_wished(vm_id)).ok()["taken"] == 1  # the new wish is known, not yet carried out
    assert operator.get(f"/v1/operations/{op['id']}").ok()["state"] == "running"
    assert puppet.report(puppet.as_wished(vm_id, repairs=number)).ok()["taken"] == 1
    assert operator.get(f"/v1/operations/{op['id']}").ok()["state"] == "done"

    adopted = operator.post(f"/v1/drifts/{web['id']}/adopt").ok()["operation"]
    assert puppet.wish(vm_id)["cores"] == 2
    assert puppet.report(puppet.as_wished(vm_id, repairs=puppet.wish(vm_id)["repairs"])).ok()["taken"] == 1
    assert operator.get(f"/v1/operations/{adopted['id']}").ok()["state"] == "done"
    said(puppet)
    assert operator.list(f"/v1/drifts?node={puppet.id}") == []
    assert operator.post(f"/v1/drifts/{web['id']}/repair").status == 404


@pytest.mark.parametrize(
    "wrong",
    [
        {"cause": "because"}, {"thing": "x" * 2000}, {"field": 7}, {"kind": None}, {"vm_id": "vm-nonsense"},
        {"observed": "\x00"},
    ],
    ids=lambda w: next(iter(w)),
)  # fmt: skip
def test_what_a_node_says_wrongly_breaks_nothing(
    cloud: Installation, tenant: Tenant, puppet: Puppet, wrong: dict[str, Any]
) -> None:
    vm_id = puppet.running(tenant, "web")
    body = {
        "session": puppet.session, "fabric_epoch": 1, "revision": 0, "vms": [], "drifts": [{**of(vm_id), **wrong}],
    }  # fmt: skip
    assert puppet.caller.post(f"{ROOT}/reports", body).status < 500
    said(puppet)
    assert cloud.operator().list(f"/v1/drifts?node={puppet.id}") == []
