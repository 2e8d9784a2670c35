"""The views of the past: whatever a list or a resource reads is read as it was, by index walks alone."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from tests.world import World

from nubila.api.context import Context
from nubila.api.noun.shown import SHOWN
from nubila.store import past_views, resource
from nubila.store.past import MARK, Moment, PastDatabase
from nubila.store.resource import Filter, ResourceStore
from nubila.store.tables import BY_NAME, TABLES

# read as they are now, on purpose: how long a node was silent is not known of the past
PRESENT = {"node_seen"}


def scans(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return ([plan] if "Relation Name" in plan else []) + [s for p in plan.get("Plans", ()) for s in scans(p)]


@pytest.mark.parametrize(
    ("kind", "scoped"),
    [(k, s) for k in sorted(SHOWN) for s in (True, False) if not s or "project_id" in BY_NAME[k].table.c],
)
async def test_a_list_of_then_reads_no_table_that_is_not_logged_and_scans_none(
    world: World, kind: str, scoped: bool
) -> None:
    """A table that is joined and not logged would show the present in an answer about the past."""
    query = resource.listing(kind, scoped, (), False, False)
    values = query.values({"project_id": world.project_id, "labels": "{}", "after": None, "limit": 100})
    past = PastDatabase(world.database, Moment(at=await world.database.value("select clock_timestamp()")))
    plan = json.loads(await past.value(f"explain (format json) {query.sql}", *values))
    found = scans(plan[0]["Plan"])
    logged = {t.name for t in TABLES if t.logged}
    assert {s["Relation Name"] for s in found} <= logged | {"change"} | PRESENT
    walks = [s for s in found if s["Relation Name"] == "change"]
    assert walks
    assert {s["Node Type"] for s in walks} == {"Index Scan"}
    assert {s["Index Name"] for s in walks} == {"change_object_idx"}


def test_every_store_of_a_context_has_a_past() -> None:
    """A store that is forgotten in `as_of` would read the present."""
    import inspect

    stores = {f.name for f in dataclasses.fields(Context) if "Store" in str(f.type) or "Rows" in str(f.type)}
    source = inspect.getsource(Context.as_of)
    assert {n for n in stores if f"{n}=" not in source} <= {"images", "work"}  # of bytes; of the background loop


def test_columns_taken_from_the_live_table_never_change() -> None:
    """`FIXED` leads to rows by the live table's indexes; a draft that changes such a column would falsify the past."""
    import ast
    from pathlib import Path

    import nubila.intent

    for file in Path(nubila.intent.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("changes", "removes")
            ):
                assert not {k.arg for k in node.keywords} & past_views.FIXED, (file.name, node.lineno)


async def test_the_present_is_what_the_past_says_of_now(world: World) -> None:
    await world.create_vm("a")
    now = Moment(at=await world.database.value("select clock_timestamp()"))
    for kind in ("vm", "port", "volume", "network", "flavor", "image", "operation", "project", "node"):
        of_now = await ResourceStore(world.database).list(kind, Filter())
        of_then = await ResourceStore(PastDatabase(world.database, now)).list(kind, Filter())
        unsure = {"silent_s", "inventory", "holds"}
        assert [{k: v for k, v in r.items() if k not in unsure} for r in of_then] == [
            {k: v for k, v in r.items() if k not in unsure} for r in of_now
        ], kind
    assert MARK.strip().startswith("--")
