"""A draft carried out on the tables of a schedule: what the generated function of `store.ddl` does, in the same order and
with the same refusals. A test runs the same random drafts on both and compares rows and answers.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from nubila.store.database import Retry, quota_exceeded
from nubila.store.tables import TABLES
from nubila.testing.rows import Key, Row, Rows, taken

Undo = list[tuple[Rows, Key, Row | None]]


class Commit:
    """One transaction over the tables."""

    def __init__(self, tables: dict[str, Rows], now: str):
        self._tables, self._now = tables, now
        self.changed: Undo = []

    def run(self, draft: dict[str, Any]) -> dict[str, Any]:
        """Woken nodes and their revisions, and `now`. Raises as the database does, and leaves nothing."""
        try:
            self._facts(draft.get("facts", {}))
            self._write(draft)
            self._capacity(draft.get("capacity", []))
            woken = self._wake(draft)
            self._ranges(draft.get("ranges", []))
            self._quota(draft.get("quota", []))
        except BaseException:
            self.undo()
            raise
        return {**woken, "now": self._now}

    def undo(self) -> None:
        for table, key, _ in reversed(self.changed):
            table.drop(key)
        for table, key, was in reversed(self.changed):
            if was is None:
                table.drop(key)
            else:
                table.put(was)
        self.changed = []

    # --- facts

    def _facts(self, facts: dict[str, Any]) -> None:
        bad: list[dict[str, Any]] = []
        for t in TABLES:
            for uses in facts.get(t.name, {}).values():
                for fact in uses:
                    bad += self._compared(str(t.name), fact)
        for t in TABLES:
            users = [f["id"] for f in facts.get(t.name, {}).get("remove", ())]
            for user, column in t.references if users else ():
                bad += self._used(str(t.name), users, user, column)
        if bad:
            raise Retry("stale", bad)

    def _compared(self, kind: str, fact: Row) -> list[dict[str, Any]]:
        row = self._tables[kind].get(fact["id"])
        was = fact.get("g", fact.get("v"))
        if row is None or row.get("removed_at") is not None:
            return [{"kind": kind, "id": fact["id"], "was": True if was is None else was, "is_now": "gone"}]
        for word, column in (("g", "generation"), ("v", "version")):
            if word in fact and column in row and row[column] != fact[word]:
                is_now = row["generation" if "g" in fact else "version"]
                return [{"kind": kind, "id": fact["id"], "was": was, "is_now": is_now}]
        return []

    def _used(self, kind: str, ids: list[str], user: str, column: str) -> list[dict[str, Any]]:
        found = []
        for row in self._tables[user]:
            value = row[column]
            uses = bool(set(value or ()) & set(ids)) if isinstance(value, list | tuple) else value in ids
            own = user == kind and row["id"] in ids
            if uses and not own and row["removed_at"] is None:
                used = ids[0] if isinstance(value, list | tuple) else value
                found.append(
                    {"kind": kind, "id": used, "was": "unused", "is_now": "used", "user_kind": user, "user": row["id"]}
                )
        return found

    # --- rows

    def _write(self, draft: dict[str, Any]) -> None:
        deletes, updates, inserts = (draft.get(w, {}) for w in ("delete", "update", "insert"))
        for t in TABLES:
            table = self._tables[t.name]
            for row in deletes.get(t.name, ()):
                key = tuple(row[c] for c in table.key)
                was = table.drop(key)
                if was is not None:
                    self.changed.append((table, key, was))
            gone = [x for x in updates.get(t.name, ()) if not self._update(table, x)]
            if gone:
                raise Retry(
                    "stale", [{"kind": table.name, "id": x.get("id"), "was": True, "is_now": "gone"} for x in gone]
                )
            for row in inserts.get(t.name, ()):
                self._insert(table, row)

    def _update(self, table: Rows, new: Row) -> bool:
        key = tuple(new[c] for c in table.key)
        was = table.get(*key)
        if was is None:
            return False
        row = {**was, **{c: self._value(table, c, v) for c, v in new.items() if c in was and c not in table.key}}
        for kept in ("created_at", "version"):
            if kept in was:
                row[kept] = was[kept]
        if "version" in was:
            row["version"] += 1
        if "updated_at" in was:
            row["updated_at"] = self._now
        self._guard(table, was, row)
        table.put(row)
        self.changed.append((table, key, was))
        return True

    def _guard(self, table: Rows, was: Row, row: Row) -> None:
        legal = table.marked.transitions if table.marked is not None else None
        if legal and was["state"] != row["state"]:
            tos = {str(s.value) for k, v in legal.items() if k.value == was["state"] for s in v}
            if row["state"] not in tos:
                change = {"kind": table.name, "was": f"able to become {row['state']}", "is_now": was["state"]}
                raise Retry("transition", [change])

    def _insert(self, table: Rows, new: Row) -> None:
        row = {c: self._value(table, c, new.get(c)) for c in table.columns}
        for column, default in table.defaults.items():
            if row[column] is None and default is not None:
                row[column] = self._now if default == "now" else default
        key = tuple(row[c] for c in table.key)
        if key in table.rows:
            raise taken(f"{table.name}_pk")
        table.put(row)
        self.changed.append((table, key, None))

    def _value(self, table: Rows, column: str, value: Any) -> Any:
        if column in table.times and isinstance(value, str):
            return value.removesuffix("Z") + "+00:00" if value.endswith("Z") else value
        return value.lower() if column == "mac" and isinstance(value, str) else value

    # --- claims

    def _capacity(self, claims: list[Row]) -> None:
        bad = []
        for x in claims:
            row = self._tables["inventory"].get(x["n"], x["c"])
            claim = {"kind": "inventory", "id": x["n"], "class": x["c"], "was": x["a"]}
            if row is None:
                bad.append({**claim, "is_now": "gone"})
            elif x["a"] > 0 and row["used"] + x["a"] > row["total"] - row["reserved"]:
                bad.append({**claim, "is_now": row["total"] - row["reserved"] - row["used"]})
            else:
                self._put("inventory", {**row, "used": row["used"] + x["a"]})
        if bad:
            raise Retry("capacity", bad)

    def _quota(self, claims: list[Row]) -> None:
        for x in claims:
            row = self._tables["quota"].get(x["p"], x["c"])
            told = {"class": x["c"], "asked": x["a"], "limit": 0, "used": 0}
            if row is None:
                raise quota_exceeded(told)
            if x["a"] > 0 and row["used"] + x["a"] > row["amount"]:
                raise quota_exceeded({**told, "limit": row["amount"], "used": row["used"]})
            self._put("quota", {**row, "used": row["used"] + x["a"]})

    def _put(self, name: str, row: Row) -> None:
        table = self._tables[name]
        key = tuple(row[c] for c in table.key)
        self.changed.append((table, key, table.put(row)))

    def _wake(self, draft: dict[str, Any]) -> dict[str, int]:
        wake = [*draft.get("wake", ()), *self._groups(draft.get("groups", {}))]
        out: dict[str, int] = {}
        for node_id in sorted({x["n"] for x in wake}):
            row = self._tables["node_revision"].get(node_id)
            if row is not None:
                out[node_id] = row["revision"] + 1
                self._put("node_revision", {**row, "revision": out[node_id]})
        for x in wake:
            if x["n"] in out:
                row = {"node_id": x["n"], "vm_id": x["vm"], "revision": out[x["n"]], "kind": x.get("k", "vm")}
                old = self._tables["wanted"].get(x["n"], x["vm"])
                self._put("wanted", row if old is None else {**old, "revision": out[x["n"]]})
        return out

    def _groups(self, groups: dict[str, list[str]]) -> list[Row]:
        if not groups:
            return []
        rules, members = set(groups.get("rules", ())), set(groups.get("members", ()))
        told = [
            s
            for s in self._tables["security_group"]
            if s["removed_at"] is None and (s["id"] in rules or members & set(s["remote_ids"]))
        ]
        ports = [p for p in self._tables["port"] if p["removed_at"] is None]
        return [
            {"n": p["node_id"], "vm": s["id"], "k": "security_group"}
            for s in told
            for p in ports
            if s["id"] in p["group_ids"]
        ]

    def _ranges(self, claims: list[Row]) -> None:
        subnets = [s for s in self._tables["subnet"] if s["removed_at"] is None]
        bad = []
        for claim in claims:
            mine = [ipaddress.ip_network(s["cidr"]) for s in subnets if s["network_id"] == claim["net"]]
            here = {p["network_id"] for p in self._tables["port"].of("node_id", claim["n"]) if p["removed_at"] is None}
            for s in subnets:
                other = ipaddress.ip_network(s["cidr"])
                if s["network_id"] in here - {claim["net"]} and any(
                    m.version == other.version and m.overlaps(other) for m in mine
                ):
                    bad.append(
                        {"kind": "network", "id": claim["net"], "was": "alone in its range", "is_now": "not alone"}
                    )
        if bad:
            raise Retry("ranges", bad)
