"""The preflight on made-up facts: each thing that is wrong is named, all of them in one run, with what to do."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nubila.__main__ import WORDS
from nubila.bootstrap import down, install, main, owner
from nubila.bootstrap.asked import Unusable, asked
from nubila.bootstrap.facts import Facts, Listener, gather
from nubila.bootstrap.owner import Owner
from nubila.bootstrap.packages import needed
from nubila.bootstrap.preflight import PROBLEMS, check, show
from nubila.model.network import parse_cidr

ROOT = Path(__file__).parents[2]

FINE = Facts(name="nubila", clone="/home/me/nubila", var_dir="/var/lib/nubila", kvm=True)
MINE = Owner("/home/me/nubila", "nubila", "2026-01-01T00:00:00Z", "10.77.0.0/24", "fd00::/64")
OTHER = replace(MINE, clone="/home/other/nubila")
INSTALLED: dict[str, Any] = {
    "owner": MINE,
    "state_exists": True,
    "database_made": True,
    "database_exists": True,
    "installed_before": True,
}
NODE: dict[str, Any] = {"owner": replace(MINE, subnet4=""), "state_exists": True, "control": "https://10.0.0.1:8442"}


def test_a_fine_machine_has_no_problem() -> None:
    found = check(FINE)
    assert found.problems == []
    assert found.notes == []


def test_an_installed_one_has_none_either() -> None:
    found = check(replace(FINE, **INSTALLED))
    assert (found.problems, found.notes, found.changes) == ([], [], [])
    assert show(found) == ""


def test_a_node_needs_no_database() -> None:
    found = check(replace(FINE, **NODE))
    assert (found.problems, found.notes, found.changes) == ([], [], [])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ask = asked("join", ["--control", f"https://10.0.0.1:{taken.getsockname()[1]}", "/none"])
        facts = gather(ask, Path("/none"))
    assert (facts.listeners, facts.users, facts.users_to_add, facts.routes) == ((), (), (), ())
    assert "postgresql-15" in needed(frozenset({"control"}))
    assert "postgresql-15" not in needed(frozenset({"node"}))


# what is wrong -> words that the person needs
CASES: list[tuple[dict[str, Any], list[str]]] = [
    ({"euid": 1000}, ["not root", "sudo make up"]),
    ({"machine": "aarch64"}, ["aarch64"]),
    ({"memory_mib": 300}, ["300 MiB", "1024 MiB"]),
    ({"free_mib": 100}, ["100 MiB are free", "/var/lib/nubila"]),
    ({"listeners": (Listener(8441, "nginx (pid 7)", False),)}, ["8441", "nginx (pid 7)", "PORT=9440"]),
    ({**INSTALLED, "listeners": (Listener(8441, "nginx (pid 7)", False),)}, ["nginx (pid 7)", "nubila.toml"]),
    ({**INSTALLED, "asked_port": 9440}, ["PORT=8440", "PORT=9440 does not", "nubila.toml", "NAME=other"]),
    ({**INSTALLED, "asked_subnet4": "10.9.0.0/24"}, ["10.77.0.0/24", "network create", "NAME=other"]),
    ({**INSTALLED, "asked_listen": "0.0.0.0"}, ["listens on 127.0.0.1", "LISTEN=0.0.0.0 does not", "nubila.toml"]),
    ({**INSTALLED, "asked_control": "https://10.0.0.1:8442"}, ["is a control plane", "another NAME"]),
    ({**NODE, "asked_control": "https://10.0.0.2:8442"}, ["a node of https://10.0.0.1:8442", "another NAME"]),
    ({**INSTALLED, "settings_wrong": "no port: user_port = 'x'"}, ["nubila.toml", "user_port = 'x'", "make down"]),
    (
        {"owner": OTHER, "state_exists": True, "running": ("postgres (pid 3)",)},
        ["/home/other/nubila", "postgres (pid 3)", "make -C /home/other/nubila destroy", "NAME=other"],
    ),
    ({"owner": OTHER, "state_exists": True, "owner_alive": False}, ["is gone", "ACCEPT=adopt"]),
    ({**INSTALLED, "database_exists": False}, ["/var/lib/nubila/postgresql", "missing", "never replaced"]),
    ({"installed_before": True}, ["state in /var/lib/nubila is missing", "never", "make destroy"]),
    ({"state_exists": True}, ["no installation that is known", "NAME=other"]),
    ({"users": ("nubila",)}, ["user 'nubila' exists"]),
    ({"routes": ("10.0.0.0/8 by eth1",)}, ["10.77.0.0/24", "10.0.0.0/8 by eth1", "SUBNET="]),
    ({"dropping": ("ip filter FORWARD",)}, ["ip filter FORWARD", "ACCEPT=firewall"]),
]


@pytest.mark.parametrize(("wrong", "words"), CASES)
def test_each_problem_is_named_with_what_to_do(wrong: dict[str, Any], words: list[str]) -> None:
    found = check(replace(FINE, **wrong))
    assert len(found.problems) == 1
    assert [w for w in words if w not in found.problems[0]] == []


def test_every_judge_is_tried() -> None:
    hit = {name for wrong, _ in CASES for name, judge in PROBLEMS.items() if list(judge(replace(FINE, **wrong)))}
    assert hit == set(PROBLEMS)


def test_all_problems_come_in_one_run() -> None:
    wrong = replace(FINE, euid=1, memory_mib=1, free_mib=1, dropping=("inet f input",), routes=("10.77.0.0/16 by x",))
    assert len(check(wrong).problems) == 5


def test_a_problem_may_be_accepted_by_name() -> None:
    found = check(replace(FINE, dropping=("ip filter FORWARD",)), frozenset({"firewall"}))
    assert found.problems == []
    assert "ip filter FORWARD" in found.notes[0]


def test_our_own_listeners_are_no_problem() -> None:
    assert check(replace(FINE, listeners=(Listener(8440, "python (pid 9)", True),), **INSTALLED)).problems == []


def test_one_port_is_proposed_however_many_are_taken() -> None:
    """And it is one that is free."""
    holders = (
        Listener(8440, "a (pid 1)", False),
        Listener(8441, "b (pid 2)", False),
        Listener(8442, "a (pid 1)", False),
    )
    (said,) = check(replace(FINE, listeners=(*holders, Listener(8440, "a (pid 1)", False)), other_port=9540)).problems
    assert "8440 and 8442 by a (pid 1); 8441 by b (pid 2)" in said
    assert said.count("PORT=") == 1
    assert "PORT=9540" in said


def test_what_is_as_it_was_installed_may_be_said_again() -> None:
    said_again = {"asked_port": 8440, "asked_subnet4": "10.77.0.0/24"}
    assert check(replace(FINE, **INSTALLED, **said_again)).problems == []


def test_proposals_are_free_on_this_machine(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 9441)) as taken:
        assert taken.getsockname()[1] == 9441
        ask = asked("up", ["--port", "9440", "--subnet", "10.78.0.0/24", str(tmp_path)])
        facts = gather(ask, tmp_path / "none")
    assert (facts.port, facts.asked_port, facts.subnet4) == (9440, 9440, "10.78.0.0/24")
    assert [x.port for x in facts.listeners if not x.ours and str(os.getpid()) in x.holder] == [9441]
    assert not {9441} & set(range(facts.other_port, facts.other_port + 3))


def test_ports_are_those_of_the_installation(tmp_path: Path) -> None:
    (tmp_path / "nubila.toml").write_text("user_port = 19440\n")
    facts = gather(asked("up", [str(tmp_path)]), tmp_path)
    assert (facts.port, facts.asked_port, facts.settings_wrong) == (19440, None, "")
    for text in ("user_port = ", "user_port = 'x'"):
        (tmp_path / "nubila.toml").write_text(text)
        assert gather(asked("up", [str(tmp_path)]), tmp_path).settings_wrong


# words of make -> what is said of them
UNUSABLE: dict[tuple[str, ...], str] = {
    ("--name", "../x"): "NAME=../x",
    ("--name", "a b"): "NAME=a b",
    ("--name", "x" * 37): "1 to 12",
    ("--name", ""): "1 to 12",
    ("--name", "nub\nila"): "1 to 12",
    ("--port", "70000"): "1024 to 65533",
    ("--port", "65534"): "1024 to 65533",
    ("--port", "80"): "1024 to 65533",
    ("--port", "x"): "PORT=x",
    ("--port", "-1"): "PORT=-1",
    ("--subnet", "foo"): "no network",
    ("--subnet", "fd00::/64"): "IPv4",
    ("--subnet", "10.78.0.5/24"): "'10.78.0.0/24' may be meant",
    ("--subnet", "10.78.0.0/31"): "/8 to /29",
    ("--subnet", "10.78.0.0"): "/8 to /29",
    ("--subnet", "8.8.8.0/24"): "10.0.0.0/8",
    ("--listen", "host"): "LISTEN=host",
    ("--listen", "10.0.0.0/24"): "0.0.0.0 or ::",
    ("--control", "10.0.0.1:8442"): "CONTROL=10.0.0.1:8442",
    ("--control", "https://10.0.0.1"): "like https://",
    ("--control", "https://10.0.0.1:8442/"): "like https://",
    ("--control", "https://10.0.0.1:x"): "like https://",
    ("--accept", "everything"): "adopt, firewall",
}


@pytest.mark.parametrize("words", UNUSABLE)
@pytest.mark.parametrize("word", ["preflight", "up", "join", "down", "destroy", "dev"])
def test_what_cannot_be_meant_is_told_before_anything(
    word: str, words: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [f"{words[0]}={words[1]}", "/nonexistent"]
    assert getattr(main, word)(argv) == 1
    assert UNUSABLE[words] in capsys.readouterr().err


def test_all_that_cannot_be_meant_is_told_at_once() -> None:
    with pytest.raises(Unusable) as e:
        asked("up", ["--name=A", "--port=1", "--subnet=x", "--accept=y", "."])
    assert [w for w in ("NAME=", "PORT=", "SUBNET=", "ACCEPT=") if w not in str(e.value)] == []


def test_every_usable_network_is_one_to_the_model() -> None:
    for subnet in ("10.77.0.0/24", "10.0.0.0/8", "192.168.1.0/29", "100.64.0.0/10", "172.16.4.0/22"):
        assert asked("up", ["--subnet", subnet, "."]).subnet4 == str(parse_cidr(subnet))


def as_nobody(*argv: str) -> subprocess.CompletedProcess[str]:
    drop = ("setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups", "--")
    environ = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", "NUBILA_NAME": "nbnobody"}
    return subprocess.run(
        (*drop, sys.executable, "-m", "nubila", *argv),
        env=environ,
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
@pytest.mark.parametrize(
    "word", ["up", "join", "lab", "down", "destroy", "dev", "supervise", "serve", "migrate", "agent"]
)
def test_nobody_gets_a_sentence(word: str) -> None:
    words = ["--name", "nbnobody", str(ROOT)] if word in ("up", "join", "down", "destroy", "dev") else []
    words = ["up"] if word == "lab" else words
    ran = as_nobody(word, *words)
    assert ran.returncode in (1, 2)
    assert "Traceback" not in ran.stderr
    assert len(ran.stderr.splitlines()) <= 4
    assert f"make {word}" in ran.stderr or "sudo make up" in ran.stderr


@pytest.mark.parametrize("word", list(WORDS))
def test_each_word_of_the_machine_explains_itself(word: str) -> None:
    argv = (sys.executable, "-m", "nubila", word, "--help")
    ran = subprocess.run(argv, capture_output=True, text=True, check=False, cwd="/")
    assert ran.returncode == 0
    said = " ".join((ran.stdout + ran.stderr).split())
    assert f"nubila {word}" in said
    assert "make up" in said or f"make {word}" in said or word == "agent"


# --- settings that cannot be used


def test_it_can_be_stopped_whatever_its_settings_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clone, var_dir = tmp_path / "clone", tmp_path / "nbwrong"
    for directory in (clone, var_dir):
        directory.mkdir()
    monkeypatch.setattr(install, "STATES", tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    owner.write(var_dir, Owner(str(clone), "nbwrong", "now", "10.0.0.0/24", "fd00::/64"))
    (var_dir / "nubila.toml").write_text("lisen = 'x'\n")
    stopped: list[str] = []
    monkeypatch.setattr(down, "stop_supervisor", lambda settings: stopped.append(settings.name) or True)
    argv = ["--name", "nbwrong", str(clone)]
    assert main.down(argv) == 0
    assert stopped == ["nbwrong"]
    assert "unknown settings: lisen" in capsys.readouterr().out
    assert main.up(argv) == 1
    said = capsys.readouterr().err
    assert "unknown settings: lisen" in said
    assert str(var_dir / "nubila.toml") in said


def test_what_will_change_on_the_host_is_told_before() -> None:
    found = check(
        replace(
            FINE,
            sysctls=(("net.ipv4.ip_forward", "0", "1"),),
            bridge_filter=False,
            users_to_add=("nubila", "nubila-pg"),
            packages=("postgresql-15",),
        )
    )
    text = show(found)
    for words in (
        "net.ipv4.ip_forward from 0 to 1",
        "nubila, nubila-pg",
        "postgresql-15",
        "/var/lib/nubila",
        "br_netfilter",
    ):
        assert words in text
    assert "br_netfilter" not in show(check(FINE))


def test_nothing_is_announced_that_will_not_be_done() -> None:
    found = check(replace(FINE, euid=1, sysctls=(("net.ipv4.ip_forward", "0", "1"),)))
    assert "net.ipv4.ip_forward" not in show(found)


def test_a_begun_installation_is_continued() -> None:
    found = check(replace(FINE, owner=MINE, state_exists=True, installed_before=True))
    assert found.problems == []
    assert "continued" in found.notes[0]


def test_another_system_is_only_a_note() -> None:
    found = check(replace(FINE, system="debian 13", kvm=False))
    assert found.problems == []
    assert "debian 13" in found.notes[0]
    assert "emulated" in found.notes[1]
