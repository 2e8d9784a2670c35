"""What happens on this machine: contexts, keys, uploads, console, ssh, completion, and how fast it starts."""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nubila import __main__ as entry
from nubila.access import authority
from nubila.cli import complete, contexts, vm_inside
from tests.cli.fake_api import USER_TOKEN, Asked, Canned, Cli, Fake, problem

VM = {"id": "vm-1", "kind": "vm", "name": "web", "image": "debian", "addresses": ["fd00::5", "10.0.0.5/24"]}


# --- contexts


def a_ca(directory: Path) -> Path:
    """A CA certificate as an installation has one."""
    authority.open_or_create(directory / "ca.key", directory / "ca.pem", "r", datetime.now(UTC))
    return directory / "ca.pem"


@pytest.mark.parametrize(
    ("url", "ca", "said"),
    [
        ("http://10.1.1.1:8440", True, "plain http is for loopback addresses only"),
        ("foo", True, "--user-url foo: "),
        ("https://", True, "--user-url https://: "),
        ("https://10.1.1.1:8440", False, "needs the installation's CA"),
    ],
)
def test_a_context_that_could_never_work_is_refused_when_it_is_made(
    cli: Cli, contexts_file: Path, tmp_path: Path, url: str, ca: bool, said: str
) -> None:
    before = contexts_file.read_text()
    ran = cli("context", "add", "away", "--user-url", url, *(["--ca", str(a_ca(tmp_path))] if ca else []))
    assert ran.code == 2
    assert said in ran.err
    assert contexts_file.read_text() == before
    (tmp_path / "no.pem").write_text("x")
    assert (
        "is no CA" in cli("context", "add", "away", "--user-url", "https://h:1", "--ca", str(tmp_path / "no.pem")).err
    )
    assert cli("context", "add", "here", "--user-url", "http://127.0.0.1:8440").code == 0


def test_add_use_show_list_delete(cli: Cli, contexts_file: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("nbu_77_topsecret\n")
    a_ca(tmp_path)
    argv = ["context", "add", "away", "--user-url", "https://10.0.0.1:8440", "--ca", str(tmp_path / "ca.pem")]
    assert cli(*argv, "--user-token-file", str(tmp_path / "token")).code == 0
    assert stat.S_IMODE(contexts_file.stat().st_mode) == 0o600
    assert json.loads(contexts_file.read_text())["contexts"][1]["user_token"] == "nbu_77_topsecret"
    shown = cli("context", "show", "away")
    assert "nbu_77_..." in shown.out
    assert "topsecret" not in shown.out
    assert cli("context", "use", "away").code == 0
    assert "*  away" in cli("context", "list").out
    assert cli("context", "add", "away", "--project", "p").code == 0
    assert contexts.load().get("away").user_token == "nbu_77_topsecret"
    assert cli("context", "delete", "away").code == 0
    assert cli("context", "show", "away").code == 2
    assert [p.name for p in contexts_file.parent.iterdir()] == ["contexts.json"]


def test_token_from_standard_input(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"nbu_1_abc\n")))
    assert cli("context", "add", "new", "--user-token-file", "-").code == 0
    assert contexts.load().get("new").user_token == "nbu_1_abc"
    assert "abc" not in repr(contexts.load())


def test_no_option_takes_a_token(cli: Cli) -> None:
    ran = cli("context", "add", "new", "--user-token", "nbu_1_abc")
    assert ran.code == 2


def test_readable_contexts_are_refused(cli: Cli, contexts_file: Path) -> None:
    contexts_file.chmod(0o640)
    ran = cli("vm", "list")
    assert ran.code == 2
    assert f"fix: chmod 600 {contexts_file}" in ran.err


