"""Processes die by SIGKILL and hints are lost: nothing acknowledged is lost, nothing happens twice, nothing is answered wrongly."""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.fleet.caller import Caller, Reply
from tests.fleet.installation import Installation, until
from tests.fleet.tenant import Tenant, refused

NO_ANSWER = (OSError, http.client.HTTPException)
WORKERS = 8
POOL = ("Failed to restore the pool connection floor",)  # the driver's own warning while the database is away


class Burst:
    """Creates by clients that know what a lost answer means: each is repeated under its own key until it is answered."""

    def __init__(self, tenant: Tenant, count: int):
        self.tenant, self.count = tenant, count
        self.seen: Counter[int | str] = Counter()
        self.answered: dict[str, str] = {}  # name -> id of the vm that was acknowledged
        self._some = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._over = threading.Event()

    def run(self, harm: Callable[[], None]) -> None:
        """`harm` comes when a third is answered."""
        with ThreadPoolExecutor(WORKERS) as pool:
            jobs = [pool.submit(self._one, n) for n in range(self.count)]
            for _ in range(self.count // 3):
                assert self._some.acquire(timeout=60)
            try:
                harm()
            except BaseException:
                self._over.set()
                raise
            for job in jobs:
                job.result()

    def _one(self, n: int) -> None:
        name, fronts = f"v{n}", self.tenant.fronts()
        for attempt in itertools.count(n):
            reply = self._try(fronts[attempt % 2], name)
            if reply is not None and reply.status == 201:
                with self._lock:
                    self.answered[name] = reply.body["vm"]["id"]
                self._some.release()
                return
            if reply is not None and reply.status != 503:
                raise AssertionError(f"{name}: {reply}")
            assert attempt < n + 400
            if self._over.wait(0.1):
                return

    def _try(self, caller: Caller, name: str) -> Reply | None:
        try:
            reply = caller.post("/v1/vms", self.tenant.wish(name), idempotency_key=f"key-{name}")
        except NO_ANSWER:
            self.seen["no answer"] += 1
            return None
        self.seen[reply.status] += 1
        return reply

    def verify(self) -> None:
        """Every acknowledged VM is there, one per key, and runs, started once."""
        tenant, cloud = self.tenant, self.tenant.cloud
        vms = {v["name"]: v["id"] for v in tenant.all_running(self.count, 60)}
        assert vms == self.answered
        for name in list(vms)[:: self.count // 10]:
            again = tenant.at("front2").post("/v1/vms", tenant.wish(name), idempotency_key=f"key-{name}")
            assert (again.status, again.body["vm"]["id"]) == (201, vms[name])
        assert tenant.quota()["vms"]["used"] == self.count
        domains = cloud.domains()
        assert {domains[i]["boots"] for i in vms.values()} == {1}
        kinds = {r["class"]: r["wrong"] for r in cloud.sql(
            """select i.class, i.used - coalesce(sum(a.amount), 0)::bigint as wrong from inventory i
                 left join allocation a on a.node_id = i.node_id and a.class = i.class group by i.node_id, i.class, i.used"""
        )}  # fmt: skip
        assert set(kinds.values()) == {0}


@pytest.mark.parametrize("victim", ["core", "front1", "front2", "agent"])
def test_kill_9_of_a_process_in_a_burst_loses_nothing(fragile: Installation, victim: str) -> None:
    burst = Burst(Tenant(fragile), 60)

    def harm() -> None:
        fragile.kill(victim)
        time.sleep(0.3)
        if victim == "agent":
            fragile.start_agent()
        else:
            fragile.start(victim)

    burst.run(harm)
    burst.verify()
    assert fragile.faults(allowed=POOL) == []
    assert set(burst.seen) <= {201, 503, "no answer"}
    if victim.startswith("front"):
        assert burst.seen["no answer"] > 0


def test_kill_9_of_postgresql_in_a_burst_loses_nothing(fragile: Installation) -> None:
    tenant = Tenant(fragile)
    burst = Burst(tenant, 60)

    def harm() -> None:
        fragile.server.kill()
        try:
            away()
        finally:
            fragile.server.start()

    def away() -> None:
        for caller, method, path in (
            (tenant.owner, "GET", "/v1/vms"),
            (tenant.owner, "POST", "/v1/vms"),
            (fragile.operator(), "GET", "/v1/nodes"),
        ):
            reply = caller.call(method, path, tenant.wish("never") if method == "POST" else None)
            assert refused(reply, 503, reply.slug)["slug"] in (
                "database-away",
                "outcome-unknown",
                "unavailable",
                "busy",
            )
            assert reply.headers["retry-after"]
        assert tenant.owner.get("/healthz").status == 200
        assert tenant.owner.get("/readyz").status == 503

    burst.run(harm)
    assert set(burst.seen) <= {201, 503}, burst.seen
    assert burst.seen[503] > 0
    until(lambda: tenant.owner.get("/readyz").status == 200)
    if tenant.owner.get("/v1/vms/never").status == 200:  # an unknown outcome may be either
        tenant.owner.delete("/v1/vms/never?wait=20").ok()
    burst.verify()
    assert fragile.faults(allowed=POOL) == []


def timed(act: Callable[[], Reply]) -> float:
    begin = time.monotonic()
    reply = act().ok()
    assert reply["operation"]["state"] == "done", reply
    return time.monotonic() - begin


def life(tenant: Tenant, name: str) -> dict[str, float]:
    """How long a VM's verbs take, in seconds, until they are done."""
    owner = tenant.owner
    return {
        "create": timed(lambda: owner.post("/v1/vms?wait=30", tenant.wish(name))),
        "remove": timed(lambda: owner.delete(f"/v1/vms/{name}?wait=30")),
    }


def test_f13_with_every_hint_lost_all_is_done_by_the_clock(fragile: Installation) -> None:
    tenant = Tenant(fragile)
    with_bus = quickest(life(tenant, "a"), life(tenant, "b"))
    try:
        bus(fragile, on=False)
        without = life(tenant, "c")
    finally:
        bus(fragile, on=True)
    assert max(without.values()) < 30, without
    assert max(with_bus.values()) < 1.5, with_bus
    assert max(without.values()) > 3 * max(with_bus.values())  # it was really cut
    assert quickest(life(tenant, "d"), life(tenant, "e"))["create"] < 1.5
    assert fragile.faults(allowed=POOL) == []


def quickest(*lives: dict[str, float]) -> dict[str, float]:
    """On a busy machine one slow answer says nothing."""
    return {verb: min(seen[verb] for seen in lives) for verb in lives[0]}


def bus(cloud: Installation, *, on: bool) -> None:
    cloud.bus = on
    for name in ("core", "front1", "front2"):
        cloud.stop(name)
    cloud.start("core", "front1", "front2")
    until(lambda: cloud.operator().list("/v1/nodes")[0]["last_report_age_s"] < 5, 20)


def test_f26_kill_9_of_the_agent_starts_nothing_anew(fragile: Installation) -> None:
    tenant = Tenant(fragile)
    before = {n: tenant.running(n) for n in ("a", "b", "c")}
    tenant.owner.post("/v1/vms/b/reboot?wait=20", {}).ok()
    tenant.owner.post("/v1/vms/c/stop?wait=20", {"mode": "hard"}).ok()
    before = {n: tenant.vm(n) for n in before}
    domains = fragile.domains()
    fragile.kill("agent")
    assert tenant.vm("a")["state"] == "running"  # silence changes nothing
    wished = tenant.owner.post("/v1/vms/a/reboot", {}).ok()["operation"]["id"]  # it waits for the agent
    begin = time.monotonic()
    fragile.start_agent()
    assert tenant.owner.get(f"/v1/operations/{wished}?wait=20").ok()["state"] == "done"
    assert time.monotonic() - begin < 10
    after = {n: tenant.vm(n) for n in before}
    for name, vm in after.items():
        assert vm["status"]["starts"] == before[name]["status"]["starts"] == 1
        assert vm["state"] == before[name]["state"]
    found = fragile.domains()
    ids = {n: vm["id"] for n, vm in after.items()}
    assert {n: found[i]["boots"] - domains[i]["boots"] for n, i in ids.items()} == {"a": 1, "b": 0, "c": 0}
    assert {n: (found[i]["pid"], found[i]["running"]) for n, i in ids.items()} == {
        n: (domains[i]["pid"], domains[i]["running"]) for n, i in ids.items()
    }
    assert (
        tenant.owner.post("/v1/vms/b/stop?wait=20", {"mode": "hard"}).ok()["vm"]["state"] == "stopped"
    )  # adopted: it obeys
    assert fragile.faults(allowed=POOL) == []


def test_f26_an_agent_killed_again_and_again_starts_each_vm_once(fragile: Installation) -> None:
    tenant = Tenant(fragile)
    burst = Burst(tenant, 40)

    def harm() -> None:
        for _ in range(3):
            fragile.kill("agent")
            fragile.start_agent()
            time.sleep(1.2)

    burst.run(harm)
    burst.verify()
    assert fragile.faults(allowed=POOL) == []


def test_a_stopped_process_answers_what_it_has_begun(fragile: Installation) -> None:
    """SIGTERM in a burst: no answer is lost at all, and a held request is answered at once."""
    tenant = Tenant(fragile)
    tenant.running("held")
    with ThreadPoolExecutor(2) as pool:
        cursor = tenant.owner.get("/v1/changes?after=end").ok()["cursor"]
        time.sleep(0.5)
        held = pool.submit(tenant.owner.get, f"/v1/changes?after={cursor}&wait=60")
        time.sleep(0.5)
        begin = time.monotonic()
        fragile.stop("front1")
        assert held.result().status == 200
        assert time.monotonic() - begin < 5
    fragile.start("front1")
    assert tenant.owner.get("/v1/me").status == 200
