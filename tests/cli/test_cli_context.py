"""Contexts: which installation a command speaks to, and with which token."""

from __future__ import annotations

import io
import json
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nubila.access import authority
from nubila.cli import contexts
from tests.cli.fake_api import Cli

VM = {"id": "vm-1", "kind": "vm", "name": "web", "image": "debian", "addresses": ["fd00::5", "10.0.0.5/24"]}


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
