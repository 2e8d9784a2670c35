"""What people read: plans, problems, tables, states, JSON, and exit codes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from nubila.cli import columns, exits, planning, table, terminal
from tests.cli.fake_api import OPERATOR_TOKEN, USER_TOKEN, Canned, Cli, Fake, problem

CREATE = ("vm", "create", "web", "--flavor", "s", "--image", "d")


def a_plan() -> dict[str, Any]:
    return {
        "id": "plan-9",
        "expires_at": (datetime.now(UTC) + timedelta(minutes=15)).isoformat(),
        "effects": [
            {"action": "create", "kind": "vm", "id": "vm-1", "name": "web", "details": {"node": "host1"}},
            {"action": "create", "kind": "address", "id": "adr-1", "name": None, "details": {"address": "10.0.0.5"}},
            {"action": "create", "kind": "volume", "id": "vol-1", "name": "web", "details": {"size_gib": 10}},
            {"action": "change", "kind": "node", "id": "node-1", "details": {"revision": {"was": 4, "becomes": 5}}},
        ],
        "rows": [{"action": "insert", "kind": "vm", "id": "vm-1"}],
        "facts": [{"kind": "project", "id": "prj-1", "generation": 3}],
        "quota_left": {"vms": {"limit": 10, "used": 4, "after": 5}, "cores": {"limit": 8, "used": 8, "after": 0}},
        "answer": {},
    }


def test_plan_is_a_table_and_ends_with_the_line_that_applies_it(cli: Cli, fake: Fake) -> None:
    fake.on("POST", "/v1/vms", Canned(a_plan()))
    ran = cli(*CREATE, "--plan", "--context", "home")
    lines = ran.out.splitlines()
    assert lines[0].split() == ["ACTION", "KIND", "NAME", "ID", "WHAT"]
    assert lines[1].split(maxsplit=5) == ["+", "create", "vm", "web", "vm-1", "node host1"]
    assert "address 10.0.0.5" in ran.out
    assert "size 10 GiB" in ran.out
    assert "revision 4 -> 5" in ran.out
    vms = next(line for line in lines if line.startswith("vms"))
    assert vms.split()[1:] == ["##########++............", "4", "10", "5"]
    assert "Nothing has been changed or reserved. It can be applied for 1" in ran.out
    assert lines[-1] == "nubila plan apply plan-9 --context home"


def test_plan_of_an_operator_says_so_in_its_line(cli: Cli, fake: Fake) -> None:
    fake.on("DELETE", "/v1/projects/p", Canned(a_plan()))
    assert cli("project", "delete", "p", "--plan").out.splitlines()[-1] == "nubila plan apply plan-9 --as operator"


def test_plan_show_lists_the_facts_and_the_rows_it_writes(cli: Cli, fake: Fake) -> None:
    fake.on("GET", "/v1/plans/plan-9", Canned(a_plan()))
    out = cli("plan", "show", "plan-9").out
    assert "Rests on:" in out
    assert "prj-1" in out
    assert ["vm", "vm-1", "insert"] in [line.split() for line in out.partition("Writes:")[2].splitlines()]


def test_plan_as_json_is_the_api_s(cli: Cli, fake: Fake) -> None:
    plan = a_plan()
    fake.on("POST", "/v1/vms", Canned(plan))
    assert cli(*CREATE, "--plan", "--json").json == plan


def test_empty_plan() -> None:
    assert planning.effects({"effects": []}) == "Nothing would change."


def test_stale_plan_shows_was_and_is_now(cli: Cli, fake: Fake) -> None:
    changed = [
        {"kind": "vm", "id": "vm-1", "was": 3, "is_now": 4},
        {"kind": "node", "id": "n-1", "was": 1, "is_now": "gone"},
    ]
    fake.on("POST", "/v1/plans/plan-9/apply", problem(409, "stale", "What it rested on has changed.", changed=changed))
    ran = cli("plan", "apply", "plan-9")
    assert ran.code == exits.CONFLICT
    lines = ran.err.splitlines()
    assert lines[0] == "error: What it rested on has changed."
    assert lines[1] == "changed:"
    assert lines[2].split() == ["KIND", "ID", "WAS", "IS", "NOW"]
    assert lines[3].split() == ["vm", "vm-1", "3", "4"]
    assert lines[4].split() == ["node", "n-1", "1", "gone"]
    assert lines[5:] == ["fix: Do something else.", "request: req-1"]
    assert ran.out == ""


def test_refusal_shows_its_numbers(cli: Cli, fake: Fake) -> None:
    fake.on(
        "POST",
        "/v1/vms",
        problem(
            507,
            "no-capacity",
            "No node can hold this VM.",
            filters=[{"filter": "memory", "refused": 3, "nearest_miss": {"short_mib": 512}}],
            would_fit={"memory_mib": 1024},
            nodes=3,
        ),
    )
    ran = cli(*CREATE)
    assert ran.code == exits.FAILED
    assert "filters:\n  FILTER  REFUSED  NEAREST MISS.SHORT MIB\n  memory  3        512" in ran.err
    assert "would fit:\n  memory_mib  1024" in ran.err
    assert "nodes: 3" in ran.err


@pytest.mark.parametrize(
    ("status", "slug", "code"),
    [
        (400, "bad-request", 1),
        (401, "unauthenticated", 5),
        (403, "forbidden", 5),
        (403, "quota-exceeded", 1),
        (404, "not-found", 3),
        (409, "conflict", 4),
        (409, "name-taken", 4),
        (412, "precondition-failed", 4),
        (422, "invalid", 1),
        (422, "idempotency-key-reused", 1),
        (429, "busy", 6),
        (500, "internal", 1),
        (503, "database-away", 6),
        (507, "no-capacity", 1),
        (507, "no-address", 1),
    ],
)
def test_exit_codes(cli: Cli, fake: Fake, status: int, slug: str, code: int) -> None:
    fake.on("POST", "/v1/vms", problem(status, slug, "No."))
    ran = cli(*CREATE)
    assert ran.code == code
    assert ran.err.startswith("error: No.\n")
    assert USER_TOKEN not in ran.err


def test_json_of_a_problem_is_on_stdout_and_words_on_stderr(cli: Cli, fake: Fake) -> None:
    fake.on("GET", "/v1/vms/web", problem(404, "not-found", "No such VM."))
    ran = cli("vm", "show", "web", "--json")
    assert ran.code == 3
    assert ran.json["slug"] == "not-found"
    assert "error: No such VM." in ran.err


def test_a_page_that_is_not_ours(cli: Cli, fake: Fake) -> None:
    fake.on("GET", "/v1/vms", Canned(b"<html>", 502, {"Content-Type": "text/html"}))
    ran = cli("vm", "list")
    assert ran.code == exits.UNAVAILABLE
    assert "status 502 and no problem document" in ran.err


def test_nobody_listens(cli: Cli, fake: Fake) -> None:
    fake.server.shutdown()
    fake.server.server_close()
    ran = cli("vm", "list")
    assert ran.code == exits.UNAVAILABLE
    assert "connection refused" in ran.err
    assert "fix: " in ran.err


@pytest.mark.parametrize(
    "line",
    [
        "vm create web",
        "vm nope",
        "nope",
        "vm list --limit x",
        "vm list -o xml",
        "vm show",
        "vm show a b",
        "vm label web x",
    ],
)
def test_wrong_usage(cli: Cli, fake: Fake, line: str) -> None:
    fake.on("GET", "/v1/vms/web", Canned({}))
    ran = cli(*line.split())
    assert ran.code == exits.USAGE
    assert ran.err.startswith("error: ")
    assert "fix: " in ran.err


def test_unknown_state_keeps_what_was_known() -> None:
    assert columns.state({"state": "unknown", "last_state": "running", "last_report_age_s": 42.7}) == (
        "unknown (last running, 42 s ago)"
    )
    assert columns.state({"state": "running", "unknown": True, "last_report_age_s": 400}) == (
        "unknown (last running, 6 min ago)"
    )
    assert columns.state({"state": "running", "last_report_age_s": 1.0}) == "running"
    assert columns.state({"state": "unknown"}) == "unknown"


def test_vm_list(cli: Cli, fake: Fake) -> None:
    vm = {
        "id": "vm-1",
        "kind": "vm",
        "name": "web",
        "state": "unknown",
        "last_state": "running",
        "last_report_age_s": 42,
        "flavor": "small",
        "image": "debian",
        "addresses": [{"address": "10.0.0.5", "network": "default"}, "fd00::5"],
        "node": "host1",
        "labels": {"tier": "web"},
        "spec": {"cores": 2, "memory_mib": 512},
    }
    fake.on("GET", "/v1/vms", Canned({"items": [vm], "next": None}))
    out = cli("vm", "list").out
    assert "unknown (last running, 42 s ago)" in out
    assert "10.0.0.5, fd00::5" in out
    assert "NODE" not in out
    wide = cli("vm", "list", "-o", "wide").out
    assert "MEMORY MiB" in wide
    assert "tier=web" in wide
    assert "host1" in cli("vm", "list", "--as", "operator").out


def test_empty_list(cli: Cli, fake: Fake) -> None:
    fake.on("GET", "/v1/volumes", Canned({"items": [], "next": None}))
    ran = cli("volume", "list")
    assert (ran.code, ran.out, ran.err) == (0, "", "There is no volume to show.\n")


def test_quota_bars(cli: Cli, fake: Fake) -> None:
    fake.on(
        "GET",
        "/v1/project",
        Canned({"project": {"id": "prj-1", "name": "p"}, "role": "owner", "quota": {"vms": {"limit": 4, "used": 1}}}),
    )
    out = cli("project", "show").out
    assert "role  owner" in out
    assert "vms    ######..................  1     4      3" in out


def test_terminal_sequences_are_stripped() -> None:
    evil = "a\x1b[2J\x1b]0;title\x07b\x1b]8;;http://x\x1b\\c\x9b31md\x1bPq\x1b\\e\x1b(Bf\x08g\u202eh\r\ni\rj\tk\x7f"
    assert terminal.clean(evil) == "abcdefgh\ni\nj\tk"
    assert terminal.clean("\x1b[31\x1b") == ""
    assert terminal.line("a\nb\x1b[1mc  d") == "a bc d"


def test_names_cannot_steer_the_terminal(cli: Cli, fake: Fake) -> None:
    evil = {
        "id": "vm-1",
        "kind": "vm",
        "name": "web\x1b[2J\nrow",
        "labels": {"\x1b]0;x\x07k": "v\x9b1m"},
        "state": "running",
    }
    fake.on("GET", "/v1/vms", Canned({"items": [evil], "next": None}))
    fake.on("GET", "/v1/vms/web", Canned(evil))
    for argv in (["vm", "list", "-o", "wide"], ["vm", "show", "web"], ["vm", "list", "-o", "name"]):
        out = cli(*argv).out
        assert "\x1b" not in out
        assert "\x9b" not in out
        assert "web row" in out
    fake.on("GET", "/v1/vms/bad", problem(400, "bad\x1b[1m", "no\x1b[2Jpe", extra="\x1b[1mx"))
    assert "\x1b" not in cli("vm", "show", "bad").err


def test_colour_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tty:
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert terminal.paint("x", "red", Tty()) == "\x1b[31mx\x1b[0m"  # type: ignore[arg-type]
    monkeypatch.setenv("NO_COLOR", "1")
    assert terminal.paint("x", "red", Tty()) == "x"  # type: ignore[arg-type]


def test_tables_align_and_name_units() -> None:
    assert table.render(("A", "SIZE GiB"), [("x", 1), ("longer", None)]) == "A       SIZE GiB\nx       1\nlonger  -"
    assert table.cell([1, "a"]) == "1, a"
    assert table.cell(0) == "0"
    assert table.cell(False) == "no"
    assert table.span(59) == "59 s"
    assert table.span(7300) == "2 h"


def test_tokens_are_nowhere(cli: Cli, fake: Fake) -> None:
    fake.on("GET", "/v1/me", problem(401, "unauthenticated", "No valid credential."))
    for argv in (
        ["me"],
        ["me", "--as", "operator"],
        ["me", "--json"],
        ["context", "show"],
        ["context", "list", "--json"],
    ):
        ran = cli(*argv)
        for token in (USER_TOKEN, OPERATOR_TOKEN):
            assert token not in ran.out + ran.err
            assert token.rsplit("_", 1)[1] not in ran.out + ran.err


def test_why_begins_with_the_sentence(cli: Cli, fake: Fake) -> None:
    why = {
        "operation": "create",
        "state": "waiting",
        "summary": "It waits for its node, which was last heard from 42 s ago.",
        "chain": [{"who": "create of vm web", "waits_for": "its node", "since_s": 42.0}],
        "deadline_in_s": 100.0,
        "can_cancel": True,
    }
    fake.on("GET", "/v1/operations/op-1/why", Canned(why))
    lines = cli("operation", "why", "op-1").out.splitlines()
    assert lines[0] == why["summary"]
    assert lines[2].split() == ["WHO", "WAITS", "FOR", "SINCE", "S"]
    assert "deadline_in_s  100.0" in lines


def test_a_list_of_two_is_no_change(cli: Cli, fake: Fake) -> None:
    effect = {
        "action": "create",
        "kind": "port",
        "id": "port-1",
        "details": {"addresses": ["10.0.0.5", "fd00::5"], "size": {"was": 1, "becomes": 2}},
    }
    fake.on("GET", "/v1/plans/plan-1", Canned({"id": "plan-1", "effects": [effect]}))
    out = cli("plan", "show", "plan-1").out
    assert "10.0.0.5, fd00::5" in out
    assert "1 -> 2" in out
    assert out.count("->") == 1


def test_more_gateways_than_subnets_are_refused(cli: Cli, fake: Fake) -> None:
    ran = cli("network", "create", "n", "--subnet", "10.1.0.0/24", "--gateway", "10.1.0.1", "--gateway", "10.1.0.2")
    assert ran.code == 2
    assert "2 gateways were given for 1 subnets" in ran.err
    assert not fake.asked


def test_a_plan_speaks_in_units_and_verbs_and_keeps_to_the_width(
    cli: Cli, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    details = {
        "memory_mib": {"was": 512, "becomes": 1024},
        "reboots": {"was": 0, "becomes": 1},
        "gone": {"was": False, "becomes": True},
        "zones": ["a", "b"],
        "labels": {f"label-{n}": "x" * 20 for n in range(6)},
    }
    effect = {
        "action": "change",
        "kind": "vm",
        "id": "vm-01k9zzzzzzzzzzzzzzzzzzzzzz",
        "name": "web",
        "details": details,
    }
    facts = [{"kind": "vm", "id": "vm-1", "generation": 1}]
    quota = {c: {"limit": 9, "used": 1, "after": 7} for c in ("vms", "cores")}
    fake.on(
        "POST", "/v1/vms/web/reboot", Canned({"id": "plan-1", "effects": [effect], "facts": facts, "quota_left": quota})
    )
    monkeypatch.setenv("COLUMNS", "80")
    out = cli("vm", "reboot", "web", "--plan").out
    assert "memory 512 MiB -> 1024 MiB" in " ".join(out.split())
    assert "rebooted once more" in " ".join(out.split())
    assert "gone" not in out
    assert "Rests on 1 fact: see `nubila plan show plan-1`." in out
    assert out.index("cores") < out.index("vms")  # a stored plan comes back in another order
    assert max(map(len, out.splitlines())) <= 80
    monkeypatch.setenv("COLUMNS", "400")
    assert "WHAT" in cli("vm", "reboot", "web", "--plan").out


def test_show_tells_what_is_wished_from_what_is_reported(cli: Cli, fake: Fake) -> None:
    vm = {
        "id": "vm-1", "kind": "vm", "name": "web", "state": "running", "project_id": None, "flavor": "tiny", "flavor_id": "flv-1",
        "spec": {"power": "on", "flavor_id": "flv-1", "cores": 2, "gone": False, "keys": ["ssh-ed25519 AAAA me@here"], "boot_string": ""},
        "status": {"power": "off", "reason": None, "guest": {"agent": True, "metadata_at": None}}, "created_at": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    fake.on("GET", "/v1/vms/web", Canned(vm))
    out = cli("vm", "show", "web").out
    head, wished, reported = out.split("\n\n")
    assert wished.splitlines() == ["wished:", "  cores  2", "  keys   me@here", "  power  on"]
    assert reported.splitlines() == ["reported:", "  guest.agent  yes", "  power        off"]
    assert "-1\n" in head and "flv-1" not in out and "project" not in out
    assert cli("vm", "show", "web", "--json").json == vm
