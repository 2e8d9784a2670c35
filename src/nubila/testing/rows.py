"""The tables of a schedule: rows as PostgreSQL would show them as JSON, with the keys, checks and transitions of the product's
literal table of tables. Written by `commit` alone, and undone by it.

Rows are replaced and never changed in place, so whoever read one has it as it was.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from nubila import errors
from nubila.store.database import CLAIMS, Retry
from nubila.store.shape import Table, metadata
from nubila.store.tables import BY_NAME

Row = dict[str, Any]
Key = tuple[Any, ...]

# What views look up rows by, beside their keys.
INDEXED: dict[str, tuple[str, ...]] = {
    "port": ("vm_id", "network_id", "node_id"),
    "attachment": ("vm_id", "volume_id"),
    "operation": ("resource_id",),
    "address": ("port_id", "network_id"),
    "allocation": ("holder_id",),
    "snapshot": ("volume_id",),
    "volume": ("source_id",),
    "subnet": ("network_id",),
    "drift": ("node_id",),
    "wanted": ("node_id",),
    "virt_method": ("node_id",),
    "inventory": ("node_id",),
    "quota": ("project_id",),
}
# condition of a unique index -> whether a row is in it
WITHIN: dict[str, Callable[[Row], bool]] = {
    "removed_at is null": lambda r: r["removed_at"] is None,
    "state in ('active', 'revoking')": lambda r: r["state"] in ("active", "revoking"),
}
# CHECK constraints that no pattern below reads
CHECKS: dict[str, Callable[[Row], bool]] = {
    "removal_is_wished": lambda r: r["state"] not in ("removing", "removed") or r["spec"]["gone"],
    "observed_not_ahead": lambda r: r["observed_generation"] <= r["generation"],
    "ready_has_content": lambda r: r["state"] != "ready" or r["sha256"] is not None,
    "one_holder": lambda r: (r["vm_id"] is None) != (r["operation_id"] is None),
    "incoming_has_migration": lambda r: r["state"] != "incoming" or r["migration_id"] is not None,
    "revoked_has_proof": lambda r: r["state"] != "revoked" or r["proof"] is not None,
    "amounts_make_sense": lambda r: r["used"] >= 0 and 0 <= r["reserved"] <= r["total"],
    "used_not_negative": lambda r: r["used"] >= 0,
    "amount_not_negative": lambda r: r["amount"] >= 0,
    "ended_has_time": lambda r: (r["state"] in ("done", "overtaken", "cancelled")) == (r["ended_at"] is not None),
    "placed_has_both": lambda r: (r["vm_id"] is None) == (r["node_id"] is None),
    "gateway_has_no_port": lambda r: (r["origin"] == "gateway") == (r["port_id"] is None),
    "user_has_project": lambda r: (r["plane"] == "user") == (r["project_id"] is not None),
    "loss_is_declared": lambda r: r["state"] != "lost" or r["spec"].get("lost", False),
    "one_way_out": lambda r: not (r["spec"].get("maintenance", False) and r["spec"].get("draining", False)),
    "used_by_a_node": lambda r: (r["used_at"] is None) == (r["node_id"] is None),
}
# What is true of whatever the product can write into a cidr and its gateway; the simulation has one network for each project.
UNCHECKED = frozenset({"gateway_inside", "only_one"})
_IN = re.compile(r"(\w+|\"right\") in \(([^()]*)\)")
_IS = re.compile(r"(\w+|\"right\") = '(\w+)'")
_POSITIVE = re.compile(r"(\w+) > 0")
_TOMBSTONE = re.compile(r"\(state = '(\w+)'\) = \(removed_at is not null\)")


def _read(text: str) -> Callable[[Row], bool] | None:
    if m := _TOMBSTONE.fullmatch(text):
        return lambda r, state=m[1]: (r["state"] == state) == (r["removed_at"] is not None)  # type: ignore[misc]
    if m := _IN.fullmatch(text):
        known = set(re.findall(r"'([^']*)'", m[2]))
        return lambda r, c=m[1].strip('"'): r[c] in known  # type: ignore[misc]
    if m := _IS.fullmatch(text):
        return lambda r, c=m[1].strip('"'), v=m[2]: r[c] == v  # type: ignore[misc]
    if m := _POSITIVE.fullmatch(text):
        return lambda r, c=m[1]: r[c] > 0  # type: ignore[misc]
    return None


def checks(table: sa.Table) -> dict[str, Callable[[Row], bool]]:
    """Constraint -> what it says of a row. Raises KeyError for one that nobody has taught the simulation."""
    found = {}
    for c in table.constraints:
        if isinstance(c, sa.CheckConstraint):
            full = str(c.name)
            name = full.removeprefix(f"{table.name}_")
            if name not in UNCHECKED:
                found[full] = _read(str(c.sqltext)) or CHECKS[name]
    return found


class Unique:
    """A unique index."""

    def __init__(self, name: str, columns: tuple[str, ...], within: Callable[[Row], bool] | None):
        self.name, self._columns, self._within = name, columns, within
        self._rows: dict[Key, Key] = {}

    def key(self, row: Row) -> Key | None:
        if self._within is not None and not self._within(row):
            return None
        return tuple(row[c] for c in self._columns)

    def put(self, row: Row, key: Key) -> bool:
        """False when another row has it."""
        own = self.key(row)
        if own is None:
            return True
        if self._rows.get(own, key) != key:
            return False
        self._rows[own] = key
        return True

    def drop(self, row: Row, key: Key) -> None:
        own = self.key(row)
        if own is not None and self._rows.get(own) == key:
            del self._rows[own]


class Rows:
    """One table."""

    def __init__(self, table: sa.Table, marked: Table | None):
        self.name = str(table.name)
        self.key = tuple(c.name for c in table.primary_key.columns)
        self.columns = tuple(c.name for c in table.columns)
        self.times = tuple(c.name for c in table.columns if isinstance(c.type, sa.TIMESTAMP))
        self.defaults = {c.name: _default(c) for c in table.columns}
        self.marked = marked
        self.rows: dict[Key, Row] = {}
        self.by: dict[str, dict[Any, dict[Key, Row]]] = {c: {} for c in INDEXED.get(self.name, ())}
        self.unique = [_unique(i) for i in table.indexes if i.unique]
        self.checks = checks(table)

    def __iter__(self) -> Iterator[Row]:
        return iter(list(self.rows.values()))

    def of(self, column: str, value: Any) -> list[Row]:
        """The rows with that value, by their keys."""
        found = self.by[column].get(value)
        return [] if not found else [found[k] for k in sorted(found, key=str)]

    def get(self, *key: Any) -> Row | None:
        return self.rows.get(key)

    def put(self, row: Row) -> Row | None:
        """Raises what a commit raises for it; returns the row that was there."""
        for name, holds in self.checks.items():
            if not holds(row):
                raise errors.NubilaError(inside=f"23514 {name} {row}")
        key = tuple(row[c] for c in self.key)
        was = self.rows.get(key)
        if was is not None:
            self._unlist(was, key)
        for n, index in enumerate(self.unique):
            if not index.put(row, key):
                for other in self.unique[:n]:
                    other.drop(row, key)
                if was is not None:
                    self._list(was, key)
                raise taken(index.name)
        self.rows[key] = row
        self._list(row, key)
        return was

    def drop(self, key: Key) -> Row | None:
        was = self.rows.pop(key, None)
        if was is not None:
            self._unlist(was, key)
        return was

    def _list(self, row: Row, key: Key) -> None:
        for column, index in self.by.items():
            index.setdefault(row[column], {})[key] = row
        for unique in self.unique:
            unique.put(row, key)

    def _unlist(self, row: Row, key: Key) -> None:
        for column, index in self.by.items():
            index[row[column]].pop(key, None)
        for unique in self.unique:
            unique.drop(row, key)


def taken(constraint: str) -> errors.NubilaError:
    """As `store.database.refusal` reads a unique violation."""
    if constraint in CLAIMS:
        return Retry(CLAIMS[constraint][1], [{"kind": CLAIMS[constraint][1], "was": "free", "is_now": "taken"}])
    if constraint.endswith("_name_key"):
        kind = constraint.removesuffix("_name_key")
        return errors.NameTaken(f"Another {kind} already has that name.", kind=kind)
    return errors.NubilaError(inside=f"23505 {constraint}")


def _default(column: sa.Column[Any]) -> Any:
    default = column.server_default
    if default is None:
        return None
    text = str(getattr(getattr(default, "arg", ""), "text", getattr(default, "arg", "")))
    if text == "now()":
        return "now"
    if text in ("'{}'", "{}"):
        return () if isinstance(column.type, pg.ARRAY) else {}
    if isinstance(column.type, sa.Text):
        return text.strip("'")
    return text == "true" if text in ("true", "false") else int(text)


def _unique(index: sa.Index) -> Unique:
    where = index.dialect_options["postgresql"]["where"]
    within = None if where is None else WITHIN[str(where)]
    columns = ("project_id", "name") if index.name == "image_name_key" else tuple(c.name for c in index.columns)
    return Unique(str(index.name), columns, within)


def tables() -> dict[str, Rows]:
    """Every table of the product, empty."""
    return {name: Rows(table, BY_NAME.get(name)) for name, table in metadata.tables.items()}