def test_context_is_chosen_by_option_and_environment(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "There is no context 'x'" in cli("vm", "list", "--context", "x").err
    monkeypatch.setenv("NUBILA_CONTEXT", "y")
    assert "There is no context 'y'" in cli("vm", "list").err


def test_without_any_context_make_up_is_named(cli: Cli, contexts_file: Path) -> None:
    contexts_file.unlink()
    ran = cli("vm", "list")
    assert ran.code == 2
    assert f"no contexts in {contexts_file}" in ran.err
    assert "sudo make up" in ran.err


def test_broken_file_and_bad_values(cli: Cli, contexts_file: Path) -> None:
    plain = {"name": "plain", "user_url": "http://10.1.1.1:1", "user_token": "nbu_1_zzz"}  # written by hand
    contexts_file.write_text(json.dumps({"current": "plain", "contexts": [plain]}))
    ran = cli("vm", "list", "--context", "plain")
    assert ran.code == 2
    assert "loopback" in ran.err
    contexts_file.write_text("{")
    assert "is not a contexts file" in cli("vm", "list").err


# --- keys, uploads, secrets


def test_keypair_from_a_file_from_stdin_and_never_a_private_key(
    cli: Cli, fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.on("POST", "/v1/keypairs", Canned({"id": "key-1", "kind": "keypair", "name": "k"}))
    (tmp_path / "k.pub").write_text("ssh-ed25519 AAAA me\n")
    assert cli("keypair", "create", "k", str(tmp_path / "k.pub")).out == "keypair k created (key-1)\n"
    assert fake.last().json == {"name": "k", "public_key": "ssh-ed25519 AAAA me"}
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"ssh-ed25519 BBBB\n")))
    assert cli("keypair", "create", "k", "-").code == 0
    assert fake.last().json["public_key"] == "ssh-ed25519 BBBB"
    (tmp_path / "k").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nsecretkey\n")
    asked = len(fake.asked)
    ran = cli("keypair", "create", "k", str(tmp_path / "k"))
    assert ran.code == 2
    assert "secretkey" not in ran.err
    assert len(fake.asked) == asked
    assert cli("keypair", "create", "k").code == 2


def test_keypair_generated(cli: Cli, fake: Fake, tmp_path: Path) -> None:
    fake.on("POST", "/v1/keypairs", Canned({"id": "key-1", "kind": "keypair", "name": "k"}))
    path = tmp_path / "new"
    assert cli("keypair", "create", "k", "--generate", str(path)).code == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert fake.last().json["public_key"].startswith("ssh-ed25519 ")
    ran = cli("keypair", "create", "k", "--generate", str(path))
    assert ran.code == 1
    assert "exists" in ran.err


def test_image_upload(cli: Cli, fake: Fake, tmp_path: Path) -> None:
    data = os.urandom(700_000)
    (tmp_path / "i.qcow2").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    made = {"id": "img-1", "kind": "image", "name": "i", "state": "pending"}
    fake.on("POST", "/v1/images", Canned(made, 201))
    fake.on("GET", "/v1/images/img-1/upload", Canned({"received_bytes": 0}))
    fake.on("PATCH", "/v1/images/img-1/content", Canned({**made, "state": "ready", "status": {"sha256": digest}}))
    ran = cli("image", "upload", str(tmp_path / "i.qcow2"), "--name", "i", "--format", "qcow2", "--os", "linux")
    assert (ran.code, ran.out) == (0, "image i uploaded: ready (img-1)\n")
    assert fake.asked[0].json == {"name": "i", "format": "qcow2", "os": "linux"}
    sent = fake.last("PATCH")
    assert (sent.body, sent.query) == (data, {"offset": "0", "size_bytes": "700000"})
    assert sent.headers["content-type"] == "application/octet-stream"
    assert ran.err.splitlines()[-1] == "i.qcow2: 100 % of 0.7 MiB"


