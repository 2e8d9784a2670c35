"""Who may do what: two projects that learn nothing of each other, planes that refuse each other's tokens, roles, revocation."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from nubila.access import policy
from nubila.api.internal.routes import ROUTES as INTERNAL
from nubila.api.operator.routes import ROUTES as OPERATOR
from nubila.api.route import Route
from nubila.api.user.routes import ROUTES as USER
from nubila.model import ids
from nubila.model.catalog import Plane
from tests.fleet.caller import Caller, Reply
from tests.fleet.installation import PUBLIC_KEY, Installation, until
from tests.fleet.puppet import puppet_of
from tests.fleet.tenant import Tenant, absent, refused

# a valid body for every write, so that only the object it is about is wrong
BODIES: dict[str, object] = {
    "vm.insert": {"image": "mini"}, "vm.rescue": {"image": "mini"}, "vm.hold": {"reason": "why"}, "vm.change": {"labels": {"a": "b"}}, "vm.stop": {"mode": "hard"}, "vm.reboot": {}, "project.change": {"description": "x"},
    "security_group.change": {"description": "x"}, "port.change": {"in_kbit": 1000}, "port.create": {"network": "default"}, "port.assign": {}, "volume.change": {"labels": {"a": "b"}},
    "volume.attach": {"vm": "a"}, "volume.roll-back": {"snapshot": "kept"}, "snapshot.create": {"name": "s"}, "image.share": {"right": "use"},
    "quota.change": {"quota": {"vms": 3}}, "member.change": {"role": "reader"}, "user.change": {"email": "x@y"}, "node.change": {"labels": {"a": "b"}},
}  # fmt: skip
MINE, FOREIGN = "mine", "foreign"


@pytest.fixture(scope="module")
def pair(cloud: Installation) -> dict[str, Tenant]:
    """Two projects with one of everything, under the same names."""
    both = {MINE: Tenant(cloud), FOREIGN: Tenant(cloud)}
    for tenant in both.values():
        tenant.owner.post("/v1/keypairs", {"name": "k", "public_key": PUBLIC_KEY}).ok()
        tenant.running("a", user_data="x")
        tenant.owner.post("/v1/volumes?wait=20", {"name": "d", "size_gib": 1, "for_vm": "a"}).ok()
        tenant.owner.post("/v1/volumes/d/snapshots?wait=20", {"name": "kept"}).ok()
    return both


def belongings(tenant: Tenant) -> dict[str, str]:
    """kind -> the id of one that the project has."""
    owner = tenant.owner
    found = {
        kind: owner.list(f"/v1/{kind}s")[0]["id"]
        for kind in ("vm", "keypair", "network", "operation", "token", "port", "volume", "snapshot")
    }
    found["security_group"] = owner.list("/v1/security-groups")[0]["id"]
    found["plan"] = owner.post("/v1/vms?plan=1", tenant.wish("planned")).ok()["id"]
    return found


def same(a: Reply, b: Reply, id_a: str, id_b: str) -> bool:
    """Equal but for the id that was asked for and the number of the request."""
    texts = [re.sub(r"req-[0-9a-z-]+", "REQ", r.raw.decode().replace(i, "ID")) for r, i in ((a, id_a), (b, id_b))]
    headers = [
        {k: v for k, v in r.headers.items() if k not in ("x-request-id", "date", "content-length")} for r in (a, b)
    ]
    return (a.status, texts[0], headers[0]) == (b.status, texts[1], headers[1])


def with_ids(routes: tuple[Route, ...]) -> list[tuple[Route, str]]:
    """Routes about one object, with the kind of it. Flavors and images are everybody's."""
    return [(r, m[1]) for r in routes if (m := re.search(r"\{([a-z_]+)", r.path))]


@pytest.mark.parametrize(
    ("route", "kind"),
    [pytest.param(r, k, id=f"{r.method} {r.path}") for r, k in with_ids(USER) if k not in ("flavor", "image")],
)
def test_a1_a_foreign_id_is_answered_as_an_absent_one(pair: dict[str, Tenant], route: Route, kind: str) -> None:
    foreign_id, own_id = belongings(pair[FOREIGN])[kind], belongings(pair[MINE])[kind]
    path = re.sub(r"\{[^}]*\}", "{}", route.path)
    body = BODIES.get(route.permission)

    def ask(object_id: str) -> Reply:
        return pair[MINE].owner.call(route.method, path.format(object_id, "10.9.200.9"), body)

    foreign, none = ask(foreign_id), ask(absent(kind))
    refused(foreign, 404, "not-found")
    assert same(foreign, none, foreign_id, absent(kind)), (foreign, none)
    if not route.writes:
        assert ask(own_id).status == 200


