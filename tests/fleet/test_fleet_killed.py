"""F1: the API process is killed at every await of requests that change something, and the client repeats with its key.

Whatever became of the first try: one object, one operation, one accepted call; what was acknowledged is what is there.
"""

from __future__ import annotations

import http.client
import itertools
import os
import random
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from tests import counts
from tests.crash.host import CLAIMS
from tests.fleet.caller import Caller, Reply
from tests.fleet.installation import PUBLIC_KEY, Installation, installed, until
from tests.fleet.tenant import Tenant
from tests.forks import Forks

pytestmark = pytest.mark.slow
EXHAUSTIVE = os.environ.get("NUBILA_EXHAUSTIVE") == "1"
SAMPLE, SEED = 16, 20261121
_NUMBER = itertools.count(1)


class Brittle:
    """The first API process, in a form that dies where it is told to; the second one is as always."""

    def __init__(self, cloud: Installation):
        self.cloud, self.tenant = cloud, Tenant(cloud)
        self.record = cloud.top / "points"
        cloud.stop("front1")
        log, environment = cloud.logs / "brittle.log", cloud._environment("front1")
        self._forks = Forks("tests.fleet.brittle", str(self.record), log=log, environment=environment)
        self.ended, self.close = self._forks.ended, self._forks.close

    def start(self, at: int = 0) -> int:
        """Where the next request with the header dies: the number of the point. 0: nowhere. Returns the pid."""
        pid = self._forks.start(b"%d" % at)
        for port in self.cloud.ports["front1"]:
            until(lambda port=port: self.cloud._ready(port), 60, 0.02, "the brittle process")  # type: ignore[misc]
        return pid

    def stop(self, pid: int) -> None:
        os.kill(pid, 9)
        assert self.ended(10)


@pytest.fixture(scope="module")
def brittle() -> Iterator[Brittle]:
    with installed(nodes=1) as cloud:
        made = Brittle(cloud)
        yield made
        made.close()


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """`before` brings a new object of that name to where `act` can be asked; `kind` is what `act` makes or changes."""

    name: str
    before: Callable[[Tenant, str], None]
    act: Callable[[Caller, Tenant, str, dict[str, str]], Reply]
    kind: str
    once: Callable[[Tenant, str, Reply], bool]  # it was carried out, and not twice


def nothing(tenant: Tenant, name: str) -> None:
    """From nothing."""


def front2(tenant: Tenant) -> Caller:
    return tenant.at("front2")


def running(tenant: Tenant, name: str) -> None:
    reply = front2(tenant).post("/v1/vms?wait=20", tenant.wish(name)).ok()
    assert reply["vm"]["state"] == "running", reply


def planned(tenant: Tenant, name: str) -> None:
    PLANS[name] = front2(tenant).post("/v1/vms?plan=1", tenant.wish(name)).ok()["id"]


def one(tenant: Tenant, plural: str, name: str) -> bool:
    return [x["name"] for x in front2(tenant).list(f"/v1/{plural}?name={name}")] == [name]


def started_once(tenant: Tenant, name: str, reply: Reply) -> bool:
    vm = until(lambda: (v := front2(tenant).get(f"/v1/vms/{name}").ok())["state"] == "running" and v, 20, why=name)
    return one(tenant, "vms", name) and bool(vm["status"]["starts"] == 1 and vm["id"] == reply.body["vm"]["id"])


def rebooted_once(tenant: Tenant, name: str, reply: Reply) -> bool:
    """The guest began a second time and no third time, as the fake world counts it."""
    path, vm = f"/v1/operations/{reply.body['operation']['id']}", reply.body["vm"]
    until(lambda: front2(tenant).get(path).ok()["state"] == "done", 20, why=name)
    now = front2(tenant).get(f"/v1/vms/{name}").ok()
    boots: int = tenant.cloud.domains()[vm["id"]]["boots"]
    return boots == 2 and bool(now["spec"]["reboots"] == vm["spec"]["reboots"])


