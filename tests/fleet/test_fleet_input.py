"""Bad input on every route of the three tables: refused with what to do, never a 500, and nothing written."""

from __future__ import annotations

from collections import Counter

import pytest

from nubila.access import policy
from nubila.api.internal.routes import ROUTES as INTERNAL
from nubila.api.operator.routes import ROUTES as OPERATOR
from nubila.api.user.routes import ROUTES as USER
from nubila.model.catalog import Plane
from tests.fleet.caller import Caller, Reply
from tests.fleet.hostile import Maker, Request
from tests.fleet.image_client import small_iso, upload
from tests.fleet.installation import PUBLIC_KEY, Installation
from tests.fleet.puppet import puppet_of
from tests.fleet.tenant import Tenant, refused

SEED = 20261121
# in use, or running already
MAY_CONFLICT = {
    "vm.eject",
    "vm.unrescue",
    "vm.rescue",
    "vm.insert",
    "vm.resume",
    "vm.unhold",
    "keypair.remove",
    "node.lose",  # it is heard
    "network.remove",
    "flavor.remove",
    "image.remove",
    "image.share",
    "project.remove",
    "vm.start",
    "volume.detach",
    "volume.remove",
    "security_group.remove",
}
ROUTES = {Plane.USER: USER, Plane.OPERATOR: OPERATOR, Plane.INTERNAL: INTERNAL}


def names_of(cloud: Installation, tenant: Tenant) -> dict[str, str]:
    """One of everything, for the addresses."""
    owner = tenant.owner
    owner.post("/v1/keypairs", {"name": "k", "public_key": PUBLIC_KEY}).ok()
    tenant.running("a")
    port = owner.post("/v1/vms/a/ports?wait=20", {"network": "default"}).ok()["port"]["id"]
    owner.post(f"/v1/ports/{port}/addresses?wait=20", {"address": "10.9.201.7"}).ok()
    own = owner.post("/v1/images", {"name": "own", "format": "raw"}).ok()["id"]
    owner.put_bytes("/v1/images/own/content", tenant.name.encode()).ok()
    owner.post("/v1/images", {"name": "disc", "format": "iso"}).ok()
    upload(owner, "disc", small_iso())
    owner.post("/v1/volumes?wait=20", {"name": "d", "size_gib": 2, "for_vm": "a"}).ok()
    owner.post("/v1/volumes/d/snapshots?wait=20", {"name": "kept"}).ok()
    return {
        "volume": "d", "snapshot": "kept", "port": port, "address": "10.9.201.7", "security_group": "default",
        "vm": "a", "keypair": "k", "network": "default", "flavor": "tiny", "image": own, "project": tenant.id, "user": tenant.user,
        "operation": owner.list("/v1/operations")[0]["id"], "plan": owner.post("/v1/vms?plan=1", tenant.wish("p")).ok()["id"],
        "operator": cloud.operator().post("/v1/operators", {"name": f"{tenant.name}-op"}).ok()["name"],
        "join_token": cloud.operator().post("/v1/join-tokens", {}).ok()["id"],
        "token": owner.list("/v1/tokens")[0]["id"], "node": cloud.operator().list("/v1/nodes")[0]["id"],
    }  # fmt: skip


def send(caller: Caller, request: Request) -> Reply:
    return caller.send(request.method, request.path, request.body, request.headers)


def check(caller: Caller, request: Request) -> int:
    """One wrong request; whatever it is answered with keeps to the promises."""
    reply = send(caller, request)
    assert "Traceback" not in reply.raw.decode(errors="replace")
    if reply.status < 400:
        assert not request.certain, (request.why, reply)
        return reply.status
    # 507 says that no node has the room; it is as final as a 4xx.
    assert reply.status < 500 or reply.slug in ("no-capacity", "no-address"), (request.why, reply)
    refused(reply, reply.status, reply.slug)
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.headers["x-request-id"] == reply.body["request_id"]
    return reply.status


