"""For each route that can be planned: a case that makes what the call needs, and calls it with random arguments.

A route without a case fails the test that reads this table, so a new verb comes with its case.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.fleet.caller import Caller
from tests.fleet.puppet import Puppet
from tests.fleet.rig import Rig

Made = tuple[str, Any]  # the path, and the body


def vm_create(r: Rig) -> Made:
    body = r.tenant.wish(r.name(), labels=r.labels(), **r.some(power=r.draw.choice(("on", "off")), disk_gib=r.draw.randrange(1, 9),
                         hostname=r.name(), user_data=r.text(), zone="default", boot_string=r.draw.choice(("", "b"))))  # fmt: skip
    return "/v1/vms", body


def vm_change(r: Rig) -> Made:
    size = {"cores": r.draw.randrange(1, 4), "memory_mib": r.draw.choice((64, 128, 192))}
    return f"/v1/vms/{r.vm()}", r.some(
        name=r.name(), labels={"n": r.name()}, on_crash="stop", protected=True, boot=["cdrom", "disk"], **size
    )


def vm_remove(r: Rig) -> Made:
    name = r.vm(*r.draw.choice(((), ("stop",), ("suspend",), ("insert",))))
    if r.draw.random() < 0.5:
        r.volume(name)
    return f"/v1/vms/{name}", None


def port_change(r: Rig) -> Made:
    name = r.vm()
    port = next(p["id"] for p in r.owner.list("/v1/ports?limit=1000") if p["name"].startswith(name))
    return f"/v1/ports/{port}", r.some(
        security_groups=[r.used_group()], in_kbit=r.draw.randrange(100, 9000), out_kbit=r.draw.randrange(100, 9000)
    )


def second_port(r: Rig) -> Made:
    return f"/v1/vms/{r.vm()}/ports", {
        "network": r.network(),
        **r.some(security_groups=[r.used_group()], in_kbit=1000, out_kbit=1000),
    }


def port_remove(r: Rig) -> Made:
    path, body = second_port(r)
    return f"/v1/ports/{r.owner.post(f'{path}?wait=20', body).ok()['port']['id']}", None


def address_assign(r: Rig) -> Made:
    path, _ = port_change(r)
    return f"{path}/addresses", r.draw.choice(({}, {"family": 4}, {"family": 6}))


def address_unassign(r: Rig) -> Made:
    path, body = address_assign(r)
    before = set(r.owner.get(path.removesuffix("/addresses")).ok()["addresses"])
    r.owner.post(f"{path}?wait=20", body).ok()
    after = set(r.owner.get(path.removesuffix("/addresses")).ok()["addresses"])
    return f"{path}/{(after - before).pop()}", None


def volume_create(r: Rig) -> Made:
    kind = r.draw.randrange(4)
    more: dict[str, Any] = (
        {},
        {"image": "mini"},
        {"source": r.volume()} if kind == 2 else {},
        {"for_vm": r.vm()} if kind == 3 else {},
    )[kind]
    return "/v1/volumes", {"name": r.name(), "size_gib": r.draw.randrange(1, 9), "labels": r.labels(), **more}


def volume_change(r: Rig) -> Made:
    name = r.volume(r.vm() if r.draw.random() < 0.5 else None)
    return f"/v1/volumes/{name}", r.some(
        name=r.name(), labels={"n": r.name()}, size_gib=r.draw.randrange(2, 6), limits={"read_iops": r.draw.randrange(1, 999)},
        cache=r.draw.choice(("none", "writethrough")), remove_with_vm=True,
    )  # fmt: skip


def volume_roll_back(r: Rig) -> Made:
    vm = r.vm("stop") if r.draw.random() < 0.5 else None
    name = r.volume(vm)
    return f"/v1/volumes/{name}/roll-back", {"snapshot": r.snapshot(name)["name"]}


def share(r: Rig, caller: Caller, present: bool) -> Made:
    path = f"/v1/images/{r.image(caller, public=False)}/shares/{r.other.id}"
    if present:
        caller.put(path, {"right": "use"}).ok()
    return path, None if present else {"right": "use"}


def quota(r: Rig) -> Made:
    classes = r.draw.sample(("vms", "cores", "memory_mib", "volumes", "disk_gib", "networks"), 2)
    return f"/v1/projects/{r.other.name}/quota", {"quota": {c: r.draw.randrange(1, 1 << 40) for c in classes}}


def member(r: Rig, present: bool) -> Made:
    path = f"/v1/projects/{r.other.name}/members/{r.user()}"
    if present:
        r.operator.put(path, {"role": "reader"}).ok()
        if r.draw.random() < 0.5:
            name = path.rpartition("/")[2]
            r.operator.post(f"/v1/users/{name}/tokens", {"name": "t", "project": r.other.name}).ok()
    return path, {"role": r.draw.choice(("owner", "member", "reader"))}


def keypair(r: Rig) -> Made:
    name = r.name()
    r.owner.post("/v1/keypairs", {"name": name, "public_key": r.key()}).ok()
    return f"/v1/keypairs/{name}", None


def operator_remove(r: Rig) -> Made:
    return f"/v1/operators/{r.operator.post('/v1/operators', {'name': r.name()}).ok()['name']}", None


def user_remove(r: Rig) -> Made:
    return f"/v1/users/{member(r, True)[0].rpartition('/')[2]}", None


def project_remove(r: Rig) -> Made:
    return f"/v1/projects/{r.operator.post('/v1/projects', {'name': r.name()}).ok()['name']}", None


def flavor(r: Rig) -> Made:
    body = {
        "name": r.name(),
        "cores": r.draw.randrange(1, 9),
        "memory_mib": r.draw.randrange(16, 4096),
        "disk_gib": r.draw.randrange(1, 99),
    }
    return "/v1/flavors", body | {"labels": r.labels()}


def flavor_remove(r: Rig) -> Made:
    return f"/v1/flavors/{r.operator.post(*flavor(r)).ok()['name']}", None


def join_token_remove(r: Rig) -> Made:
    r.operator.post("/v1/join-tokens", {}).ok()
    return f"/v1/join-tokens/{r.operator.list('/v1/join-tokens')[-1]['id']}", None


def node_change(r: Rig) -> Made:
    labels = {"n": r.name()}
    r.operator.patch(f"/v1/nodes/{r.puppet.id}", {"maintenance": False}).ok()
    return f"/v1/nodes/{r.puppet.id}", r.some(
        labels=labels,
        reserved_memory_mib=r.draw.randrange(1, 99),
        cpu_overcommit=r.draw.choice((3.0, 4.0)),
        zone=r.name(),
        rack=r.draw.choice(("", "r1")),
    )


def node_retire(r: Rig) -> Made:
    spare = Puppet(r.cloud)
    spare.retire()
    return f"/v1/nodes/{spare.id}", None


def node_approve(r: Rig) -> Made:
    return f"/v1/nodes/{Puppet(r.cloud, approve=False).id}/approve", None


def node_away(word: str) -> Case:
    def case(r: Rig) -> Made:
        spare = Puppet(r.cloud)
        if r.draw.random() < 0.3:
            r.operator.post(f"/v1/nodes/{spare.id}/{r.draw.choice(('drain', 'maintenance'))}", {}).ok()
        return f"/v1/nodes/{spare.id}/{word}", {"reason": r.text()}

    return case


def node_return(r: Rig) -> Made:
    return f"{node_away('drain')(r)[0].rpartition('/')[0]}/return", None


def node_lost(r: Rig) -> Made:
    spare = Puppet(r.cloud)
    spare.silent_for(r.draw.randrange(100, 9999))
    return f"/v1/nodes/{spare.id}/lost", {"reason": r.text()}


def ignored(r: Rig) -> Made:
    found = r.drift()
    r.operator.post(f"/v1/drifts/{found}/ignore", {"hours": 1, "reason": "r"}).ok()
    return f"/v1/drifts/{found}/ignore", None


def network_remove(r: Rig) -> Made:
    return f"/v1/networks/{r.network()}", None


def of_vm(word: str, *then: str, body: Callable[[Rig], Any] = lambda _: None) -> Callable[[Rig], Made]:
    return lambda r: (f"/v1/vms/{r.owner.get('/v1/vms/' + r.vm(*then)).ok()['id']}{word}", body(r))


def held(r: Rig) -> Made:
    name = r.vm()
    r.owner.post(f"/v1/vms/{name}/hold", {"reason": r.text()}).ok()
    return f"/v1/vms/{r.owner.get('/v1/vms/' + name).ok()['id']}/unhold", None


Case = Callable[[Rig], Made]
hold: Case = of_vm("/hold", body=lambda r: {"reason": r.text()})
stop: Case = of_vm(
    "/stop", body=lambda r: {"mode": r.draw.choice(("clean", "hard")), "timeout_s": r.draw.randrange(1, 60)}
)
reboot: Case = of_vm("/reboot", body=lambda r: {"timeout_s": r.draw.randrange(1, 60)})
start: Case = of_vm("/start", "stop")
cancel: Case = lambda r: (f"/v1/operations/{r.waiting()}/cancel", None)  # noqa: E731

USER: dict[str, Case] = {
    "POST /v1/vms": vm_create,
    "PATCH /v1/vms/{vm}": vm_change,
    "DELETE /v1/vms/{vm}": vm_remove,
    "POST /v1/vms/{vm}/start": start,
    "POST /v1/vms/{vm}/stop": stop,
    "POST /v1/vms/{vm}/reboot": reboot,
    "POST /v1/vms/{vm}/reset": of_vm("/reset"),
    "POST /v1/vms/{vm}/suspend": of_vm("/suspend"),
    "POST /v1/vms/{vm}/resume": of_vm("/resume", "suspend"),
    "POST /v1/vms/{vm}/insert": of_vm("/insert", body=lambda _: {"image": "disc"}),
    "POST /v1/vms/{vm}/eject": of_vm("/eject", "insert"),
    "POST /v1/vms/{vm}/rescue": of_vm("/rescue", "stop", body=lambda _: {"image": "disc"}),
    "POST /v1/vms/{vm}/unrescue": of_vm("/unrescue", "stop", "rescue", "stop"),
    "POST /v1/vms/{vm}/hold": hold,
    "POST /v1/vms/{vm}/unhold": held,
    "POST /v1/operations/{operation}/cancel": cancel,
    "POST /v1/keypairs": lambda r: ("/v1/keypairs", {"name": r.name(), "public_key": r.key(), "labels": r.labels()}),
    "DELETE /v1/keypairs/{keypair}": keypair,
    "POST /v1/images": lambda r: ("/v1/images", {"name": r.name(), "format": r.draw.choice(("raw", "qcow2", "iso")), "labels": r.labels()}),
    "PUT /v1/images/{image}/shares/{project}": lambda r: share(r, r.owner, False),
    "DELETE /v1/images/{image}/shares/{project}": lambda r: share(r, r.owner, True),
    "DELETE /v1/images/{image}": lambda r: (f"/v1/images/{r.image(r.owner)}", None),
    "POST /v1/networks": lambda r: ("/v1/networks", {"name": r.name(), "subnets": r.subnets(), "mtu": r.draw.randrange(1280, 1501)}),
    "DELETE /v1/networks/{network}": network_remove,
    "POST /v1/security-groups": lambda r: ("/v1/security-groups", {"name": r.name(), "rules": r.rules(), "description": r.text()}),
    "PATCH /v1/security-groups/{security_group}": lambda r: (f"/v1/security-groups/{r.group()}", r.some(name=r.name(), rules=[*r.rules(), {"direction": "out"}], description=r.text())),
    "DELETE /v1/security-groups/{security_group}": lambda r: (f"/v1/security-groups/{r.group()}", None),
    "POST /v1/vms/{vm}/ports": second_port,
    "PATCH /v1/ports/{port}": port_change,
    "DELETE /v1/ports/{port}": port_remove,
    "POST /v1/ports/{port}/addresses": address_assign,
    "DELETE /v1/ports/{port}/addresses/{address}": address_unassign,
    "POST /v1/volumes": volume_create,
    "PATCH /v1/volumes/{volume}": volume_change,
    "DELETE /v1/volumes/{volume}": lambda r: (f"/v1/volumes/{r.volume()}", None),
    "POST /v1/volumes/{volume}/attach": lambda r: (lambda vm: (f"/v1/volumes/{r.volume(for_vm=vm)}/attach", {"vm": vm}))(r.vm(*r.draw.choice(((), ("stop",))))),
    "POST /v1/volumes/{volume}/detach": lambda r: (f"/v1/volumes/{r.volume(r.vm(*r.draw.choice(((), ('stop',)))))}/detach", None),
    "POST /v1/volumes/{volume}/roll-back": volume_roll_back,
    "POST /v1/volumes/{volume}/snapshots": lambda r: (f"/v1/volumes/{r.volume(r.vm() if r.draw.random() < 0.5 else None)}/snapshots", {"name": r.name(), "labels": r.labels()}),
    "DELETE /v1/snapshots/{snapshot}": lambda r: (f"/v1/snapshots/{r.snapshot(r.volume())['id']}", None),
    "DELETE /v1/tokens/{token}": lambda r: (f"/v1/tokens/{r.token()}", None),
}  # fmt: skip

OPERATOR: dict[str, Case] = {
    "POST /v1/operators": lambda r: ("/v1/operators", {"name": r.name(), "email": "a@b", "labels": r.labels()}),
    "DELETE /v1/operators/{operator}": operator_remove,
    "POST /v1/projects": lambda r: ("/v1/projects", {"name": r.name(), "description": r.text(), "labels": r.labels()}),
    "PATCH /v1/projects/{project}": lambda r: (project_remove(r)[0], r.some(name=r.name(), description=r.text(), suspended=True)),
    "DELETE /v1/projects/{project}": project_remove,
    "PUT /v1/projects/{project}/quota": quota,
    "PUT /v1/projects/{project}/members/{user}": lambda r: member(r, r.draw.random() < 0.5),
    "DELETE /v1/projects/{project}/members/{user}": lambda r: (member(r, True)[0], None),
    "POST /v1/users": lambda r: ("/v1/users", {"name": r.name(), "labels": r.labels()}),
    "PATCH /v1/users/{user}": lambda r: (f"/v1/users/{r.user()}", r.some(email=f"{r.name()}@b", suspended=True)),
    "DELETE /v1/users/{user}": user_remove,
    "DELETE /v1/tokens/{token}": lambda r: (f"/v1/tokens/{r.token()}", None),
    "POST /v1/flavors": flavor,
    "DELETE /v1/flavors/{flavor}": flavor_remove,
    "POST /v1/images": lambda r: ("/v1/images", {"name": r.name(), "format": "raw", "public": r.draw.random() < 0.5, "labels": r.labels()}),
    "PUT /v1/images/{image}/shares/{project}": lambda r: share(r, r.operator, False),
    "DELETE /v1/images/{image}/shares/{project}": lambda r: share(r, r.operator, True),
    "DELETE /v1/images/{image}": lambda r: (f"/v1/images/{r.image(r.operator)}", None),
    "DELETE /v1/join-tokens/{join_token}": join_token_remove,
    "PATCH /v1/nodes/{node}": node_change,
    "POST /v1/nodes/{node}/approve": node_approve,
    "POST /v1/nodes/{node}/drain": node_away("drain"),
    "POST /v1/nodes/{node}/maintenance": node_away("maintenance"),
    "POST /v1/nodes/{node}/return": node_return,
    "POST /v1/nodes/{node}/lost": node_lost,
    "DELETE /v1/nodes/{node}": node_retire,
    "POST /v1/drifts/{drift}/repair": lambda r: (f"/v1/drifts/{r.drift()}/repair", None),
    "POST /v1/drifts/{drift}/adopt": lambda r: (f"/v1/drifts/{r.drift()}/adopt", None),
    "POST /v1/drifts/{drift}/ignore": lambda r: (f"/v1/drifts/{r.drift()}/ignore", {"hours": r.draw.randrange(1, 99), "reason": r.text()}),
    "DELETE /v1/drifts/{drift}/ignore": ignored,
    "POST /v1/vms/{vm}/hold": hold,
    "POST /v1/vms/{vm}/unhold": held,
    "DELETE /v1/vms/{vm}": of_vm(""),
    "POST /v1/vms/{vm}/start": start,
    "POST /v1/vms/{vm}/stop": stop,
    "POST /v1/vms/{vm}/reboot": reboot,
    "DELETE /v1/networks/{network}": lambda r: (f"/v1/networks/{r.owner.get(network_remove(r)[0]).ok()['id']}", None),
    "POST /v1/operations/{operation}/cancel": cancel,
}  # fmt: skip

# What writes and takes no plan, with the reason. Each is asked for a plan all the same, and refuses.
UNPLANNED: dict[str, str] = {
    "plan.remove": "it is about a plan",
    "plan.apply": "it is the plan's end",
    "image.upload": "bytes come in while it goes on",
    "token.create": "its secret is shown once, in the answer",
    "join_token.create": "its secret is shown once, in the answer",
    "operator.first": "it happens once, before there is anyone to plan",
}
