"""Where this node differs from its wishes. The comparing is PURE; `Ledger` keeps what is to be told, for `Watch`.

A difference counts from the second look on at which it is there: what is being changed at this moment is none.
"""

from __future__ import annotations

from collections.abc import Iterable

from nubila.drivers.hypervisor.base import Shape, Shaped
from nubila.protocol import Drift

TOLD_MAX = 512
SHOWN_MAX = 300
NONE = "none"

PARTS = frozenset({"shapes", "hypervisor", "network", "storage", "scan", "orphans"})

# fields that follow the wish of a vm that is off at its start only
DISKS = ("disk ", "limits of ")

# field of a shape -> what it is called where several things may be too many or missing
LISTS: dict[str, str] = {"disks": "disk", "nics": "interface"}


# what its agent changes while it runs: such a field waits for no start
LIVE = ("media", "limits of ")


def compare(vm_id: str, wished: Shape, found: Shaped) -> list[Drift]:
    """One line per field. What the definition has right and the running domain has not, waits for the next start."""
    thing = f"{found.vm_id}.e{found.epoch}"
    told: dict[str, Drift] = {}
    for shape, cause in ((found.defined, "changed-outside"), (found.live, "next-start")):
        if shape is None:
            continue
        for field, wish, there in _fields(wished, shape):
            if found.live is None and field.startswith(DISKS) and wish:
                continue  # it is made anew from the wish at its start
            # what is too much was added by somebody
            live_only = cause == "next-start" and (wish == "" or field.startswith(LIVE))
            told.setdefault(
                field,
                Drift(
                    kind="domain", thing=thing, field=field, wished=wish[:SHOWN_MAX], observed=there[:SHOWN_MAX],
                    cause="changed-outside" if live_only else cause, vm_id=vm_id,  # type: ignore[arg-type]
                ),
            )  # fmt: skip
    return list(told.values())


def _fields(wished: Shape, there: Shape) -> Iterable[tuple[str, str, str]]:
    for field in Shape.__struct_fields__:
        wish, have = getattr(wished, field), getattr(there, field)
        if wish == have:
            continue
        if field in LISTS:
            yield from ((f"{LISTS[field]} {x}", x, "") for x in sorted(set(wish) - set(have)))
            yield from ((f"{LISTS[field]} {x}", "", x) for x in sorted(set(have) - set(wish)))
        elif field == "limits":
            wishes, has = dict(wish), dict(have)
            changed = sorted(v for v in wishes.keys() | has.keys() if wishes.get(v) != has.get(v))
            yield from ((f"limits of {v}", wishes.get(v, "") or NONE, has.get(v, "") or NONE) for v in changed)
        else:
            yield field, _text(wish), _text(have)


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(str(v) for v in value)
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def foreign(kind: str, names: Iterable[str]) -> list[Drift]:
    return [
        Drift(kind=kind, thing=n[:SHOWN_MAX], field="there", wished="", observed="there", cause="foreign")
        for n in names
    ]


def parked(thing: str, why: str) -> Drift:
    kind = "volume" if thing.startswith("vol-") else "domain"
    return Drift(kind=kind, thing=thing, field="parked", wished="", observed=why[:SHOWN_MAX], cause="foreign")


def missing(vm_id: str, volume_ids: Iterable[str]) -> list[Drift]:
    return [
        Drift(kind="volume", thing=v, field="there", wished="there", observed="", cause="missing", vm_id=vm_id)
        for v in volume_ids
    ]


class Ledger:
    """What is to be told, by where it was seen: each part is told whole, and nothing before every part was looked at,
    so that a new agent does not take a line for over only because it has not looked yet."""

    def __init__(self) -> None:
        self._before: dict[str, frozenset[Drift]] = {}
        self._parts: dict[str, frozenset[Drift]] = {}
        self._told: frozenset[Drift] | None = None

    def look(self, part: str, found: Iterable[Drift], *, at_once: bool = False) -> None:
        """A look at one part of the world. `at_once`: what is seen there is never on its way."""
        now = frozenset(found)
        if part in self._before or at_once:
            self._parts[part] = now if at_once else now & self._before[part]
        self._before[part] = now

    def session(self) -> None:
        """A new session was told nothing."""
        self._told = None

    def news(self) -> tuple[Drift, ...] | None:
        """All of it, in order; None while it was told as it is."""
        if not self._parts.keys() >= PARTS:
            return None
        found = sorted(frozenset[Drift]().union(*self._parts.values()), key=lambda d: (d.kind, d.thing, d.field))
        told = tuple(found[:TOLD_MAX])
        return None if frozenset(told) == self._told else told

    def told(self, drifts: Iterable[Drift]) -> None:
        self._told = frozenset(drifts)