def test_image_upload_goes_on_where_it_broke_off(cli: Cli, fake: Fake, tmp_path: Path) -> None:
    data = os.urandom(500_000)
    (tmp_path / "i").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    fake.on(
        "GET",
        "/v1/images/img-1/upload",
        *[Canned({"received_bytes": n}) for n in (100_000, 200_000, 300_000)],
    )
    fake.on(
        "PATCH",
        "/v1/images/img-1/content",
        Canned(drop=True),
        problem(409, "conflict", "300000 bytes have come", received_bytes=300_000),
        Canned({"id": "img-1", "kind": "image", "name": "i", "state": "ready", "status": {"sha256": digest}}),
    )
    ran = cli("image", "upload", str(tmp_path / "i"), "--into", "img-1")
    assert ran.code == 0, ran.err
    parts = [(a.query["offset"], len(a.body)) for a in fake.asked if a.method == "PATCH"]
    assert parts == [("100000", 400_000), ("200000", 300_000), ("300000", 200_000)]
    assert fake.last("PATCH").body == data[300_000:]


def test_image_upload_says_how_to_go_on(cli: Cli, fake: Fake, tmp_path: Path) -> None:
    (tmp_path / "i").write_bytes(b"data")
    fake.on("GET", "/v1/images/img-1/upload", Canned({"received_bytes": 0}))
    fake.on("PATCH", "/v1/images/img-1/content", Canned(drop=True))
    ran = cli("image", "upload", str(tmp_path / "i"), "--into", "img-1")
    assert ran.code != 0
    assert "--into img-1" in ran.err


def test_image_upload_compares_the_hash(cli: Cli, fake: Fake, tmp_path: Path) -> None:
    (tmp_path / "i").write_bytes(b"data")
    fake.on("GET", "/v1/images/img-1/upload", Canned({"received_bytes": 0}))
    fake.on("PATCH", "/v1/images/img-1/content", Canned({"id": "img-1", "kind": "image", "status": {"sha256": "00"}}))
    ran = cli("image", "upload", str(tmp_path / "i"), "--into", "img-1")
    assert ran.code == 1
    assert "SHA-256" in ran.err


def test_secret_is_printed_once_or_saved(cli: Cli, fake: Fake, tmp_path: Path) -> None:
    answer = {"token": {"id": "tok-1", "kind": "token", "name": ""}, "secret": "nbu_5_fresh"}
    fake.on("POST", "/v1/users/ada/tokens", Canned(answer))
    ran = cli("user", "token", "ada", "t", "--project", "p")
    assert ran.out.splitlines()[-1] == "nbu_5_fresh"
    path = tmp_path / "ada.token"
    saved = cli("user", "token", "ada", "t", "--project", "p", "--save", str(path))
    assert "fresh" not in saved.out
    assert path.read_text() == "nbu_5_fresh\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    asked = len(fake.asked)
    assert cli("user", "token", "ada", "t", "--project", "p", "--save", str(path)).code == 2  # before a token is made
    assert len(fake.asked) == asked
    assert cli("user", "token", "nobody", "t", "--project", "p", "--save", str(tmp_path / "n")).code == 3
    assert not (tmp_path / "n").exists()
    fake.on("POST", "/v1/users/ada/tokens", Canned({"token": {"id": "tok-1", "kind": "token"}}))
    lost = cli("user", "token", "ada", "t", "--project", "p", "--save", str(tmp_path / "n"))
    assert lost.code == 1
    assert "`nubila token delete tok-1`" in lost.err
    assert not (tmp_path / "n").exists()


# --- inside a VM


