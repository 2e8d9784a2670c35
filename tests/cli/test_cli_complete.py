"""Completion of words and live names, and how fast and by what a command starts."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from nubila import __main__ as entry
from nubila.cli import complete
from tests.cli.fake_api import USER_TOKEN, Asked, Canned, Cli, Fake

VM = {"id": "vm-1", "kind": "vm", "name": "web", "image": "debian", "addresses": ["fd00::5", "10.0.0.5/24"]}


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
    from nubila.client.operator import OperatorApi
    from nubila.client.transport import Transport

    def first(asked: Asked) -> Canned:
        assert "authorization" not in asked.headers
        return Canned({"operator": {"id": "opr-1"}, "token": "nbo_1_x"}, 201)

    fake.on("POST", "/v1/first-operator", first)
    api = OperatorApi(Transport(fake.url))
    assert api.first_operator("nbf_1_2", "root")["token"] == "nbo_1_x"
    assert USER_TOKEN not in repr(api.transport)
