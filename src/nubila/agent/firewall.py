"""Security groups on this node: wished by the control plane, kept on disk, loaded by the network driver. Called by the
core, in the event loop's thread.

A group is loaded for all ports that are in it at once, so a change costs one call whatever number of guests it
concerns. Groups are loaded each for itself: one that cannot be is tried again, later and later, and holds up no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from nubila.agent.plan import backoff_s
from nubila.agent.pool import Call, Pool, Worker
from nubila.agent.wish import Wishes
from nubila.drivers import DriverError
from nubila.drivers.network import base as net
from nubila.drivers.network.base import NetworkDriver
from nubila.protocol import Group
from nubila.telemetry import log

LOG = log.get(part="agent")
DEADLINE_S = 30.0


class Firewall:
    def __init__(self, loop: asyncio.AbstractEventLoop, pool: Pool, driver: NetworkDriver, wishes: Wishes):
        self._loop, self._pool, self._driver, self._wishes = loop, pool, driver, wishes
        self._due: dict[str, None] = {}  # to be loaded, in order
        self._failures: dict[str, int] = {}
        self.troubles: dict[str, str] = {}  # group -> why it is not as wished
        self._under_way = False

    def adopt(self) -> None:
        """At the start nothing is known of what is loaded."""
        self.load(self._wishes.groups)

    def wish(self, groups: Iterable[Group]) -> None:
        """Confirmed wishes, new or as they were."""
        self.load([g.group_id for g in groups if self._wishes.put_group(g)])

    def seen(self, loaded: Iterable[str]) -> None:
        """What the driver says is loaded; what somebody flushed is loaded again."""
        there = set(loaded)
        self.load([g for g in self._wishes.groups if g not in there and g not in self._failures])

    def keep(self, used: set[str]) -> None:
        """Only these are of use here; what is loaded of others is garbage."""
        for group_id in [g for g in self._wishes.groups if g not in used]:
            self._wishes.drop_group(group_id)
            self._failures.pop(group_id, None)
            self.troubles.pop(group_id, None)

    def load(self, group_ids: Iterable[str]) -> None:
        self._due.update(dict.fromkeys(group_ids))
        if self._due and not self._under_way:
            self._under_way = True
            wanted = [g for i in self._due if (g := self._wishes.groups.get(i)) is not None]
            self._due.clear()
            self._pool.submit(lambda worker: self._carry_out(worker, wanted))

    def _carry_out(self, worker: Worker, wanted: list[Group]) -> None:
        """In a worker."""
        for group in wanted:
            worker.call = Call(self, f"loading the rules of {group.group_id}", DEADLINE_S)
            trouble = None
            try:
                self._driver.ensure_group(as_driven(group))
            except DriverError as e:
                trouble = e.reason
            except Exception as e:
                trouble = f"internal error in the agent: {type(e).__name__}"
            self._tell(group.group_id, trouble)
        worker.call = None
        self._tell(None, None)

    def _tell(self, group_id: str | None, trouble: str | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._learn, group_id, trouble)
        except RuntimeError:  # the loop is closed: the agent ends
            return

    def _learn(self, group_id: str | None, trouble: str | None) -> None:
        if group_id is None:
            self._under_way = False
            self.load(())
        elif trouble is None:
            self._failures.pop(group_id, None)
            self.troubles.pop(group_id, None)
        else:
            failures = self._failures[group_id] = self._failures.get(group_id, 0) + 1
            if self.troubles.get(group_id) != trouble:
                LOG.warning("group.not-loaded", group_id=group_id, reason=trouble)
            self.troubles[group_id] = trouble
            self._loop.call_later(backoff_s(failures), self.load, [group_id])


def as_driven(group: Group) -> net.Group:
    return net.Group(
        group_id=group.group_id,
        rules=tuple(
            net.Rule(
                direction=r.direction,
                protocol=r.protocol,
                ports=None if r.port_min is None else (r.port_min, r.port_min if r.port_max is None else r.port_max),
                cidr=r.cidr,
                members=r.group,
                family=r.family,
            )
            for r in group.rules
        ),
        members=group.members,
    )