def test_a1_foreign_objects_stay_as_they_are(pair: dict[str, Tenant]) -> None:
    """The other half of the matrix: after all of the above the foreign project lacks nothing."""
    tenant = pair[FOREIGN]
    assert tenant.vm("a")["state"] == "running"
    assert [len(tenant.owner.list(f"/v1/{k}")) for k in ("keypairs", "networks", "tokens", "volumes", "snapshots")] == [
        1,
        1,
        1,
        2,
        1,
    ]


@pytest.mark.parametrize(
    ("field", "kind", "many"),
    [("networks", "network", True), ("keys", "keypair", True), ("flavor", "flavor", False), ("image", "image", False)],
)
def test_a2_a_foreign_id_in_a_body_is_answered_as_an_absent_one(
    cloud: Installation, pair: dict[str, Tenant], field: str, kind: str, many: bool
) -> None:
    tenant = pair[MINE]
    if kind == "image":
        name = f"private-{tenant.name}"
        foreign_id = cloud.operator().post("/v1/images", {"name": name, "format": "raw", "public": False}).ok()["id"]
    elif kind == "flavor":
        foreign_id = (
            cloud.operator()
            .post("/v1/flavors", {"name": f"gone-{tenant.name}", "cores": 1, "memory_mib": 64, "disk_gib": 1})
            .ok()["id"]
        )
        cloud.operator().delete(f"/v1/flavors/{foreign_id}").ok()
    else:
        foreign_id = belongings(pair[FOREIGN])[kind]

    def ask(object_id: str) -> Reply:
        return tenant.owner.post("/v1/vms?plan=1", tenant.wish("b", **{field: [object_id] if many else object_id}))

    foreign, none = ask(foreign_id), ask(absent(kind))
    refused(foreign, 422, "invalid")
    assert same(foreign, none, foreign_id, absent(kind)), (foreign, none)
    own = (
        belongings(tenant)[kind]
        if many
        else tenant.owner.list(f"/v1/{kind}s?name={'tiny' if kind == 'flavor' else 'mini'}")[0]["id"]
    )
    assert ask(own).status == 200


def test_a2_foreign_ids_in_queries_and_cursors_show_nothing(pair: dict[str, Tenant]) -> None:
    mine, foreign = pair[MINE].owner, belongings(pair[FOREIGN])
    assert mine.list(f"/v1/operations?resource={foreign['vm']}") == []
    assert mine.get(f"/v1/changes?object={foreign['vm']}").ok()["items"] == []
    seen = mine.get("/v1/changes?limit=1000").raw.decode()
    assert belongings(pair[MINE])["vm"] in seen
    for object_id in (*foreign.values(), pair[FOREIGN].id):
        assert object_id not in seen
    link = pair[FOREIGN].owner.get("/v1/vms?limit=1").ok()["next"]
    assert link is None
    assert refused(mine.get("/v1/vms?node=n1"), 422, "invalid")["field"] == "node"


def test_a_removed_object_is_answered_as_one_that_never_was(pair: dict[str, Tenant]) -> None:
    tenant = pair[MINE]
    vm = tenant.running("short")
    tenant.owner.delete("/v1/vms/short?wait=20").ok()
    for method, path, body in (
        ("GET", "", None),
        ("DELETE", "", None),
        ("PATCH", "", {}),
        ("POST", "/start", None),
        ("GET", "/placement", None),
        ("GET", "/console", None),
    ):
        gone, none = (tenant.owner.call(method, f"/v1/vms/{i}{path}", body) for i in (vm["id"], absent("vm")))
        assert same(gone, none, vm["id"], absent("vm")), (gone, none)
        refused(gone, 404, "not-found")


def test_a_private_image_is_seen_by_operators_only(cloud: Installation, pair: dict[str, Tenant]) -> None:
    operator, owner = cloud.operator(), pair[MINE].owner
    made = operator.post("/v1/images", {"name": f"hidden-{pair[MINE].name}", "format": "raw", "public": False}).ok()
    operator.put_bytes(f"/v1/images/{made['id']}/content", b"p" * 512).ok()
    foreign, none = owner.get(f"/v1/images/{made['id']}"), owner.get(f"/v1/images/{absent('image')}")
    assert same(foreign, none, made["id"], absent("image"))
    assert made["id"] not in [i["id"] for i in owner.list("/v1/images")]
    assert operator.get(f"/v1/images/{made['id']}").ok()["state"] == "ready"


