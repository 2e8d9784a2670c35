"""The lab on this machine: hosts that enrolled themselves, faults by command, and nothing left in the end."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from nubila.bootstrap import packages, processes
from nubila.bootstrap.journal import Journal
from tests.lab.lab import HOSTS, NAME, Lab, until
from tests.up.snapshot import differences, take

pytestmark = [
    pytest.mark.real,
    pytest.mark.long,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    work = Path("/var/tmp") / f"nubila-{NAME}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    packages.ensure(Journal(tmp_path_factory.mktemp("journal")))
    yield work
    shutil.rmtree(work, ignore_errors=True)


@pytest.fixture(scope="module")
def lab(work: Path) -> Iterator[Lab]:
    """Whatever happens, nothing of it stays."""
    lab = Lab(work / "clone")
    lab.make()
    before = take(NAME, work)
    try:
        lab.word("up")
        yield lab
    finally:
        said = lab.word("down", check=False)
    assert "is gone" in said
    assert differences(before, take(NAME, work)) == {}
    assert "nothing to do" in lab.word("down")


def test_each_host_enrolled_itself_and_runs_a_vm(lab: Lab) -> None:
    until(lambda: lab.states() == dict.fromkeys(HOSTS, "running"), 60, str(lab.states()))
    where = set()
    for n in range(12):  # placement spreads them; each host is to have one
        vm = lab.vm(f"web{n}")
        where.add(vm["node"].removeprefix(NAME))
        if where == set(HOSTS):
            break
    assert where == set(HOSTS)
    host = lab.shown("web0")["node"].removeprefix(NAME)
    assert until(lambda: lab.in_guest(host, lab.shown("web0"), "hostname"), 120, "no ssh") == "web0"


def test_a_machine_has_a_network_and_a_name_of_its_own(lab: Lab) -> None:
    assert lab.on("h1", "hostname").strip() == f"{NAME}h1"
    reach = "python3 -c \"import socket; socket.create_connection(('10.98.9.{0}', {1}), 3)\""
    lab.on("h1", reach.format(1, 8442))
    assert "refused" in lab.word("run", "h1", *shlex.split(reach.format(12, 8442)), check=False)  # h2 listens nowhere
    assert "10.98.9.11" in lab.on("h1", "ip -o addr")
    assert "10.98.9.12" not in lab.on("h1", "ip -o addr")


def test_what_is_frozen_or_cut_off_is_unknown_and_comes_back(lab: Lab) -> None:
    frozen = next(v for v in lab.nubila("vm", "list", "--as", "operator")["items"] if v["node"] == f"{NAME}h2")
    lab.word("freeze", "h2")
    lab.word("cut", "h3", "--to", "cp", "--hears-only")  # what it sends arrives, and it hears no answer
    try:
        until(lambda: lab.states() == {"h1": "running", "h2": "unknown", "h3": "unknown"}, 90, str(lab.states()))
        assert lab.shown(frozen["name"])["state"] == "unknown"
        assert lab.shown(frozen["name"])["spec"]["power"] == "on"
    finally:
        lab.word("thaw", "h2")
        lab.word("heal")
    until(lambda: set(lab.states().values()) == {"running"}, 60, str(lab.states()))
    until(lambda: lab.shown(frozen["name"])["state"] == "running", 60, "the vm does not come back")


def test_a_killed_host_boots_again_by_the_same_command_and_starts_its_vms(lab: Lab) -> None:
    vm = next(v for v in lab.nubila("vm", "list", "--as", "operator")["items"] if v["node"] == f"{NAME}h3")
    assert qemus(vm["id"])
    lab.word("kill", "h3")
    assert not qemus(vm["id"])
    said = lab.word("up")
    steps = [line for line in said.splitlines() if ".... " in line]
    assert [line.split("..")[0].strip() for line in steps if "unchanged" not in line] == ["h3: agent"]
    until(lambda: qemus(vm["id"]), 60, "its vm is not started")
    assert until(lambda: lab.in_guest("h3", vm, "hostname") == vm["name"], 120, "no ssh")


def test_again_nothing_is_changed(lab: Lab) -> None:
    assert "Nothing was changed" in lab.word("up")


def qemus(vm_id: str) -> list[int]:
    return [p.pid for p in processes.all_of() if p.program.startswith("qemu-system-") and vm_id in " ".join(p.argv)]
