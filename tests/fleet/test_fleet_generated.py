"""Requests generated from the OpenAPI document of user and operator API, as somebody who may do everything there.

Wrong ones are refused with what to do and change nothing; right ones are answered as the document says; no answer is a
500, no log line a stack trace. More of the same in `make exhaustive`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import counts
from tests.fleet.generated import Run, run
from tests.fleet.installation import Installation, installed
from tests.fleet.tenant import Tenant
from tests.fleet.test_fleet_input import names_of
from tests.processes import until

pytestmark = pytest.mark.slow
MORE = os.environ.get("NUBILA_EXHAUSTIVE") == "1"
# What would take the caller's own credential, place or door away.
FINAL = ("delete_tokens_by_token", "delete_projects_by_project", "put_projects_by_project_members_by_user",
         "delete_projects_by_project_members_by_user", "patch_users_by_user", "delete_users_by_user",
         "patch_projects_by_project")  # fmt: skip
OPERATIONS = {"user": 80, "operator": 80}


class Place:
    """An installation of its own, since right requests change things, with one of everything in it."""

    def __init__(self, cloud: Installation, top: Path):
        self.cloud, self.top = cloud, top
        self.tenant = Tenant(cloud)
        self.names = names_of(cloud, self.tenant)
        self.vm_id: str = self.tenant.vm("a")["id"]

    def plan(self) -> str:
        """A plan of an operator: discarded by some request or other."""
        made: str = self.cloud.operator().post("/v1/projects?plan=1", {"name": "planned"}).ok()["id"]
        return made

    def both(self, what: Run, operators_plan: str) -> int:
        """Both planes side by side; returns how many requests there were."""
        operator = {**self.names, "vm": self.vm_id, "network": self.tenant.network_id, "plan": operators_plan}
        users = ("user", self.tenant.token, self.names)
        with ThreadPoolExecutor(2) as pool:
            planes = (users, ("operator", self.cloud.operator_token, operator))
            found = list(pool.map(lambda p: run(self.cloud, *p, self.top, what), planes))
        for plane, f in zip(OPERATIONS, found, strict=True):
            counts.add(counts.GENERATED, f.cases)
            assert f.failures == (), f.text[-20000:]
            assert f.complete
            assert f.operations >= OPERATIONS[plane]
        assert self.cloud.faults() == []
        return sum(f.cases for f in found)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with installed(nodes=1) as cloud:
        yield Place(cloud, tmp_path_factory.mktemp("generated"))


# every value that the document allows no more, one at a time; or a request each that is wrong in some ways
WRONG = Run(mode="negative", phases="coverage", limit_s=1800) if MORE else Run(mode="negative", phases="fuzzing")
RIGHT = Run(mode="positive", phases="fuzzing", examples=30 if MORE else 1, limit_s=1800, without=FINAL)


def test_generated_wrong_requests_are_refused_and_change_nothing(place: Place) -> None:
    operators_plan = place.plan()
    with place.cloud.nothing_written("decision"):  # a refused placement is kept, with its numbers
        cases = place.both(WRONG, operators_plan)
    assert cases > sum(OPERATIONS.values())


def test_generated_right_requests_are_answered_as_the_document_says(place: Place) -> None:
    assert place.both(RIGHT, place.plan()) > sum(OPERATIONS.values())


def test_a_log_line_stays_one_line_whatever_the_address_says(place: Place) -> None:
    place.tenant.owner.get("/v1/vms/a%C2%85%C2%9B2J%E2%80%A8b")
    log = place.cloud.logs / "front1.log"
    until(lambda: "a%C2%85%C2%9B2J%E2%80%A8b" in log.read_text(), why="a request's line follows its answer")
    text = log.read_text()
    assert all(line.isprintable() for line in text.split("\n"))