def test_tokens_of_one_project_are_each_users_own(pair: dict[str, Tenant]) -> None:
    """Two people of one project with tokens of the same name."""
    tenant = pair[MINE]
    other = tenant.cloud.caller("user", tenant.person(f"{tenant.name}-second", "owner"))
    (own,) = other.list("/v1/tokens")
    (foreign,) = tenant.owner.list("/v1/tokens")
    one, none = other.delete(f"/v1/tokens/{foreign['id']}"), other.delete(f"/v1/tokens/{absent('token')}")
    assert same(one, none, foreign["id"], absent("token")), (one, none)
    third = tenant.cloud.caller("user", other.post("/v1/tokens", {"name": "u"}).ok()["secret"])
    assert third.delete("/v1/tokens/t").ok()["id"] == own["id"]  # its own, though the other has one of that name
    assert tenant.owner.get("/v1/me").status == 200
    for _ in range(2):
        third.post("/v1/tokens", {"name": "twice"}).ok()
    refused(third.delete("/v1/tokens/twice"), 409, "conflict")


# --- planes


def routes_of(plane: Plane) -> Iterator[Route]:
    for route in {Plane.USER: USER, Plane.OPERATOR: OPERATOR, Plane.INTERNAL: INTERNAL}[plane]:
        if not policy.rule(plane, route.permission).open:
            yield route


@pytest.mark.parametrize("plane", list(Plane))
def test_a4_tokens_of_another_plane_are_refused_on_every_route(
    cloud: Installation, tenant: Tenant, plane: Plane
) -> None:
    tokens = {Plane.USER: tenant.token, Plane.OPERATOR: cloud.operator_token, None: None}
    wrong = {k: v for k, v in tokens.items() if k is not plane}
    count = 0
    for route in routes_of(plane):
        path = re.sub(r"\{[^}]*\}", "x", route.path)
        for token in wrong.values():
            reply = cloud.caller(plane.value, token).call(route.method, path, BODIES.get(route.permission))
            refused(reply, 401, "unauthenticated")
            assert reply.headers["www-authenticate"].startswith("Bearer")
            count += 1
        if plane is not Plane.INTERNAL and not route.writes:
            assert cloud.caller(plane.value, tokens[plane]).call(route.method, path).status != 401
    assert count >= 10


def test_a4_nothing_listens_but_the_listeners(cloud: Installation) -> None:
    """Every port that a process of the installation listens on is one of the settings."""
    listening: dict[str, int] = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                listening[fields[9]] = int(fields[1].rpartition(":")[2], 16)
    for name, process in cloud.processes.items():
        links = [p.readlink() for p in Path(f"/proc/{process.pid}/fd").iterdir()]
        inodes = [str(x)[8:-1] for x in links if str(x).startswith("socket:[")]
        assert sorted(listening[i] for i in inodes if i in listening) == sorted(cloud.ports.get(name, []))


# --- roles and revocation


def test_a_reader_reads_and_writes_nothing(cloud: Installation, tenant: Tenant) -> None:
    tenant.running("a")
    reader = cloud.caller("user", tenant.person(f"{tenant.name}-reader", "reader"))
    member = cloud.caller("user", tenant.person(f"{tenant.name}-member", "member"))
    checked = 0
    with cloud.nothing_written():
        for route in USER:
            path = re.sub(r"\{[^}]*\}", "a", route.path)
            if "reader" not in policy.rule(Plane.USER, route.permission).roles:
                told = refused(reader.call(route.method, path, BODIES.get(route.permission)), 403, "forbidden")
                assert told["role"] == "reader"
                checked += 1
            elif not route.writes and "{" not in path:
                assert reader.call(route.method, path).status in (200, 404)
    assert checked >= 12
    assert reader.get("/v1/vms/a").status == 200
    refused(reader.post("/v1/tokens", {"name": "more", "role": "member"}), 403, "forbidden")
    assert reader.post("/v1/tokens", {"name": "less"}).ok()["token"]["spec"]["role"] == "reader"
    assert member.post("/v1/vms/a/stop?wait=20", {"mode": "hard"}).status == 202


def both(tenant: Tenant, token: str) -> list[Caller]:
    return [tenant.cloud.caller("user", token, f) for f in ("front1", "front2")]


def all_answer(callers: list[Caller], status: int) -> bool:
    return all(c.get("/v1/me").status == status for c in callers)


def test_a_revoked_token_is_refused_everywhere_within_2_s(tenant: Tenant) -> None:
    made = tenant.owner.post("/v1/tokens", {"name": "short"}).ok()
    callers = both(tenant, made["secret"])
    assert [c.get("/v1/me").status for c in callers] == [200, 200]
    tenant.owner.delete(f"/v1/tokens/{made['token']['id']}").ok()
    until(partial(all_answer, callers, 401), 2.0, 0.1)
    assert tenant.owner.get("/v1/me").status == 200
    expiring = tenant.owner.post("/v1/tokens", {"name": "soon", "expires_in_s": 60}).ok()
    assert tenant.cloud.caller("user", expiring["secret"]).get("/v1/me").status == 200
    text = "update token set spec = jsonb_set(spec, '{expires_at}', to_jsonb((now() - interval '1 s')::text)) where id = $1"
    tenant.cloud.sql(text, ids.parse("token", expiring["token"]["id"]))
    until(lambda: tenant.cloud.caller("user", expiring["secret"]).get("/v1/me").status == 401, 2.0, 0.1)


