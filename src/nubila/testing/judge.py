"""The invariants, looked at after every side effect and every commit: what must hold at each step, whatever befell whom.

Named as in reliability.md; docs/simulation.md says of each in which form it is checked. What must hold when all is quiet
stands in `quiet`.
"""

from __future__ import annotations

from collections import Counter
from typing import Any
from uuid import UUID

import msgspec

from nubila.agent.right import FRESH_S
from nubila.drivers.hypervisor.base import Domain, DomainDisk
from nubila.model.ids import parse, text
from nubila.testing.commit import Commit
from nubila.testing.fleet import Fleet
from nubila.testing.host import Host
from nubila.testing.rows import Row
from nubila.testing.story import Story

# What takes something away from a guest: only on an answer that was given lately (I12).
TAKES = frozenset(
    {
        "hypervisor.ask_stop", "hypervisor.ask_reboot", "hypervisor.destroy", "hypervisor.remove", "hypervisor.suspend",
        "hypervisor.detach_disk", "storage.remove_volume", "network.remove_port",
    }
)  # fmt: skip
# What is not a vm's own job (a volume's step, garbage) may have been begun so long ago.
SLACK_S = 120.0
POLL_S = 40.0  # so long an answer may have lain there, unread, on a host that was frozen
COUNTERS = ("generation", "observed_generation", "version", "epoch", "revision")


class Violation(msgspec.Struct, frozen=True):
    invariant: str
    what: str


class Acknowledged(msgspec.Struct, frozen=True):
    """A change that somebody was told is done."""

    key: str
    action: str
    ids: dict[str, UUID]