def test_console_is_stripped_unless_raw(cli: Cli, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = b"boot\x1b[2J\r\r\nlogin: \xff\x1b]0;evil\x07"
    fake.on("GET", "/v1/vms/web/console", Canned(raw, headers={"Content-Type": "text/plain"}))
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    monkeypatch.setattr("sys.stdout", out)
    assert vm_inside.console("web") == 0
    shown = "boot\nlogin: \ufffd\n".encode()
    assert out.buffer.getvalue() == shown
    assert fake.last().query == {"bytes": "65536"}
    assert vm_inside.console("web", raw=True) == 0
    assert out.buffer.getvalue() == shown + raw


def test_ssh_command(cli: Cli, fake: Fake, contexts_file: Path) -> None:
    fake.on("GET", "/v1/vms/web", Canned(VM))
    images = [{"id": "img-1", "name": "debian", "spec": {"login": "debian"}}, {"id": "img-2", "name": "x"}]
    fake.on("GET", "/v1/images", Canned({"items": images, "next": None}))
    ran = cli("vm", "ssh", "web", "--print", "--", "uname", "-a", "--json")
    directory = contexts_file.parent
    assert ran.out == (
        f"ssh -o StrictHostKeyChecking=accept-new -o 'UserKnownHostsFile=\"{directory}/known_hosts\"'"
        f" -o HostKeyAlias=vm-1 -i {directory}/id -o IdentitiesOnly=yes -l debian -- 10.0.0.5 uname -a --json\n"
    )


def test_ssh_runs_ssh(cli: Cli, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(os, "execvp", lambda file, argv: ran.append(argv))
    fake.on("GET", "/v1/vms/web", Canned(VM))
    cli("vm", "ssh", "web", "--login", "root", "--key", "/k")
    assert ran[0][-4:] == ["-l", "root", "--", "10.0.0.5"]


@pytest.mark.parametrize("address", ["-oProxyCommand=x", "not an address", ""])
def test_ssh_takes_only_addresses(cli: Cli, fake: Fake, address: str) -> None:
    fake.on("GET", "/v1/vms/web", Canned({**VM, "addresses": [address]}))
    ran = cli("vm", "ssh", "web", "--login", "root", "--print")
    assert ran.code == 4
    assert "has no address" in ran.err


def test_ssh_takes_only_account_names(cli: Cli, fake: Fake) -> None:
    fake.on("GET", "/v1/vms/web", Canned(VM))
    fake.on("GET", "/v1/images", Canned({"items": [{"name": "debian", "login": "-oX"}], "next": None}))
    assert cli("vm", "ssh", "web", "--print").code == 2


def test_a_refused_key_leaves_no_files(cli: Cli, fake: Fake, tmp_path: Path) -> None:
    """So that the same line, mended, works."""
    path = tmp_path / "id"
    fake.on("POST", "/v1/keypairs", problem(409, "name-taken", "Another keypair already has that name."))
    assert cli("keypair", "create", "k", "--generate", str(path)).code == 4
    assert list(tmp_path.glob("id*")) == []
    fake.on("POST", "/v1/keypairs", Canned({"kind": "keypair", "id": "key-1", "name": "k"}, 201))
    assert cli("keypair", "create", "k", "--generate", str(path)).code == 0
    assert sorted(p.name for p in tmp_path.glob("id*")) == ["id", "id.pub"]


def test_console_and_ssh_as_json(cli: Cli, fake: Fake) -> None:
    fake.on("GET", "/v1/vms/web", Canned(VM))
    fake.on("GET", "/v1/images", Canned({"items": [], "next": None}))
    fake.on("GET", "/v1/vms/web/console", Canned(b"login: \x1b[2J", headers={"Content-Type": "text/plain"}))
    assert cli("vm", "console", "web", "--json").json == {"vm": "web", "console": "login: \x1b[2J"}
    found = cli("vm", "ssh", "web", "--json", "--", "uname").json
    assert found["command"][0] == "ssh" and found["command"][-1] == "uname"


def test_ssh_says_what_is_in_the_way(cli: Cli, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    ran_: list[list[str]] = []
    monkeypatch.setattr(os, "execvp", lambda file, argv: ran_.append(argv))
    fake.on("GET", "/v1/images", Canned({"items": [], "next": None}))
    fake.on("GET", "/v1/vms/web", Canned({**VM, "state": "stopped"}))
    ran = cli("vm", "ssh", "web")
    assert (ran.code, ran_) == (4, [])
    assert "VM 'web' is stopped." in ran.err and "nubila vm start web" in ran.err
    fake.on("GET", "/v1/vms/web", Canned({**VM, "state": "running", "status": {"guest": {"agent": False}}}))
    assert "may still be booting" in cli("vm", "ssh", "web").err
    fake.on("GET", "/v1/vms/web", Canned({**VM, "state": "running", "status": {"guest": {"addressed_at": "x"}}}))
    assert cli("vm", "ssh", "web").err == ""
    assert len(ran_) == 2


@pytest.mark.slow
def test_a_full_disk_is_told_and_not_traced(cli: Cli) -> None:
    for words in (["help"], ["vm", "--help"], ["context", "list"]):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "nubila", *words], stdout=full, stderr=subprocess.PIPE, text=True
            )
        assert done.returncode == 1
        assert done.stderr == "error: The output cannot be written: No space left on device.\n"


def test_help_of_a_noun_by_the_word_help(cli: Cli) -> None:
    assert cli("help", "vm").out == cli("vm", "--help").out
    assert cli("help", "vm", "stop").out == cli("vm", "stop", "--help").out
    assert "Usage: nubila vm label [OPTIONS] VM [CHANGES...]" in cli("help", "vm", "label").out


def test_show_takes_o_json_as_lists_do(cli: Cli, fake: Fake) -> None:
    fake.on("GET", "/v1/vms/web", Canned(VM))
    assert cli("vm", "show", "web", "-o", "json").json == VM


# --- completion and start


def completed(cli: Cli, *words: str) -> list[str]:
    ran = cli("__complete", *words)
    assert (ran.code, ran.err) == (0, "")
    return ran.out.splitlines()


def test_live_names(cli: Cli, fake: Fake) -> None:
    fake.on("GET", "/v1/vms", Canned({"items": [{"name": "web"}, {"name": "e\x1b[2J"}, {"id": "vm-9"}]}))
    assert completed(cli, "vm", "show", "") == ["web", "vm-9"]
    assert completed(cli, "vm", "show", "--context", "") == ["home"]
    assert completed(cli, "context", "use", "h") == ["home"]
    fake.server.shutdown()
    fake.server.server_close()
    assert completed(cli, "vm", "show", "") == []


@pytest.mark.parametrize(
    ("words", "path", "found"),
    [
        (["vm", "stop", ""], "/v1/vms", ["one", "two"]),
        (["vm", "show", "o"], "/v1/vms", ["one"]),
        (["vm", "stop", "--hard", "t"], "/v1/vms", ["two"]),
        (["vm", "create", "web", "--flavor", ""], "/v1/flavors", ["one", "two"]),
        (["vm", "create", "web", "--flavor=t"], "/v1/flavors", ["two"]),
        (["vm", "create", "web", "--flavor", "=", "t"], "/v1/flavors", ["two"]),
        (["vm", "create", "web", "--flavor", "="], "/v1/flavors", ["one", "two"]),
        (["vm", "create", "web", "--image", ""], "/v1/images", ["one", "two"]),
        (["vm", "create", "web", "--key", "one", "--key", "t"], "/v1/keypairs", ["two"]),
        (["project", "member", "p", ""], "/v1/users", ["one", "two"]),
        (["quota", "set", ""], "/v1/projects", ["one", "two"]),
        (["node", "retire", ""], "/v1/nodes", ["one", "two"]),
        (["operation", "wait", ""], "/v1/operations", ["x-1", "x-2"]),
        (["token", "delete", "--as", "operator", ""], "/v1/tokens", ["x-1", "x-2"]),
        (["vm", "show", "one", ""], "/v1/vms", []),
    ],
)
def test_names_stand_where_a_command_takes_them(
    cli: Cli, fake: Fake, words: list[str], path: str, found: list[str]
) -> None:
    fake.on("GET", path, Canned({"items": [{"id": "x-1", "name": "one"}, {"id": "x-2", "name": "two"}]}))
    assert completed(cli, *words) == found


def test_words_options_and_choices(cli: Cli, fake: Fake) -> None:
    assert {"vm", "node", "serve", "help"} <= set(completed(cli, ""))
    assert completed(cli, "key") == ["keypair"]
    assert completed(cli, "serve", "") == ["user", "operator", "internal", "reconcile"]
    assert "start" in completed(cli, "vm", "st") and "show" not in completed(cli, "vm", "st")
    assert {"--hard", "--plan", "--no-wait", "--as"} <= set(completed(cli, "vm", "stop", "--"))
    assert completed(cli, "vm", "stop", "--as", "") == ["user", "operator"]
    assert completed(cli, "vm", "create", "web", "--power", "o") == ["on", "off"]
    assert completed(cli, "completion", "") == ["bash", "zsh", "fish"]
    assert completed(cli, "context", "add", "x", "--ca", "") == [complete.FILES]
    # a flag takes no value: what follows it is the next argument
    assert completed(cli, "network", "create", "n", "--nat", "--mt") == ["--mtu"]
    assert completed(cli, "vm", "ssh", "web", "--", "") == []
    assert not fake.asked


@pytest.mark.slow
def test_completion_in_a_real_bash(cli: Cli, fake: Fake, tmp_path: Path) -> None:
    script = cli("completion", "bash").out
    assert len(script) < 2000
    fake.on("GET", "/v1/vms", Canned({"items": [{"name": "web"}, {"name": "with space"}]}))
    command = tmp_path / "nubila"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m nubila "$@"\n')
    command.chmod(0o755)
    (tmp_path / "a file").touch()
    ask = 'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _nubila; printf "%s\\n" "${COMPREPLY[@]}"'
    for words, found in (
        ((str(command), "vm", "stop", "w"), ["web", "with space"]),
        ((str(command), "image", "upload", "a"), ["a file"]),
        ((str(command), "vm", "stop", "--sh"), ["--shutdown-timeout"]),
    ):
        done = subprocess.run(
            ["bash", "-uc", f"{script}\n{ask}", "-", *words], capture_output=True, text=True, cwd=tmp_path, timeout=60
        )
        assert (done.stdout.splitlines(), done.stderr) == (found, "")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_scripts_of_other_shells_ask_likewise(cli: Cli, shell: str) -> None:
    out = cli("completion", shell).out
    assert "__complete" in out and len(out) < 2000


def _loaded(*argv: str) -> tuple[set[str], float]:
    """The modules that a command line loads, and its CPU seconds, in a process of its own."""
    code = "import sys; from nubila.__main__ import main; main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, timeout=30, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return set(done.stderr.split()), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_is_cheap() -> None:
    loaded, cpu_s = min((_loaded("--help") for _ in range(3)), key=lambda found: found[1])
    assert cpu_s < 0.25
    assert not loaded & {"cyclopts", "rich", "ssl", "http", "msgspec"}


def test_a_command_loads_nothing_that_it_does_not_need(cli: Cli, fake: Fake) -> None:
    fake.on("GET", "/v1/vms", Canned({"items": [], "next": None}))
    loaded, _ = _loaded("vm", "list")
    unwanted = {"rich", "msgspec", "httpx", "asyncio", "cryptography", "sqlalchemy", "numpy", "uuid"}
    assert not loaded & unwanted
    assert "nubila.cli.network" not in loaded
    assert fake.last().path == "/v1/vms"


def test_words_lead_to_functions() -> None:
    assert all(place.count(":") == 1 for place in entry.WORDS.values())
    assert not set(entry.WORDS) & set(__import__("nubila.cli.main", fromlist=["x"]).NOUNS)


def test_version(cli: Cli) -> None:
    assert cli("--version").out.startswith("nubila ")


def test_api_can_be_asked_without_a_parser(fake: Fake) -> None:
    """Bootstrap uses the client directly."""
    from nubila.client.api import OperatorApi
    from nubila.client.transport import Transport

    def first(asked: Asked) -> Canned:
        assert "authorization" not in asked.headers
        return Canned({"operator": {"id": "opr-1"}, "token": "nbo_1_x"}, 201)

    fake.on("POST", "/v1/first-operator", first)
    api = OperatorApi(Transport(fake.url))
    assert api.first_operator("nbf_1_2", "root")["token"] == "nbo_1_x"
    assert USER_TOKEN not in repr(api.transport)
