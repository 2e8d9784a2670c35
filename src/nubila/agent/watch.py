"""What the looks at the world say about drift. Called by the core in the event loop's thread; changes nothing.

A vm that is being worked on is left out: it is about to be as wished, or its own report says why not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from nubila.agent import drift
from nubila.agent.hands import Hands
from nubila.agent.lanes import Lane, Lanes
from nubila.drivers import Scan
from nubila.drivers.hypervisor.base import Shaped
from nubila.protocol import Drift, Vm

# driver -> the kind of what it calls foreign
FOREIGN: dict[str, str] = {"hypervisor": "domain", "network": "link", "storage": "file"}

# what differences were found, and what that rests on: the wish, what is there, where its disks are
_Compared = tuple[tuple[Vm, Shaped, tuple[str | None, ...]], list[Drift]]


class Watch:
    def __init__(self, lanes: Lanes, hands: Hands):
        self.ledger = drift.Ledger()
        self._lanes, self._hands = lanes, hands
        self._shapes: dict[str, list[Drift]] = {}  # vm -> what was seen when nobody worked on it
        self._compared: dict[str, _Compared] = {}

    def on_shapes(self, seen: Iterable[Shaped], begun_s: float) -> None:
        shapes = {(s.vm_id, s.epoch): s for s in seen}
        told: dict[str, list[Drift]] = {}
        before, self._compared = self._compared, {}
        for vm_id, lane in self._lanes.lanes.items():
            if lane.wanted.gone:
                continue
            if _busy(lane, begun_s):
                told[vm_id] = self._shapes.get(vm_id, [])
                continue
            told[vm_id] = drift.missing(vm_id, _lost(lane))
            found = shapes.get((vm_id, lane.wanted.epoch))
            if found is not None:
                told[vm_id] += self._differences(vm_id, lane, found, before.get(vm_id))
        self._shapes = told
        self.ledger.look("shapes", [d for drifts in told.values() for d in drifts])

    def _differences(self, vm_id: str, lane: Lane, found: Shaped, before: _Compared | None) -> list[Drift]:
        """Of most vms neither the wish nor what is there has changed since the last look."""
        wanted, volumes = lane.wanted, lane.facts.volumes
        rests_on = wanted, found, tuple(volumes.get(d.volume_id) for d in (*wanted.disks, *wanted.leaving))
        if before is not None and before[0][0] is wanted and before[0][1:] == rests_on[1:]:
            lines = before[1]
        else:
            lines = drift.compare(vm_id, self._hands.shape(wanted, lane.facts), found)
        self._compared[vm_id] = rests_on, lines
        if not lines:
            return lines
        going = {n.mac.lower() for n in wanted.unwired}
        return [d for d in lines if not _left(lane, found, d) and d.observed not in going]

    def on_foreign(self, driver: str, names: Iterable[str]) -> None:
        self.ledger.look(driver, drift.foreign(FOREIGN[driver], names), at_once=driver == "storage")

    def on_scan(self, seen: Mapping[str, Scan]) -> None:
        found = [f for scan in seen.values() for f in scan.foreign]
        self.ledger.look("scan", [d for kind, name in found for d in drift.foreign(kind, [name])], at_once=True)

    def on_parked(self, parked: Mapping[str, str]) -> None:
        """What a restored database does not know, or knows to be elsewhere: left alone, and shown with the reason."""
        self.ledger.look("parked", [drift.parked(thing, why) for thing, why in parked.items()], at_once=True)

    def on_orphans(self, things: Iterable[tuple[str, str]]) -> None:
        orphans = [
            Drift(kind=kind, thing=name, field="there", wished="", observed="there", cause="orphan")
            for kind, name in things
            if kind not in UNUSED
        ]
        self.ledger.look("orphans", orphans)


# What no vm here needs just now is no error, only no use; and last words are kept for a day on purpose.
UNUSED = frozenset({"network", "image", "log", "container-log"})


def _left(lane: Lane, found: Shaped, line: Drift) -> bool:
    """A disk that it gives away, or, while it is off, had before: its definition is made anew at its start."""
    if not line.field.startswith("disk ") or not line.observed:
        return False
    volumes = lane.facts.volumes
    if found.live is None:
        return Path(line.observed).parent in {Path(path).parent for path in volumes.values()}
    return line.observed in {volumes.get(d.volume_id) for d in lane.wanted.leaving}


def _busy(lane: Lane, begun_s: float) -> bool:
    return lane.job is not None or lane.asks is not None or lane.image is not None or lane.touched_s >= begun_s


def _lost(lane: Lane) -> list[str]:
    """Disks that were here when it last ran."""
    return [
        d.volume_id
        for d in lane.wanted.disks
        if d.volume_id in lane.record.made and d.volume_id not in lane.facts.volumes
    ]
