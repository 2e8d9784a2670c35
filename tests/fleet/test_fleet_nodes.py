"""Machines come in, are looked at, and leave: approval, what a waiting one may ask, what a refused one can do."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from nubila.access.policy import EVERYBODY, INTERNAL
from nubila.api.internal.routes import ROUTES
from tests.fleet.hostile import VALID
from tests.fleet.installation import Installation, until
from tests.fleet.puppet import ROOT, Puppet
from tests.fleet.tenant import Tenant, absent, refused

# what a machine may ask before an operator has looked at it
MAY_ASK = {"session.open", "node.renew"}


@pytest.fixture
def waiting(cloud: Installation) -> Iterator[Puppet]:
    made = Puppet(cloud, approve=False)
    yield made
    made.retire()


def test_a_machine_that_waits_for_its_approval_says_what_it_is_and_asks_for_nothing(
    cloud: Installation, tenant: Tenant, waiting: Puppet
) -> None:
    tenant.running("a")
    shown = cloud.operator().get(f"/v1/nodes/{waiting.id}").ok()
    assert (shown["state"], shown["waits_for"], shown["status"]["cores"]) == (
        "enrolling",
        ["an operator's approval"],
        64,
    )
    asked = 0
    for route in ROUTES:
        if INTERNAL[route.permission].roles == EVERYBODY or route.permission in MAY_ASK:
            continue
        path = re.sub(r"\{([a-z]+)[^}]*\}", lambda m: absent(m[1]), route.path)
        reply = waiting.caller.call(route.method, path, VALID.get(route.permission))
        assert "nubila node approve" in refused(reply, 409, "not-approved")["fix"], route.path
        asked += 1
    assert asked >= 7
    wish = tenant.wish("b", virt_method=waiting.method)
    assert "short_of" in refused(tenant.owner.post("/v1/vms", wish), 507, "no-capacity")
    assert waiting.open() > 1  # it may start anew meanwhile


def test_an_approved_machine_gets_vms(cloud: Installation, tenant: Tenant, waiting: Puppet) -> None:
    operator = cloud.operator()
    assert operator.post(f"/v1/nodes/{waiting.id}/approve").ok()["state"] == "running"
    until(lambda: waiting.caller.get(f"{ROOT}/wanted?since=0&session={waiting.session}").status == 200, 3)
    waiting.revive()
    shown = operator.post(f"/v1/nodes/{waiting.id}/approve").ok()  # again: nothing to do
    assert (shown["state"], shown["generation"], "waits_for" in shown) == ("running", 2, False)
    waiting.running(tenant, "a")


def test_a_machine_that_is_not_wanted_is_retired_before_it_ever_was_a_node(cloud: Installation) -> None:
    puppet = Puppet(cloud, approve=False)
    assert cloud.operator().delete(f"/v1/nodes/{puppet.id}").ok()["state"] == "retired"
    until(lambda: puppet.caller.get(f"{ROOT}/wanted?since=0&session={puppet.session}").status == 401, 3)
    refused(cloud.operator().post(f"/v1/nodes/{puppet.id}/approve"), 404, "not-found")
