"""Plans of every verb, with random arguments: a plan writes nothing, and its apply writes the rows that it showed.

The judge is the database: what the change log says that a request wrote, and a digest of every table.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import asyncpg
import pytest

from nubila.api import table
from nubila.api.operator.routes import ROUTES as OPERATOR
from nubila.api.route import Route
from nubila.api.user.routes import ROUTES as USER
from nubila.model import ids
from nubila.model.catalog import Plane
from nubila.model.shapes import TENANT_KINDS
from nubila.store.tables import BY_NAME
from tests.fleet import plan_cases
from tests.fleet.caller import Caller, Reply
from tests.fleet.hostile import VALID
from tests.fleet.installation import Installation, until
from tests.fleet.puppet import puppet_of
from tests.fleet.rig import Rig
from tests.fleet.tenant import absent, refused

TRIES = 6
CASES = {Plane.USER: plan_cases.USER, Plane.OPERATOR: plan_cases.OPERATOR}
WRITING = [(p, r) for p, rows in ((Plane.USER, USER), (Plane.OPERATOR, OPERATOR)) for r in rows if r.writes]
# what goes on by itself while nobody writes: seals, what nodes say of them, who leads, who was heard from
BUSY = frozenset({"plan", "call", "seal", "anchor", "lease", "node_seen", "alembic_version"})

Written = tuple[str, str, dict[str, Any]]  # kind, insert | update | delete, columns


def word(route: Route) -> str:
    return f"{route.method} {re.sub(r':[a-z_]+}', '}', route.path)}"


def planned(plane: Plane, route: Route) -> bool:
    return "plan" in table.common(plane, route)


def shown(route: tuple[Plane, Route]) -> str:
    return f"{route[0].value} {word(route[1])}"


class Judge:
    """The database, looked at over one connection."""

    def __init__(self, cloud: Installation):
        self._loop = asyncio.new_event_loop()
        connecting = asyncpg.connect(host=str(cloud.server.top), user="nubila", database="nubila")
        self._connection = self._loop.run_until_complete(connecting)
        names = self.sql("select tablename as name from pg_tables where schemaname = 'public'")
        # Whoever writes a row leaves the number of the transaction in it, and whoever removes one leaves one less.
        self._digest = " union all ".join(
            f"select '{n}' as name, count(*) || ' ' || coalesce(max(xmin::text::bigint), 0) as hash from \"{n}\""
            for n in sorted(r["name"] for r in names if r["name"] not in BUSY)
        )

    def close(self) -> None:
        self._loop.run_until_complete(self._connection.close())
        self._loop.close()

    def sql(self, text: str, *args: Any) -> list[Any]:
        found: list[Any] = self._loop.run_until_complete(self._connection.fetch(text, *args))
        return found

    def digest(self) -> dict[str, str]:
        return {r["name"]: r["hash"] for r in self.sql(self._digest)}

    def draft(self, plan: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            self.sql("select draft->'draft' as d from plan where id = $1", ids.parse("plan", plan))[0]["d"]
        )
        return found

    def written(self, reply: Reply) -> list[Written]:
        """What the change log says that a request wrote."""
        text = "select kind, action, content from change where request = $1 order by seq"
        rows = self.sql(text, reply.headers["x-request-id"])
        return [(r["kind"], r["action"], json.loads(r["content"])) for r in rows]


@pytest.fixture(scope="module")
def judge(cloud: Installation) -> Iterator[Judge]:
    made = Judge(cloud)
    yield made
    made.close()


@pytest.fixture(scope="module")
def rig(cloud: Installation) -> Iterator[Rig]:
    with puppet_of(cloud) as puppet:
        yield Rig(cloud, puppet, 20261121)


def drafted(draft: dict[str, Any]) -> Iterator[Written]:
    """The rows of a stored draft that the change log has to show."""
    for action in ("insert", "update", "delete"):
        for kind, rows in draft.get(action, {}).items():
            t = BY_NAME[kind]
            for row in rows if t.logged else ():
                columns = {k: v for k, v in row.items() if k not in t.unlogged_columns}
                if action != "update" or set(columns) - set(t.key):
                    yield kind, action, columns


def same(drafted_: Any, logged: Any) -> bool:
    """A value as the draft has it and as the row has it: moments are written in more than one way."""
    if isinstance(drafted_, str) and isinstance(logged, str) and drafted_ != logged:
        try:
            return datetime.fromisoformat(drafted_) == datetime.fromisoformat(logged)
        except ValueError:
            return False
    return bool(drafted_ == logged)


def equal(wrote: list[Written], wanted: list[Written]) -> bool:
    """Row by row, each with the columns that the draft gives it."""
    left = list(wrote)
    for kind, action, columns in wanted:
        found = [w for w in left if w[:2] == (kind, action) and all(same(v, w[2].get(k)) for k, v in columns.items())]
        if not found:
            return False
        left.remove(found[0])
    return not left


class Applied:
    """A plan, what its draft holds, and what its apply wrote: in the log, and as its caller reads the log."""

    def __init__(self, judge: Judge, caller: Caller, route: Route, path: str, body: Any):
        self.plan: dict[str, Any] = {}
        for _ in range(TRIES):  # what it is about goes on by itself: then it is planned anew
            before = judge.digest()
            reply = caller.call(route.method, f"{path}?plan=1", body)
            after = judge.digest()
            plan = reply.ok()
            assert judge.written(reply) == []
            if before != after:
                continue
            self.draft = list(drafted(judge.draft(plan["id"])))
            start = caller.get("/v1/changes?after=end").ok()["cursor"]
            applied = caller.post(f"/v1/plans/{plan['id']}/apply")
            if applied.status != 409:
                applied.ok()
                self.plan, self.wrote = plan, judge.written(applied)
                self.read = self._read(caller, start, applied.headers["x-request-id"])
                return
        changed = [k for k in after if after[k] != before[k]]
        raise AssertionError(f"{route.method} {path}: never at rest: {changed or applied}")

    def _read(self, caller: Caller, start: str, request: str) -> list[tuple[str, str, str | None]]:
        def look() -> list[Any]:
            items = caller.get(f"/v1/changes?after={start}&limit=1000").ok()["items"]
            return [i for i in items if i["request"] == request]

        wanted = len(self.plan["rows"])
        if wanted:
            until(lambda: len(look()) >= wanted, 5, why=f"rows that the plan showed: {self.plan['rows']}")
        return [(i["action"], i["kind"], i["id"]) for i in look()]


def rounds(judge: Judge, rig: Rig, route: tuple[Plane, Route], times: int) -> None:
    caller = rig.owner if route[0] is Plane.USER else rig.operator
    for _ in range(times):
        path, body = CASES[route[0]][word(route[1])](rig)
        done = Applied(judge, caller, route[1], path, body)
        assert equal(done.wrote, done.draft), (path, body, done.wrote, done.draft)
        promised = [(r["action"], r["kind"], r["id"]) for r in done.plan["rows"]]
        assert Counter(done.read) == Counter(promised), (path, body)
        named = {(kind, object_id) for _, kind, object_id in promised}
        at_once = [e for e in done.plan["effects"] if e["kind"] in TENANT_KINDS and e["action"] != "remove"]
        assert {(e["kind"], e["id"]) for e in at_once} <= named, (path, body, done.plan)


ROUTED = pytest.mark.parametrize("route", [pytest.param(w, id=shown(w)) for w in WRITING if planned(*w)])


@ROUTED
def test_apply_writes_the_rows_of_the_plan_and_the_plan_none(
    judge: Judge, rig: Rig, route: tuple[Plane, Route]
) -> None:
    rounds(judge, rig, route, 2)


@pytest.mark.long
@ROUTED
def test_the_same_many_times(judge: Judge, rig: Rig, route: tuple[Plane, Route]) -> None:
    rounds(judge, rig, route, 25)


def test_every_route_that_writes_has_a_case_or_a_reason() -> None:
    for plane, cases in CASES.items():
        assert set(cases) == {word(r) for p, r in WRITING if p is plane and planned(p, r)}
    assert {r.permission for p, r in WRITING if not planned(p, r)} == set(plan_cases.UNPLANNED)


@pytest.mark.parametrize("route", [pytest.param(w, id=shown(w)) for w in WRITING if not planned(*w)])
def test_what_cannot_be_planned_says_so_and_writes_nothing(judge: Judge, rig: Rig, route: tuple[Plane, Route]) -> None:
    caller = rig.owner if route[0] is Plane.USER else rig.operator
    path = re.sub(r"\{([a-z_]+)(?::[a-z_]+)?\}", lambda m: absent(m[1]), route[1].path)
    reply = caller.call(route[1].method, f"{path}?plan=1", VALID.get(route[1].permission))
    told = refused(reply, 422, "invalid")
    assert (told["where"], told["field"]) == ("query", "plan")
    assert judge.written(reply) == []


def test_a_row_that_the_plan_did_not_show_is_noticed() -> None:
    """The twin: the comparison tells a row too many, one too few, and one with another value."""
    row: Written = ("vm", "update", {"id": "x", "state": "running"})
    assert equal([row], [("vm", "update", {"id": "x"})])
    assert not equal([row, row], [row])
    assert not equal([], [row])
    assert not equal([row], [("vm", "update", {"id": "x", "state": "stopped"})])
