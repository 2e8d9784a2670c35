"""What happens on this machine: keys, uploads, secrets, console and ssh."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from nubila.cli import vm_inside
from tests.cli.fake_api import Canned, Cli, Fake, problem

VM = {"id": "vm-1", "kind": "vm", "name": "web", "image": "debian", "addresses": ["fd00::5", "10.0.0.5/24"]}


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
