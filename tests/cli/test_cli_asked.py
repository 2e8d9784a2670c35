"""What commands ask for beyond one request: filters, pages, moments, watching; and how answers are shown."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.fake_api import OPERATOR_TOKEN, USER_TOKEN, Asked, Canned, Cli, Fake, problem

DONE = {"id": "op-1", "kind": "operation", "state": "done", "spec": {"verb": "create"}}
VM = {"id": "vm-1", "kind": "vm", "name": "web", "state": "running", "addresses": ["10.0.0.5"], "labels": {"a": "1"}}
MADE = {"vm": VM, "operation": DONE}


def obj(kind: str, **more: Any) -> dict[str, Any]:
    return {"id": f"{kind}-1", "kind": kind, "name": "x", **more}


def test_label_sends_all_labels_and_the_etag_it_read(cli: Cli, fake: Fake) -> None:
    fake.on("GET", "/v1/vms/web", Canned(VM, headers={"ETag": '"3.7"'}))
    fake.on("PATCH", "/v1/vms/web", Canned(MADE))
    assert cli("vm", "label", "web", "b=2", "a-").code == 0
    asked = fake.last("PATCH")
    assert asked.json == {"labels": {"b": "2"}}
    assert asked.headers["if-match"] == '"3.7"'


def test_filters_and_pages(cli: Cli, fake: Fake) -> None:
    fake.on(
        "GET",
        "/v1/vms",
        Canned({"items": [{"name": "a"}, {"name": "b"}], "next": "/v1/vms?limit=3&label=t%3Dx&after=abc"}),
        Canned({"items": [{"name": "c"}, {"name": "d"}], "next": None}),
    )
    ran = cli("vm", "list", "--label", "t=x", "--state", "running", "--limit", "3", "-o", "name")
    assert ran.out.split() == ["a", "b", "c"]
    assert fake.asked[0].query == {"label": "t=x", "state": "running", "limit": "3"}
    assert fake.asked[1].query == {"limit": "3", "label": "t=x", "after": "abc"}


def test_a_next_link_elsewhere_gets_no_token(cli: Cli, fake: Fake) -> None:
    """Only the query of a next link is used, never its host."""
    fake.on(
        "GET",
        "/v1/vms",
        Canned({"items": [], "next": "https://192.0.2.1/v1/vms?after=x"}),
        Canned({"items": [], "next": None}),
    )
    assert cli("vm", "list").code == 0
    assert [a.path for a in fake.asked] == ["/v1/vms", "/v1/vms"]


def test_names_are_one_segment(cli: Cli, fake: Fake) -> None:
    assert cli("vm", "show", "../operations/x?y").code == 3
    assert fake.asked[0].path == "/v1/vms/..%2Foperations%2Fx%3Fy"
    assert cli("vm", "show", "..").code == 2


def test_user_data_from_a_file(cli: Cli, fake: Fake, tmp_path: Path) -> None:
    (tmp_path / "init").write_text("#cloud-config\n")
    fake.on("POST", "/v1/vms", Canned(MADE))
    cli("vm", "create", "web", "--flavor", "s", "--image", "d", "--user-data", str(tmp_path / "init"))
    assert fake.last("POST").json["user_data"] == "#cloud-config\n"


def test_if_match_and_own_key(cli: Cli, fake: Fake) -> None:
    fake.on("POST", "/v1/vms/web/start", Canned(MADE))
    cli("vm", "start", "web", "--if-match", '"1.2"', "--idempotency-key", "mine")
    assert (fake.asked[0].headers["if-match"], fake.asked[0].key) == ('"1.2"', "mine")


def test_operator_only_context_lists_as_operator(cli: Cli, fake: Fake, contexts_file: Path) -> None:
    text = contexts_file.read_text().replace(f'"user_token": "{USER_TOKEN}", ', "")
    contexts_file.write_text(text)
    fake.on("GET", "/v1/vms", Canned({"items": [], "next": None}))
    assert cli("vm", "list").code == 0
    assert fake.asked[0].headers["authorization"] == f"Bearer {OPERATOR_TOKEN}"
    ran = cli("keypair", "list")
    assert ran.code == 2
    assert "no user_token" in ran.err


def test_names_of_what_is_named_by_its_id(cli: Cli, fake: Fake) -> None:
    """-o name prints what the next command takes."""
    for noun, path in (
        ("operation", "operations"),
        ("token", "tokens"),
        ("plan", "plans"),
        ("join-token", "join-tokens"),
    ):
        fake.on("GET", f"/v1/{path}", Canned({"items": [{"id": "x-1", "name": "stop vm web"}], "next": None}))
        assert cli(noun, "list", "-o", "name").out == "x-1\n"
    fake.on("GET", "/v1/vms", Canned({"items": [{"id": "vm-1", "name": "web"}], "next": None}))
    assert cli("vm", "list", "-o", "name").out == "web\n"


def test_show_prints_the_etag_that_if_match_takes(cli: Cli, fake: Fake) -> None:
    fake.on("GET", "/v1/vms/web", Canned(VM, headers={"ETag": '"3.7"'}))
    assert "etag" in cli("vm", "show", "web").out
    shown = cli("vm", "show", "web", "--json").json
    assert shown == {**VM, "etag": "3.7"}
    fake.on("POST", "/v1/vms/web/start", Canned(MADE))
    for given, sent in ((shown["etag"], '"3.7"'), ('"3.7"', '"3.7"'), ("*", "*"), ('W/"3"', 'W/"3"')):
        cli("vm", "start", "web", "--if-match", given)
        assert fake.last("POST").headers["if-match"] == sent


def test_what_is_so_already_is_no_failure(cli: Cli, fake: Fake) -> None:
    fake.on("POST", "/v1/vms/web/start", problem(409, "conflict", "VM 'web' is running already.", already=True))
    ran = cli("vm", "start", "web")
    assert (ran.code, ran.out, ran.err) == (0, "VM 'web' is running already.\n", "")
    fake.on("POST", "/v1/vms/web/start", problem(409, "conflict", "VM 'web' is suspended already.", already=False))
    assert cli("vm", "start", "web").code == 4


def test_cancel_says_what_becomes_of_it(cli: Cli, fake: Fake) -> None:
    op = {"id": "op-1", "state": "cancelled", "spec": {"verb": "stop", "resource_name": "web"}}
    answer = {"operation": op, "cancelled": "yes", "detail": "The VM is wished running again."}
    fake.on("POST", "/v1/operations/op-1/cancel", Canned(answer))
    ran = cli("operation", "cancel", "op-1")
    assert (ran.code, ran.out) == (0, "stop web: cancelled. The VM is wished running again.\n")
    late = {"operation": {**op, "state": "done"}, "cancelled": "no", "detail": "Too late: it is done already."}
    fake.on("POST", "/v1/operations/op-1/cancel", Canned(late))
    ran = cli("operation", "cancel", "op-1")
    assert (ran.code, ran.out) == (4, "stop web: done. Too late: it is done already.\n")


def test_a_member_is_given_a_role_or_loses_it(cli: Cli, fake: Fake) -> None:
    assert cli("project", "member", "p", "ada").code == 2
    assert cli("project", "member", "p", "ada", "--role", "owner", "--remove").code == 2
    assert not fake.asked


def test_audit_says_what_was_done_to_which_row_and_fails(cli: Cli, fake: Fake) -> None:
    found = {
        "what": "altered",
        "detail": "Row 7 is not what was sealed.",
        "kind": "vm",
        "id": "vm-1",
        "actor": "user:x",
    }
    sound = {"sound": True, "rows": 9, "seals": 2, "unsealed_rows": 0, "head": "1.2.ab", "findings": []}
    fake.on("GET", "/v1/audit", Canned(sound), Canned({**sound, "sound": False, "findings": [found]}))
    ran = cli("audit", "verify", "--anchor", "1.1.aa")
    assert (ran.code, fake.asked[0].query) == (0, {"anchor": "1.1.aa"})
    assert "sound: 9 rows, 2 seals" in ran.out
    ran = cli("audit", "verify")
    assert ran.code == 1
    assert "altered: Row 7 is not what was sealed. (vm vm-1 user:x)" in ran.out


def test_a_history_reads_well(cli: Cli, fake: Fake) -> None:
    fields = [
        {"field": "state", "was": "starting", "is_now": "running"},
        {"field": "labels.tier", "was": None, "is_now": "web"},
    ]
    item = {
        "at": "2026-01-31T12:00:00.123456+00:00",
        "actor": "user:usr-1",
        "request": "req-1",
        "action": "update",
        "changes": fields,
    }
    by_hand = {**item, "actor": "changed in the database by hand", "request": None, "changes": fields[:1]}
    fake.on("GET", "/v1/vms/web/history", Canned({"items": [by_hand, item], "next": None}))
    ran = cli("vm", "history", "web")
    assert ran.out.splitlines() == [
        "2026-01-31T12:00:00.123Z  changed in the database by hand: changed",
        "    state  starting -> running",
        "2026-01-31T12:00:00.123Z  changed by user:usr-1  req-1",
        "    state        starting -> running",
        "    labels.tier  web",
    ]


def test_a_moment_goes_with_every_read(cli: Cli, fake: Fake) -> None:
    fake.on("GET", "/v1/vms/web", Canned({"changes": [{"field": "state", "was": "stopped", "is_now": "running"}]}))
    ran = cli("vm", "show", "web", "--as-of", "2026-01-31T12:00:00Z", "--until", "now")
    assert fake.asked[0].query == {"as_of": "2026-01-31T12:00:00Z", "until": "now"}
    assert ran.out == "    state  stopped -> running\n"


def test_events_are_shown_as_they_come(cli: Cli, fake: Fake) -> None:
    told = {"at": "2026-01-31T12:00:00.5+00:00", "kind": "vm", "id": "vm-1", "action": "update", "actor": "user:usr-1"}
    change = json.dumps({**told, "content": {"name": "web", "state": "running"}})
    end = json.dumps({"slug": "unauthenticated", "detail": "No valid credential."})
    lines = [
        "id: 1.2.3",
        "event: change",
        f"data: {change}",
        "",
        ": nothing new",
        "",
        "id: 1.2.3",
        "event: end",
        f"data: {end}",
        "",
        "",
    ]
    fake.on("GET", "/v1/events", Canned("\n".join(lines).encode(), headers={"Content-Type": "text/event-stream"}))
    ran = cli("events", "--kind", "vm", "--after", "1.2.2")
    assert fake.asked[0].query == {"kind": "vm", "after": "1.2.2"}
    assert ran.out == "2026-01-31T12:00:00.500Z vm web changed by user:usr-1: running\n"
    assert (ran.code, "No valid credential." in ran.err) == (5, True)


def sse(*events: tuple[str, dict[str, object]]) -> Canned:
    text = "".join(f"id: 1.{n}.1\nevent: {name}\ndata: {json.dumps(data)}\n\n" for n, (name, data) in enumerate(events))
    return Canned(text.encode(), headers={"Content-Type": "text/event-stream"})


def test_a_watched_list_goes_on_with_what_became_another_one(cli: Cli, fake: Fake) -> None:
    a = {"id": "vm-1", "kind": "vm", "name": "a", "state": "starting", "created_at": "2026-01-01T00:00:00Z"}
    b, up = {**a, "id": "vm-2", "name": "b"}, {**a, "state": "running"}
    fake.on("GET", "/v1/vms", *(Canned({"items": i, "next": None}) for i in ([a, b], [up, b], [up, b], [up])))
    change: tuple[str, dict[str, object]] = ("change", {})

    def connection(asked: Asked) -> Canned:
        """Each ends by itself, and is taken up again; the next event comes when the list was read again."""
        number = len([x for x in fake.asked if x.path == "/v1/events"])
        for _ in range(200):
            if len([x for x in fake.asked if x.path == "/v1/vms"]) >= number - 1:
                break
            time.sleep(0.02)
        ends = [("end", {"detail": "revoked"})] if number == 4 else []
        return sse(("begin", {}) if number == 1 else change, *ends)

    fake.on("GET", "/v1/events", connection)
    ran = cli("vm", "list", "--watch")
    lines = [line.split() for line in ran.out.splitlines()]
    assert lines[0][:3] == ["NAME", "ID", "STATE"]
    seen = [line[:3] for line in lines[1:]]
    assert ["b", "vm-2", "starting"] in seen
    assert seen[-2:] == [["a", "vm-1", "running"], ["b", "is", "gone"]]
    assert seen.count(["b", "vm-2", "starting"]) == 1  # what stayed as it was is not said again
    assert "revoked" in ran.err
    assert {a.query["kind"] for a in fake.asked if a.path == "/v1/events"} <= {"vm", "port"}


def test_what_cannot_be_watched_is_said(cli: Cli, fake: Fake) -> None:
    assert "the past does not change" in cli("vm", "list", "--watch", "--as-of", "2026-01-31T12:00:00Z").err
    assert "plans are not in the change log" in cli("plan", "list", "--watch").err
    fake.on("GET", "/v1/events", problem(400, "bad-request", "There are no events of the kind 'flavor' here."))
    assert "no events of the kind 'flavor'" in cli("flavor", "list", "--watch").err


# words of the line -> what is said of them
MISREAD: list[tuple[list[str], str]] = [
    (["vm", "show", "web", "db"], "'db' is one word too many."),
    (["vm", "show", "web", "db", "x"], "'db', 'x' are 2 words too many."),
    (["vm", "show"], "is missing."),
    (["vm", "list", "--limit"], "--limit needs a value."),
    (["vm", "list", "--limit", "0"], "1"),
]


@pytest.mark.parametrize(("words", "said"), MISREAD)
def test_words_too_many_or_missing_are_named(cli: Cli, fake: Fake, words: list[str], said: str) -> None:
    ran = cli(*words)
    assert ran.code == 2
    assert said in ran.err
    assert "`nubila vm" in ran.err  # --help shows how
    assert fake.asked == []


def test_a_plan_says_when_it_takes_effect(cli: Cli, fake: Fake) -> None:
    size = {"memory_mib": {"was": 256, "becomes": 512, "when": "at the next start"}, "cores": {"was": 1, "becomes": 2}}
    effect = {"action": "change", "kind": "vm", "id": "vm-1", "name": "web", "changes": size}
    fake.on("PATCH", "/v1/vms/web", Canned({"id": "plan-1", "kind": "plan", "effects": [effect]}))
    ran = cli("vm", "set", "web", "--memory-mib", "512", "--plan")
    assert ran.code == 0
    assert "256 MiB -> 512 MiB (at the next start)" in " ".join(ran.out.split())
    assert ran.out.count("(at the next start)") == 1


def test_a_refused_upload_says_what_is_there(cli: Cli, fake: Fake, tmp_path: Path) -> None:
    image = {"id": "image-1", "kind": "image", "name": "new", "state": "waiting", "spec": {"format": "qcow2"}}
    fake.on("POST", "/v1/images", Canned(image))
    fake.on("GET", "/v1/images/new", Canned(image))
    refused = problem(422, "invalid", "This is no qcow2.", fix="Send another.")
    for path in ("/v1/images/new/content", "/v1/images/image-1/content"):
        fake.on("PUT", path, refused)
        fake.on("PATCH", path, refused)
    file = tmp_path / "a.qcow2"
    file.write_bytes(b"x" * 2048)
    ran = cli("image", "upload", str(file), "--name", "new", "--format", "qcow2")
    assert ran.code != 0
    assert "--into new" in ran.err
    assert "nubila image delete new" in ran.err


def test_a_join_token_comes_with_the_command_that_takes_it(cli: Cli, fake: Fake) -> None:
    made = {"id": "join-1", "token": "nbj_x", "expires_at": "2026-01-01T00:10:00Z"}
    fake.on("POST", "/v1/join-tokens", Canned({**made, "internal_url": "https://10.0.0.1:8442"}, 201))
    ran = cli("join-token", "create")
    assert "sudo make join CONTROL=https://10.0.0.1:8442" in ran.out.splitlines()
    assert ran.out.splitlines()[-1] == "nbj_x"
    fake.on("POST", "/v1/join-tokens", Canned({**made, "internal_url": "https://127.0.0.1:8442"}, 201))
    ran = cli("join-token", "create")
    assert "make join" not in ran.out
    assert "set listen in its nubila.toml" in ran.out
    assert ran.out.splitlines()[-1] == "nbj_x"