PLANS: dict[str, str] = {}
CASES: tuple[Case, ...] = (
    Case(
        name="create", before=nothing, kind="vm", once=started_once,
        act=lambda c, t, n, h: c.post("/v1/vms", t.wish(n), **h),
    ),
    Case(
        name="apply", before=planned, kind="vm", once=started_once,
        act=lambda c, t, n, h: c.post(f"/v1/plans/{PLANS[n]}/apply", **h),
    ),
    Case(
        name="reboot", before=running, kind="vm",
        act=lambda c, t, n, h: c.post(f"/v1/vms/{n}/reboot", {}, **h),
        once=rebooted_once,
    ),
    Case(
        name="remove", before=running, kind="vm",
        act=lambda c, t, n, h: c.delete(f"/v1/vms/{n}", **h),
        once=lambda t, n, r: bool(until(lambda: front2(t).get(f"/v1/vms/{n}").status == 404, 20, why=n)),
    ),
    Case(
        name="volume", before=nothing, kind="volume",
        act=lambda c, t, n, h: c.post("/v1/volumes", {"name": n, "size_gib": 1}, **h),
        once=lambda t, n, r: one(t, "volumes", n),
    ),
    Case(
        name="keypair", before=nothing, kind="keypair",
        act=lambda c, t, n, h: c.post("/v1/keypairs", {"name": n, "public_key": PUBLIC_KEY}, **h),
        once=lambda t, n, r: one(t, "keypairs", n),
    ),
)  # fmt: skip


def undisturbed(brittle: Brittle, case: Case) -> int:
    """How many points a request of the case passes."""
    name = f"{case.name}-{next(_NUMBER)}"
    case.before(brittle.tenant, name)
    case.act(brittle.tenant.owner, brittle.tenant, name, {"x_brittle": "1"}).ok()
    return len(brittle.record.read_text().split("\n")) - 1


def killed(brittle: Brittle, case: Case, at: int) -> bool:
    """The request whose process dies at that point, and its repetition. Returns whether the first was
    carried out."""
    tenant, name = brittle.tenant, f"{case.name}-{next(_NUMBER)}"
    case.before(tenant, name)
    key = {"idempotency_key": name}
    pid = brittle.start(at)
    first: Reply | None = None
    try:
        first = case.act(tenant.owner, tenant, name, {**key, "x_brittle": "1"})
    except (OSError, http.client.HTTPException):
        tenant.owner.hang_up()
    if brittle.ended(10):
        counts.add(counts.API_KILLS)
    else:  # the points of a request are as many as its connection happens to need
        brittle.stop(pid)
    again = case.act(front2(tenant), tenant, name, key)
    assert 200 <= again.status < 300, (case.name, at, again)
    if first is not None:
        assert first.status == again.status, (case.name, at, first, again)
        assert ids_of(first.body) == ids_of(again.body), (case.name, at)
    assert case.once(tenant, name, again), (case.name, at, again)
    accepted = brittle.cloud.sql(
        "select action from call where object_id = $1 and outcome = 'accepted' and action = $2",
        _uuid(case.kind, ids_of(again.body)[case.kind]), action(case),
    )  # fmt: skip
    assert len(accepted) == 1, (case.name, at, accepted)
    return again.headers.get("idempotent-replay") == "true"


def action(case: Case) -> str:
    return {"apply": "plan.apply", "remove": "vm.remove", "reboot": "vm.reboot"}.get(case.name, f"{case.kind}.create")


def ids_of(body: Any) -> dict[str, str]:
    """kind -> id of all that an answer shows."""
    shown = [body] if "id" in body else [x for x in body.values() if isinstance(x, dict) and "id" in x]
    return {x["kind"]: x["id"] for x in shown if "kind" in x}


def _uuid(kind: str, text: str) -> Any:
    from nubila.model import ids

    return ids.parse(kind, text)


def test_f1_an_api_process_killed_at_any_await_loses_and_doubles_nothing(brittle: Brittle) -> None:
    pid = brittle.start()
    for case in CASES:
        undisturbed(brittle, case)  # what a process does once only is done
    brittle.stop(pid)
    points = []
    for case in CASES:
        pid = brittle.start()
        points += [(case, n) for n in range(1, undisturbed(brittle, case) + 1)]
        brittle.stop(pid)
    assert {case.name for case, _ in points} == {case.name for case in CASES}
    chosen = points if EXHAUSTIVE else random.Random(SEED).sample(points, min(SAMPLE, len(points)))
    carried_out = [killed(brittle, case, at) for case, at in chosen]
    assert 0 < sum(carried_out) < len(chosen)  # some died before their commit, some after it
    assert brittle.cloud.sql(CLAIMS) == []
    assert brittle.cloud.faults() == []