def test_a_suspended_user_is_refused_until_that_is_lifted(cloud: Installation, tenant: Tenant) -> None:
    callers = both(tenant, tenant.token)
    for suspended, status in ((True, 401), (False, 200)):
        cloud.operator().patch(f"/v1/users/{tenant.user}", {"suspended": suspended}).ok()
        until(partial(all_answer, callers, status), 2.0, 0.1)


def test_a_lowered_role_binds_tokens_that_exist(cloud: Installation, tenant: Tenant) -> None:
    assert tenant.owner.post("/v1/vms?plan=1", tenant.wish("a")).status == 200
    cloud.operator().put(f"/v1/projects/{tenant.name}/members/{tenant.user}", {"role": "reader"}).ok()
    until(
        lambda: all(c.post("/v1/vms?plan=1", tenant.wish("a")).status == 403 for c in both(tenant, tenant.token)),
        2.0,
        0.1,
    )
    assert tenant.owner.get("/v1/vms").status == 200


def test_a_suspended_project_keeps_what_it_has_and_gets_nothing_new(cloud: Installation, tenant: Tenant) -> None:
    vm = tenant.running("a")
    news = [
        ("/v1/vms", tenant.wish("b")), ("/v1/networks", {"name": "n2", "subnets": [{"cidr": "10.8.0.0/24"}]}),
        ("/v1/keypairs", {"name": "k", "public_key": PUBLIC_KEY}),
    ]  # fmt: skip
    cloud.operator().patch(f"/v1/projects/{tenant.name}", {"suspended": True}).ok()
    for path, body in news:
        refused(tenant.owner.post(path, body), 403, "forbidden")
    assert tenant.vm("a")["state"] == "running"
    assert cloud.domains()[vm["id"]]["running"]
    assert tenant.owner.post("/v1/vms/a/stop?wait=20", {"mode": "hard"}).ok()["vm"]["state"] == "stopped"
    cloud.operator().patch(f"/v1/projects/{tenant.name}", {"suspended": False}).ok()
    for path, body in news:
        assert tenant.owner.post(path, body).status == 201


def test_the_first_operators_secret_works_once(cloud: Installation) -> None:
    assert not cloud.settings.first_operator_file.exists()
    for front in ("front1", "front2"):
        refused(
            cloud.caller("operator", front=front).post("/v1/first-operator", {"secret": "nbf_x", "name": "second"}),
            401,
            "unauthenticated",
        )
    made = cloud.operator().post("/v1/operators", {"name": f"op-{time.monotonic_ns()}"})
    assert made.status == 201


def test_a_join_token_works_once_and_for_its_machine(cloud: Installation) -> None:
    refused(
        cloud.caller("internal").post("/internal/v1/enrol", {"token": "nbj_x", "csr_pem": "x", "fqdn": "f"}),
        401,
        "unauthenticated",
    )
    ca = cloud.caller("internal").get("/internal/v1/ca").ok()["ca_pem"]
    assert ca == cloud.settings.ca_file.read_text()


def test_no_network_takes_over_what_the_hosts_or_the_world_use(cloud: Installation, tenant: Tenant) -> None:
    def made(name: str, *cidrs: str) -> Reply:
        return tenant.owner.post("/v1/networks", {"name": name, "subnets": [{"cidr": c} for c in cidrs]})

    made("before", "10.98.0.0/25").ok()
    with puppet_of(cloud) as puppet:
        puppet.open(ranges=["10.98.0.0/24", "fd98::/16", "nonsense"])
        for lan in ("10.98.0.0/25", "10.98.0.240/29", "10.96.0.0/12"):
            problem = refused(made("lan", lan), 409, "conflict")
            assert lan in problem["detail"]
            assert lan == "10.98.0.0/24" or "10.98.0.0/24" not in problem["detail"]  # nor where the hosts are
        refused(made("lan", "10.99.0.0/24", "fd98:1::/64"), 409, "conflict")
        made("beside", "10.98.1.0/24", "fd99::/64").ok()
    for outside in ("198.51.100.0/24", "8.8.8.0/24", "169.254.0.0/24", "172.32.0.0/24"):
        refused(made("world", outside), 422, "invalid")
