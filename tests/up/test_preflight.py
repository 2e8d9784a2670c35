"""The preflight on made-up facts: each thing that is wrong is named, all of them in one run, with what to do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nubila.bootstrap.facts import Facts, Listener
from nubila.bootstrap.owner import Owner
from nubila.bootstrap.preflight import PROBLEMS, check, show

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


def test_a_fine_machine_has_no_problem() -> None:
    found = check(FINE)
    assert found.problems == []
    assert found.notes == []


def test_an_installed_one_has_none_either() -> None:
    found = check(replace(FINE, **INSTALLED))
    assert (found.problems, found.notes, found.changes) == ([], [], [])
    assert show(found) == ""


# what is wrong -> words that the person needs
CASES: list[tuple[dict[str, Any], list[str]]] = [
    ({"euid": 1000}, ["not root", "sudo make up"]),
    ({"machine": "aarch64"}, ["aarch64"]),
    ({"memory_mib": 300}, ["300 MiB", "1024 MiB"]),
    ({"free_mib": 100}, ["100 MiB are free", "/var/lib/nubila"]),
    ({"listeners": (Listener(8441, "nginx (pid 7)", False),)}, ["8441", "nginx (pid 7)", "PORT="]),
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


def test_what_will_change_on_the_host_is_told_before() -> None:
    found = check(
        replace(
            FINE,
            sysctls=(("net.ipv4.ip_forward", "0", "1"),),
            users_to_add=("nubila", "nubila-pg"),
            packages=("postgresql-15",),
        )
    )
    text = show(found)
    for words in ("net.ipv4.ip_forward from 0 to 1", "nubila, nubila-pg", "postgresql-15", "/var/lib/nubila"):
        assert words in text


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
