"""Waiting for operations: progress, how it ends, and what the exit code says."""

from __future__ import annotations

from typing import Any

import pytest

from nubila.cli import exits, progress
from nubila.client.calls import Calls
from nubila.client.transport import Transport
from tests.cli.fake_api import Asked, Canned, Cli, Fake, problem

CREATE = ("vm", "create", "web", "--flavor", "s", "--image", "d")
VM = {"id": "vm-1", "kind": "vm", "name": "web", "state": "pending"}


def operation(state: str, **status: Any) -> dict[str, Any]:
    spec = {"verb": "create", "resource_kind": "vm", "resource_id": "vm-1", "resource_name": "web"}
    return {"id": "op-1", "kind": "operation", "state": state, "spec": spec, "status": status}


@pytest.fixture
def created(fake: Fake) -> Fake:
    fake.on("POST", "/v1/vms", Canned({"vm": VM, "operation": operation("waiting")}, 201))
    fake.on("GET", "/v1/vms/vm-1", Canned({**VM, "state": "running", "addresses": ["10.0.0.5"]}))
    return fake


def test_waits_and_reads_the_object_again(cli: Cli, created: Fake) -> None:
    created.on(
        "GET",
        "/v1/operations/op-1",
        Canned(operation("running", doing="copying the image", progress=0.4)),
        Canned(operation("running", doing="starting")),
        Canned(operation("done")),
    )
    ran = cli(*CREATE)
    assert ran.code == 0
    assert ran.out == "vm web created: running, 10.0.0.5 (vm-1)\n"
    assert ran.err.splitlines() == ["create web: copying the image, 40%", "create web: starting", "create web: done"]
    polls = [a for a in created.asked if a.path == "/v1/operations/op-1"]
    assert all(float(a.query["wait"]) <= 20 for a in polls)


def test_json_after_waiting_has_the_shape_of_the_answer(cli: Cli, created: Fake) -> None:
    created.on("GET", "/v1/operations/op-1", Canned(operation("done")))
    found = cli(*CREATE, "--json").json
    assert found["vm"]["state"] == "running"
    assert found["operation"]["state"] == "done"


def test_no_wait_passes_the_answer_on(cli: Cli, created: Fake) -> None:
    ran = cli(*CREATE, "--no-wait")
    assert ran.out == "vm web: accepted, to be created (vm-1); `nubila operation wait op-1` waits for it\n"
    assert cli(*CREATE, "--no-wait", "--json").json == {"vm": VM, "operation": operation("waiting")}
    assert {a.method for a in created.asked} == {"POST"}


def test_failed(cli: Cli, created: Fake) -> None:
    created.on("GET", "/v1/operations/op-1", Canned(operation("failed", reason="the disk is full")))
    ran = cli(*CREATE)
    assert ran.code == exits.FAILED
    assert "error: create web: failed (the disk is full)." in ran.err
    assert "nubila operation why op-1" in ran.err
    assert ran.out == ""


def test_timeout_names_the_operation(cli: Cli, created: Fake) -> None:
    created.on("GET", "/v1/operations/op-1", Canned(operation("running", reason="no agent has come")))
    ran = cli(*CREATE, "--timeout", "0.05")
    assert ran.code == exits.TIMEOUT
    assert "is not done after 0.05 s (no agent has come); it goes on." in ran.err
    assert "nubila operation wait op-1" in ran.err


def test_a_server_that_is_away_meanwhile_is_waited_for(cli: Cli, created: Fake) -> None:
    created.on(
        "GET",
        "/v1/operations/op-1",
        problem(503, "database-away", "Away."),
        Canned(drop=True),
        Canned(drop=True),
        Canned(operation("done")),
    )
    naps: list[float] = []
    api = Calls(Transport(created.url), sleep=naps.append)
    last = list(api.follow("op-1", timeout_s=30))[-1]
    assert last["state"] == "done"
    assert len(naps) >= 2


def test_deleted_object_is_not_an_error(cli: Cli, fake: Fake) -> None:
    fake.on("DELETE", "/v1/vms/web", Canned({"vm": VM, "operation": operation("waiting")}, 202))
    fake.on("GET", "/v1/operations/op-1", Canned(operation("done")))
    ran = cli("vm", "delete", "web")
    assert (ran.code, ran.out) == (0, "vm web deleted (vm-1)\n")


def test_operation_wait(cli: Cli, fake: Fake) -> None:
    fake.on("GET", "/v1/operations/op-1", Canned(operation("running")), Canned(operation("done")))
    ran = cli("operation", "wait", "op-1")
    assert (ran.code, ran.out) == (0, "create web: done\n")
    fake.on("GET", "/v1/operations/op-1", Canned(operation("cancelled")))
    assert cli("operation", "wait", "op-1").code == exits.FAILED


def test_interrupted_wait_says_that_it_goes_on(cli: Cli, created: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(self: object, text: str) -> None:
        raise KeyboardInterrupt

    created.on("GET", "/v1/operations/op-1", Canned(operation("running")))
    monkeypatch.setattr(progress.Line, "show", stop)
    ran = cli(*CREATE)
    assert ran.code == exits.INTERRUPTED
    assert "The operation goes on" in ran.err


def test_line_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    line = progress.Line()
    line.show("one")
    line.end()
    assert capsys.readouterr().err == f"{progress.ERASE}one (0 s){progress.ERASE}"
    assert line.slice_s == progress.SLICE_TTY_S


def test_lost_answer_is_repeated_with_the_same_key(cli: Cli, fake: Fake) -> None:
    """The server acted and the connection broke: the repetition gets the first answer, nothing is made twice."""
    made: set[str | None] = set()

    def lose(asked: Asked) -> Canned:
        made.add(asked.key)
        return Canned(drop=True)

    def answer(asked: Asked) -> Canned:
        made.add(asked.key)
        return Canned({"vm": VM, "operation": operation("done")}, 201)

    fake.on("POST", "/v1/vms", lose, problem(503, "busy", "Busy.", retry_after="1"), answer)
    assert cli(*CREATE).code == 0
    assert len([a for a in fake.asked if a.method == "POST"]) == 3
    assert len(made) == 1


def test_repetitions_are_bounded(cli: Cli, fake: Fake) -> None:
    fake.on("POST", "/v1/vms", problem(503, "database-away", "Away.", retry_after="0"))
    ran = cli(*CREATE)
    assert ran.code == exits.UNAVAILABLE
    assert len(fake.asked) == 4
    assert len({a.key for a in fake.asked}) == 1


def test_refusals_are_not_repeated(cli: Cli, fake: Fake) -> None:
    fake.on("POST", "/v1/vms", problem(409, "name-taken", "Taken."))
    assert cli(*CREATE).code == exits.CONFLICT
    assert len(fake.asked) == 1


def test_two_calls_have_two_keys(cli: Cli, created: Fake) -> None:
    cli(*CREATE, "--no-wait")
    cli(*CREATE, "--no-wait")
    assert len({a.key for a in created.asked}) == 2
