"""A machine whose agent dies when it is told to, enrolled in a whole installation; and what is left in its world."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec

from tests import counts
from tests.crash.boundary import Plan
from tests.fleet.installation import Installation, rows_of, until
from tests.forks import Forks

NOTHING = Plan()


class Host:
    """Its virt method is its own, so that what shall be placed on it names that."""

    drivers = "fake"
    image = "mini"
    patience_s = 15.0  # until a planned call came

    def __init__(self, cloud: Installation, name: str):
        self.cloud, self.name = cloud, name
        self.directory = cloud.top / name
        self.directory.mkdir()
        self.pid = 0
        token = cloud.operator().post("/v1/join-tokens", {"name": name}).ok()["token"]
        file = self.directory / "token"
        file.write_text(token + "\n")
        file.chmod(0o600)
        words = str(self.directory), cloud.settings.internal_url, self.drivers
        self._forks = Forks("tests.crash.zygote", *words, log=cloud.logs / f"{name}.log")

    def close(self) -> None:
        self.stop()
        self._forks.close()

    # --- the agent

    def start(self, plan: Plan = NOTHING) -> None:
        """A new agent over what the ones before left."""
        (self.directory / "effects").write_bytes(b"")
        if plan.mode == "hold":
            (self.directory / "held").touch()
        self.pid = self._forks.start(msgspec.json.encode(plan))

    def stop(self) -> None:
        """By kill -9, as everything here ends: there is no other goodbye that anybody may count on."""
        if self.pid:
            counts.add(counts.AGENT_KILLS)
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            assert self.ended(10.0)
            self.release()

    def ended(self, within_s: float) -> bool:
        """Whether the agent's process is over, waiting at most so long."""
        if self.pid and self._forks.ended(within_s):
            self.pid = 0
        return not self.pid

    def release(self) -> None:
        (self.directory / "held").unlink(missing_ok=True)

    @contextlib.contextmanager
    def running(self, plan: Plan = NOTHING) -> Iterator[None]:
        self.start(plan)
        try:
            yield
        finally:
            self.stop()

    def effects(self) -> Counter[str]:
        """What the newest agent did, by name of the side effect."""
        return Counter((self.directory / "effects").read_text().split())

    # --- the world

    def world(self) -> dict[str, dict[str, Any]]:
        """kind -> id -> thing: all that the fakes hold, read from their journals."""
        return {kind: self._table(file) for kind, file in WORLD.items()}

    def domain(self, vm_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.world()["domain"].get(vm_id, {})
        return found

    def tamper(self, vm_id: str) -> None:
        """Change a domain's definition as a person at the machine would. The agent must not run."""
        domain = self.domain(vm_id)
        domain["defined"] = {**domain["defined"], "cores": 7}
        with (self.directory / "fake" / WORLD["domain"]).open("ab") as journal:
            journal.write(json.dumps([vm_id, domain]).encode() + b"\n")

    def _table(self, name: str) -> dict[str, Any]:
        file = self.directory / "fake" / name
        return rows_of(file) if file.exists() else {}


# kind -> journal of the fake world
WORLD = {
    "domain": "domains",
    "volume": "volumes",
    "network": "networks",
    "port": "networks.ports",
    "image": "volumes.images",
    "export": "volumes.exports",
}


def orphans(cloud: Installation, host: Host) -> list[str]:
    """World minus rows and rows minus world, of every kind that a node makes, and claims that nothing holds."""
    out: list[str] = []
    world = host.world()
    node = cloud.sql("select id from node where name = $1 and removed_at is null", host.name)[0]["id"]
    for kind, table in (("domain", "vm"), ("volume", "volume"), ("port", "port"), ("network", "network")):
        living = {_text(table, r["id"]) for r in cloud.sql(f'select id from "{table}" where removed_at is null')}
        out += [f"{kind} {i} is in the world and has no row" for i in world[kind] if i not in living]
    for r in cloud.sql(
        "select id, state from volume where node_id = $1 and removed_at is null and state = 'ready'", node
    ):
        if _text("volume", r["id"]) not in world["volume"]:
            out.append(f"volume {r['id']} is ready and not in the world")
    sending = {e["image_id"] for r in cloud.sql(EXPORTS) for e in json.loads(r["exports"])}
    out += [f"export {i} is in the world and no volume wishes it" for i in world["export"] if i not in sending]
    for r in cloud.sql(CLAIMS):
        out.append(f"{r['what']}: {dict(r)}")
    return out


EXPORTS = "select (spec->'exports')::text as exports from volume where removed_at is null and spec ? 'exports'"
CLAIMS = """
select 'inventory differs from its allocations' as what, i.node_id::text as a, i.class as b, i.used as c,
       (select coalesce(sum(x.amount), 0)::bigint from allocation x where x.node_id = i.node_id and x.class = i.class) as d
  from inventory i
 where i.used <> (select coalesce(sum(x.amount), 0) from allocation x where x.node_id = i.node_id and x.class = i.class)
union all
select 'quota differs from what lives', q.project_id::text, q.class, q.used,
       (select count(*) from vm v where v.project_id = q.project_id and v.removed_at is null)
  from quota q where q.class = 'vms'
   and q.used <> (select count(*) from vm v where v.project_id = q.project_id and v.removed_at is null)
union all
select 'quota differs from what lives', q.project_id::text, q.class, q.used,
       (select count(*) from volume v where v.project_id = q.project_id and v.removed_at is null)
  from quota q where q.class = 'volumes'
   and q.used <> (select count(*) from volume v where v.project_id = q.project_id and v.removed_at is null)
union all
select 'address of a port that is gone', a.network_id::text, host(a.address), 0, 0
  from address a join port p on p.id = a.port_id where p.removed_at is not null
union all
select 'address that no port has wished or lets go of', a.network_id::text, host(a.address), 0, 0
  from address a join port p on p.id = a.port_id where p.spec->'leaving' ? host(a.address)
union all
select 'open operation of a port that is gone', o.resource_id::text, o.state, 0, 0
  from operation o join port p on p.id = o.resource_id where p.removed_at is not null and o.ended_at is null
union all
select 'active attachment of a vm or volume that is gone', a.vm_id::text, a.volume_id::text, 0, 0
  from attachment a join volume d on d.id = a.volume_id
 where a.state = 'active' and d.removed_at is not null
union all
select 'open operation of what is gone', o.resource_id::text, o.state, 0, 0
  from operation o join vm v on v.id = o.resource_id where v.removed_at is not null and o.ended_at is null
"""


def _text(kind: str, row_id: Any) -> str:
    from nubila.model import ids

    return ids.text(kind, row_id)


def settled(cloud: Installation, host: Host, within_s: float = 20.0) -> None:
    """Waits until nothing is orphaned; fails with what still is."""
    deadline = time.monotonic() + within_s
    while found := orphans(cloud, host):
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def wait_node(cloud: Installation, name: str) -> None:
    until(
        lambda: any(n["name"] == name and n["state"] == "running" for n in cloud.operator().list("/v1/nodes")),
        60,
        why=f"{name} enrolled",
    )
