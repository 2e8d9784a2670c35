"""A draft: everything one change would do, as data. Made by pure intents, carried out by the store's one commit.

Facts are what the decision rests on; rows are what it writes; claims (capacity, quota, unique names, addresses) are what
others may take first. Keys are short because a draft is the argument of a database function.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

import msgspec

Row = dict[str, Any]


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """One visible consequence, for people: the lines of a plan."""

    action: str  # create | change | remove
    kind: str
    id: str
    name: str = ""
    details: dict[str, Any] = {}
    operator_details: dict[str, Any] = {}


class Draft(msgspec.Struct, kw_only=True):
    """Mutable while an intent builds it; then only read."""

    actor: str
    request: str
    reason: str = ""
    facts: dict[str, list[Row]] = msgspec.field(default_factory=dict)
    unused: dict[str, list[UUID]] = msgspec.field(default_factory=dict)
    insert: dict[str, list[Row]] = msgspec.field(default_factory=dict)
    update: dict[str, list[Row]] = msgspec.field(default_factory=dict)
    delete: dict[str, list[Row]] = msgspec.field(default_factory=dict)
    capacity: list[Row] = msgspec.field(default_factory=list)
    wake: list[Row] = msgspec.field(default_factory=list)
    groups: dict[str, list[UUID]] = msgspec.field(default_factory=dict)
    quota: list[Row] = msgspec.field(default_factory=list)
    ranges: list[Row] = msgspec.field(default_factory=list)
    requests: dict[str, str] = msgspec.field(default_factory=dict)  # by object, where a commit writes several drafts
    woken: list[str] = msgspec.field(default_factory=list)  # nodes, filled by the commit

    def rests_on(self, kind: str, row: Row, *, compare: bool = True) -> None:
        """The row must still be there and, with `compare`, of the same generation."""
        fact: Row = {"id": row["id"], "w": 0}
        if compare:
            fact["g"] = row["generation"]
        self._fact(kind, fact)

    def changes(self, kind: str, row: Row, /, *, version: bool = False, **columns: Any) -> None:
        """Update these columns of a row that is still of the generation (or, with `version`, exactly as) read."""
        fact: Row = {"id": row["id"], "w": 1}
        fact["v" if version else "g"] = row["version" if version else "generation"]
        self._fact(kind, fact)
        self.updates(kind, {"id": row["id"]}, **columns)

    def removes(self, kind: str, row: Row, /, **columns: Any) -> None:
        """As `changes`, for a row that nothing may use any more: it is locked before users are looked for."""
        self._fact(kind, {"id": row["id"], "w": 2, "g": row["generation"]})
        self.unused.setdefault(kind, []).append(row["id"])
        self.updates(kind, {"id": row["id"]}, **columns)

    def inserts(self, kind: str, /, **columns: Any) -> Row:
        self.insert.setdefault(kind, []).append(columns)
        return columns

    def deletes(self, kind: str, /, **key: Any) -> None:
        self.delete.setdefault(kind, []).append(key)

    def takes_capacity(self, node_id: UUID, class_: str, amount: int) -> None:
        """Claim (or with a negative amount give back) capacity of a node."""
        if amount:
            self.capacity.append({"n": node_id, "c": class_, "a": amount})

    def takes_quota(self, project_id: UUID, class_: str, amount: int) -> None:
        if amount:
            self.quota.append({"p": project_id, "c": class_, "a": amount})

    def takes_ranges(self, node_id: UUID, network_id: UUID | str) -> None:
        """The network comes to a node that can have one network of a range: refused where another one overlaps it. The
        draft has to wake the node too: that is what the later one of two waits for."""
        self.ranges.append({"n": node_id, "net": network_id})

    def wakes(self, node_id: UUID, object_id: UUID, kind: str = "vm") -> None:
        """The node's next long poll brings this object."""
        self.wake.append({"n": node_id, "vm": object_id, **({} if kind == "vm" else {"k": kind})})

    def changes_groups(self, *, rules: Iterable[UUID] = (), members: Iterable[UUID] = ()) -> None:
        """Security groups whose rules, or whose ports and their addresses, are others now: the commit finds the nodes
        that have to hear of it."""
        for word, ids in (("rules", rules), ("members", members)):
            known = self.groups.setdefault(word, [])
            known += [i for i in dict.fromkeys(map(_uuid, ids)) if i not in known]

    def is_empty(self) -> bool:
        return not (self.insert or self.update or self.delete or self.capacity or self.quota or self.wake)

    def encoded(self) -> str:
        """The argument of the commit function. Facts go by how they are used, each kind in the order of its ids."""
        fields = {f: getattr(self, f) for f in self.__struct_fields__}
        fields["capacity"] = _summed(self.capacity)
        fields["quota"] = _summed(self.quota)
        fields["groups"] = {k: v for k, v in self.groups.items() if v}
        fields["facts"] = {kind: _by_use(facts) for kind, facts in self.facts.items()}
        return msgspec.json.encode({k: v for k, v in fields.items() if v}).decode()

    def updates(self, kind: str, key: Row, /, **columns: Any) -> None:
        """Update these columns of the row with this key. A row is written once, however often a draft changes it."""
        rows = self.update.setdefault(kind, [])
        for known in rows:
            if key.items() <= known.items():
                known.update(columns)
                return
        rows.append({**key, **columns})

    def _fact(self, kind: str, fact: Row) -> None:
        facts = self.facts.setdefault(kind, [])
        for known in facts:
            if known["id"] == fact["id"]:
                fact = {**known, **fact, "w": max(known["w"], fact["w"])}
                facts.remove(known)
                break
        facts.append(fact)


def _uuid(value: UUID | str) -> UUID:
    return value if isinstance(value, UUID) else UUID(value)


def _summed(claims: list[Row]) -> list[Row]:
    """One claim for each key, in the order of keys, in which everybody waits for them."""
    sums: dict[tuple[str, ...], Row] = {}
    for claim in claims:
        key = tuple(str(v) for k, v in claim.items() if k != "a")
        known = sums.setdefault(key, {**claim, "a": 0})
        known["a"] += claim["a"]
    return [sums[key] for key in sorted(sums)]


_USES = ("read", "write", "remove")


def _by_use(facts: list[Row]) -> dict[str, list[Row]]:
    out: dict[str, list[Row]] = {}
    for fact in sorted(facts, key=lambda f: str(f["id"])):
        out.setdefault(_USES[fact["w"]], []).append({k: v for k, v in fact.items() if k != "w"})
    return out


class Drafted(msgspec.Struct, kw_only=True):
    """What an intent gives back when it does not refuse."""

    draft: Draft
    status: int  # HTTP status of the plain call
    refers: dict[str, UUID | None]  # kind -> id of what the answer shows; also what a repeated call shows again
    effects: list[Effect] = []
    secret: dict[str, str] = {}  # shown once, never stored
    hints: list[str] = []  # wake-ups to send after the commit
    rows: dict[str, Row] = {}  # kind -> the new object as a reader would find it, but for its times