@pytest.mark.parametrize(("plane", "each"), [(Plane.USER, 5), (Plane.OPERATOR, 5)])
def test_bad_input_is_refused_and_writes_nothing(cloud: Installation, tenant: Tenant, plane: Plane, each: int) -> None:
    names = names_of(cloud, tenant)
    caller = tenant.owner if plane is Plane.USER else cloud.operator()
    if plane is Plane.OPERATOR:
        names["operation"], names["plan"] = (
            names["operation"],
            caller.post("/v1/projects?plan=1", {"name": "planned"}).ok()["id"],
        )
        names["vm"] = tenant.vm("a")["id"]
        names["network"] = tenant.network_id
        for kind, path in (
            ("volume", "volumes/d"),
            ("snapshot", "snapshots/kept"),
            ("security_group", "security-groups/default"),
        ):
            names[kind] = tenant.owner.get(f"/v1/{path}").ok()["id"]
    maker = Maker(plane, ROUTES[plane], names, SEED, open_permissions=frozenset({"operator.first"}))
    with cloud.nothing_written("decision"):  # a refused placement is kept, with its numbers
        for route, request in maker.valid():  # the twin: without the spoilt part each is answered
            # one asks the agent, which rests; of each reading of the other a row is kept
            if route.permission in ("vm.console", "vm.read_user_data") or not maker.known(route):
                continue
            reply = send(caller, request)
            assert reply.status == 200 or (route.permission in MAY_CONFLICT and reply.status == 409), (
                request.why,
                reply,
            )
        answers = Counter(check(caller, request) for request in maker.wrong(each))
    assert sum(answers.values()) > 700, answers
    assert {400, 401, 404, 406, 413, 415, 422} <= set(answers), answers
    assert cloud.faults() == []
    assert tenant.owner.post("/v1/vms?plan=1", tenant.wish("z")).status == 200


def test_bad_input_of_a_node_is_refused_and_writes_nothing(cloud: Installation, tenant: Tenant) -> None:
    with puppet_of(cloud) as puppet:
        vm_id = puppet.running(tenant, "a")
        names = {"image": tenant.vm("a")["spec"]["image_id"], "question": "qst-00000000000000000000000000"}
        open_permissions = frozenset(p for p, r in policy.INTERNAL.items() if r.open)
        maker = Maker(Plane.INTERNAL, INTERNAL, names, SEED, open_permissions=open_permissions)
        with cloud.nothing_written():
            answers = Counter(check(puppet.caller, request) for request in maker.wrong(8) if request.certain)
        assert sum(answers.values()) > 100, answers
        right = puppet.as_wished(vm_id)
        # Right by its types and still nonsense: taken or refused, but never a fault, and the state stays one that can be.
        for spoilt in (
            {"generation": -1}, {"generation": (1 << 63) - 1}, {"epoch": -1}, {"starts": -5}, {"reboots": (1 << 63) - 1}, {"power": "maybe"},
            {"progress": 1e308}, {"since": "yesterday"}, {"reason": "x" * 100_000}, {"disks_ready": ["vol-x", "", "vm-1"]}, {"vm_id": "vm-\ud800"},
            {"addressed_at": ""}, {"vm_id": ""}, {"doing": "\x00"},
        ):  # fmt: skip
            reply = puppet.report({**right, **spoilt})
            assert reply.status < 500, (spoilt, reply)
        puppet.fulfil(vm_id)
        assert tenant.vm("a")["state"] == "running"
        hello = {
            "protocol": 1, "agent_version": "0", "fqdn": "f", "boot_id": "b", "kernel": "k", "cores": 64, "memory_mib": 65536, "disk_gib": 1000,
            "virt_methods": [puppet.method], "drivers": {},
        }  # fmt: skip
        for more in ({"cores": -1}, {"memory_mib": -(1 << 62)}, {"disk_gib": (1 << 63) - 1}, {"cores": (1 << 63) - 1}, {"virt_methods": ["", "x" * 5000, "A b"]},
                     {"virt_methods": ["v", "v"]}, {"drivers": {"hypervisor": {"x": {"y": [1, {"z": None}]}}}}, {"fqdn": "x" * 5000}, {"protocol": -3}):  # fmt: skip
            reply = puppet.caller.post("/internal/v1/sessions", {**hello, **more})
            assert reply.status < 500, (more, reply)
        puppet.open()
        puppet.fulfil(vm_id)
        assert cloud.faults() == []


def test_what_is_no_http_is_refused(cloud: Installation) -> None:
    """Below the routes: methods, addresses, and how much may come."""
    caller = cloud.operator()
    for method, path, status in (
        ("TRACE", "/v1/vms", 405), ("PUT", "/v1/vms", 405), ("GET", "/nothing", 404), ("GET", "/v1//vms", 404), ("GET", "/v1/vms/", 404),
        ("OPTIONS", "/v1/vms", 204), ("HEAD", "/v1/vms", 200),
    ):  # fmt: skip
        assert caller.send(method, path).status == status, (method, path)
    assert (
        caller.send("POST", "/v1/projects", b"{" + b" " * (2 << 20), {"content-type": "application/json"}).status == 413
    )
    assert caller.get("/openapi.json").ok()["openapi"].startswith("3.")