class Judge:
    def __init__(self, story: Story):
        self._story = story
        self.fleet: Fleet | None = None
        self.found: list[Violation] = []
        self.heard_s: dict[str, float] = {}  # host -> when an answer with wishes last reached it
        self.thawed_s: dict[str, float] = {}
        self.acknowledged: dict[str, Acknowledged] = {}
        self._wrote: dict[str, int] = {}  # volume -> newest epoch under which something was written to it
        self.on_violation: Any = None

    def violated(self, invariant: str, what: str) -> None:
        self._story.tell("!!", f"{invariant} violated: {what}")
        self.found.append(Violation(invariant, what))
        if self.on_violation is not None:
            self.on_violation()

    @property
    def _fleet(self) -> Fleet:
        assert self.fleet is not None
        return self.fleet

    # --- told by the hosts

    def tell(self, who: str, what: str) -> None:
        self._story.tell(who, what)

    def before_effect(self, host: Host, effect: str, args: tuple[Any, ...]) -> None:
        if effect == "hypervisor.start":
            domain: Domain = args[0]
            for disk in domain.disks:
                self._licensed(host, disk)
        if effect == "hypervisor.attach_disk":
            self._licensed(host, args[1])
        if effect in TAKES:
            self._fresh(host, effect, args)

    def after_effect(self, host: Host, effect: str, args: tuple[Any, ...]) -> None:
        self._story.tell(host.name, f"{effect} {_about(args)}")
        if effect.startswith("hypervisor."):
            self.execution()
            self.writes()
        if effect == "network.ensure_port":
            self._alone(host, args[0])

    # --- I1, I2, I3: one execution, one writer, no start without proof

    def execution(self) -> None:
        """I1: of each vm one domain runs, on one host."""
        where: dict[str, str] = {}
        for host in self._fleet.hosts:
            for domain in host.worlds.domains.domains.all():
                if domain.running:
                    if domain.vm_id in where:
                        self.violated("I1", f"{domain.vm_id} runs on {where[domain.vm_id]} and on {host.name}")
                    where[domain.vm_id] = host.name

    def writes(self) -> None:
        """I2: every guest that runs writes now, under the epoch that it has; an older one must not come after a newer."""
        holders: dict[str, str] = {}
        for host in self._fleet.hosts:
            for domain in host.worlds.domains.domains.all():
                if not domain.running:
                    continue
                for volume_id, held in domain.disks.items():
                    if volume_id in holders:
                        self.violated("I2", f"{volume_id} is written by {holders[volume_id]} and by {domain.vm_id}")
                    holders[volume_id] = domain.vm_id
                    if held.epoch < self._wrote.get(volume_id, 0):
                        newest = self._wrote[volume_id]
                        self.violated(
                            "I2", f"{domain.vm_id} writes {volume_id} under epoch {held.epoch} after {newest}"
                        )
                    self._wrote[volume_id] = max(held.epoch, self._wrote.get(volume_id, 0))

    def _licensed(self, host: Host, disk: DomainDisk) -> None:
        """I3: whoever opens a disk has a right that stands, and the end of every older one is proven."""
        volume_id = parse("volume", disk.volume_id)
        rows = self._fleet.tables.rows["attachment"].of("volume_id", str(volume_id))
        for a in rows:
            if a["epoch"] < disk.epoch and (a["state"] != "revoked" or not a["proof"]):
                self.violated(
                    "I3", f"{host.name} opens {disk.volume_id}.e{disk.epoch}, and e{a['epoch']} is {a['state']}"
                )
        if not any(a["epoch"] == disk.epoch and a["state"] != "revoked" for a in rows):
            self.violated("I3", f"{host.name} opens {disk.volume_id}.e{disk.epoch}, which nobody has a right to")

    # --- I4, I7, I8: told by each commit

    def committed(self, draft: dict[str, Any], commit: Commit) -> None:
        nodes, projects = set(), set()
        for table, key, was in commit.changed:
            row = table.get(*key)
            if row is not None and was is not None:
                self._grew(table.name, was, row)
            if table.name == "attachment" and row is not None and was is None:
                self._newest(row)
            if table.name == "address" and row is None and was is not None:
                self._let_go(was)
            if table.name in ("allocation", "inventory"):
                nodes.add((row or was or {})["node_id"])
            if table.name in ("vm", "volume", "snapshot"):
                projects.add((row or was or {})["project_id"])
            if table.name == "quota":
                projects.add(key[0])
        for node_id in nodes:
            self.capacity(node_id)
        for project_id in projects:
            self.quota(project_id)

    def _grew(self, kind: str, was: Row, row: Row) -> None:
        for counter in COUNTERS:
            if counter in row and row[counter] < was[counter]:
                self.violated(
                    "I4", f"{kind} {row.get('name', row.get('id'))}: {counter} {was[counter]} -> {row[counter]}"
                )

    def _newest(self, row: Row) -> None:
        older = self._fleet.tables.rows["attachment"].of("volume_id", row["volume_id"])
        if any(a["epoch"] >= row["epoch"] and a["id"] != row["id"] for a in older):
            self.violated("I4", f"attachment e{row['epoch']} of a volume that had a newer one")

    def capacity(self, node_id: str) -> None:
        held: Counter[str] = Counter()
        for a in self._fleet.tables.rows["allocation"]:
            if a["node_id"] == node_id:
                held[a["class"]] += a["amount"]
        for i in self._fleet.tables.rows["inventory"].of("node_id", node_id):
            room = i["total"] - i["reserved"]
            if i["used"] != held[i["class"]] or i["used"] > room:
                told = f"{held[i['class']]} allocated, {i['used']} counted, {room} there"
                self.violated("I7", f"{i['class']} of {self._name(node_id)}: {told}")

    def quota(self, project_id: str) -> None:
        rows = self._fleet.tables.rows
        mine = {
            kind: [r for r in rows[kind] if r["project_id"] == project_id and r["removed_at"] is None]
            for kind in ("vm", "volume", "snapshot")
        }
        holds = {
            "vms": len(mine["vm"]),
            "cores": sum(v["spec"]["cores"] for v in mine["vm"]),
            "memory_mib": sum(v["spec"]["memory_mib"] for v in mine["vm"]),
            "volumes": len(mine["volume"]),
            "disk_gib": sum(d["spec"]["size_gib"] for k in ("volume", "snapshot") for d in mine[k]),
        }
        for q in rows["quota"].of("project_id", project_id):
            if q["class"] in holds and (q["used"] != holds[q["class"]] or q["used"] > q["amount"]):
                told = f"{holds[q['class']]} held, {q['used']} counted, {q['amount']} allowed"
                self.violated("I7", f"quota of {q['class']}: {told}")

    def _let_go(self, address: Row) -> None:
        """I8: an address is free for others when no host has a port with it any more."""
        port_id = None if address["port_id"] is None else text("port", UUID(address["port_id"]))
        for host in self._fleet.hosts:
            port = None if port_id is None else host.worlds.wires.ports.get(port_id)
            if port is not None and address["address"] in port.addresses:
                self.violated("I8", f"{address['address']} is free again, and {host.name} still has it on {port_id}")

    def _alone(self, host: Host, port: Any) -> None:
        """I8: no two ports of a network have one address."""
        for other_host in self._fleet.hosts:
            for other in other_host.worlds.wires.ports.all():
                same = other.network_id == port.network_id and other.port_id != port.port_id
                if same and (set(other.addresses) & set(port.addresses) or other.mac == port.mac):
                    self.violated("I8", f"{port.port_id} on {host.name} and {other.port_id} have one address")

    # --- I5, I6: what people were told

    def told(self, key: str, action: str, ids: dict[str, UUID]) -> None:
        """An answer of success: it names what is there, and the same for the same key."""
        before = self.acknowledged.get(key)
        if before is not None and before.ids != ids:
            self.violated("I6", f"{action} answered {before.ids} and then {ids} for one key")
        self.acknowledged[key] = Acknowledged(key, action, ids)
        self._kept(self.acknowledged[key])

    def _kept(self, a: Acknowledged) -> None:
        for kind, object_id in a.ids.items():
            if self._fleet.tables.rows[kind].get(str(object_id)) is None:
                self.violated("I5", f"{a.action} was acknowledged, and its {kind} is not there")

    def all_kept(self) -> None:
        for a in self.acknowledged.values():
            self._kept(a)

    # --- I12

    def _fresh(self, host: Host, effect: str, args: tuple[Any, ...]) -> None:
        """What is taken from a guest is taken by a job that was begun on a fresh answer. One that hung, or whose host was
        frozen, ends what it began."""
        lane = None if host.agent is None else host.agent.lanes.lanes.get(args[0])
        job = None if lane is None else lane.job or lane.asks
        begun_s = host.stage.monotonic() - SLACK_S if job is None else job.begun_s
        silent_s = begun_s - self.heard_s.get(host.name, 0.0)
        lay_s = POLL_S if host.stage.monotonic() - self.thawed_s.get(host.name, 0.0) < FRESH_S + POLL_S else 0.0
        if silent_s > FRESH_S + lay_s + 1.0:
            self.violated("I12", f"{host.name}: {effect} {_about(args)}, begun {silent_s:.0f} s after the last answer")

    def _name(self, node_id: str) -> str:
        row = self._fleet.tables.rows["node"].get(node_id)
        return node_id if row is None else str(row["name"])


def _about(args: tuple[Any, ...]) -> str:
    """Ids of what a side effect is about."""
    words = []
    for arg in args:
        found = arg if isinstance(arg, str) else None
        for field in ("vm_id", "volume_id", "port_id", "network_id", "group_id"):
            found = found or getattr(arg, field, None)
        if found:
            words.append(str(found))
    return " ".join(words)
