"""`make up` repairs what was taken away and names it; after a boot of the machine what was wished running runs; two
installations of two clones live side by side. On this machine, under names and ports of their own."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nubila.bootstrap import packages, processes, standing, world
from nubila.bootstrap.journal import Journal
from nubila.config import Settings, load

pytestmark = [pytest.mark.real, pytest.mark.long, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

ROOT = Path(__file__).parents[2]
KEPT_OUT = {".git", ".venv", "build", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"}


@dataclass
class Clone:
    path: Path
    name: str
    port: str
    subnet: str

    def make(self, target: str, *, check: bool = True) -> str:
        argv = ("make", "-C", str(self.path), target, f"NAME={self.name}", f"PORT={self.port}", f"SUBNET={self.subnet}")
        run = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=900)
        assert not check or run.returncode == 0, f"{run.stdout[-3000:]}\n{run.stderr[-3000:]}"
        return run.stdout + run.stderr

    @property
    def settings(self) -> Settings:
        return load(Path("/var/lib", self.name, "nubila.toml"), environ={"NUBILA_NAME": self.name})

    @property
    def shown(self) -> dict[str, Any]:
        return dict(json.loads((self.path / "build" / "up.json").read_text()))

    def in_guest(self, command: str) -> str:
        words = (*shlex.split(self.shown["ssh"]), "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", command)
        run = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL)
        assert run.returncode == 0, run.stderr
        return run.stdout.strip()

    def boot_id(self) -> str:
        return self.in_guest("cat /proc/sys/kernel/random/boot_id")

    def kill(self, *, everything: bool = False) -> None:
        """The supervisor and the agent, or all of the installation and its guests, each by its id."""
        for p in world.running(self.settings):
            services = p.runs("supervise") or (p.runs("agent") and p.program.startswith("python"))
            if everything or services:
                processes.send(p, signal.SIGKILL)


@pytest.fixture(scope="module")
def clones(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Clone, Clone]]:
    work = Path("/var/tmp/nubila-repairs")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    packages.ensure(Journal(tmp_path_factory.mktemp("journal")))
    one = Clone(work / "one", "nbrepone", "28540", "10.94.1.0/24")
    two = Clone(work / "two", "nbreptwo", "28640", "10.94.2.0/24")
    try:
        for clone in (one, two):
            shutil.copytree(ROOT, clone.path, symlinks=True, ignore=lambda _, names: KEPT_OUT & set(names))
            subprocess.run((clone.path / "tools" / "setup",), check=True, capture_output=True)
            if (ROOT / "build" / "guest").is_dir():
                shutil.copytree(ROOT / "build" / "guest", clone.path / "build" / "guest")
        yield one, two
    finally:
        for clone in (one, two):
            clone.make("destroy", check=False)
        shutil.rmtree(work, ignore_errors=True)


@pytest.fixture(scope="module")
def one(clones: tuple[Clone, Clone]) -> Clone:
    clones[0].make("up")
    return clones[0]


def idle(clone: Clone) -> None:
    """Again: nothing is missing, nothing is done, and it says so."""
    output = clone.make("up")
    steps = [line.strip() for line in output.splitlines() if ".... " in line]
    assert steps
    assert [line for line in steps if "unchanged" not in line] == []
    assert "Nothing was changed" in output


def said_of(output: str) -> str:
    return next((line for line in output.splitlines() if "what was taken away" in line), "")


def test_up_repairs_whatever_was_taken_away_and_that_alone_and_says_so(one: Clone) -> None:
    settings, boot_id = one.settings, one.boot_id()
    whole = standing.look(settings)
    vm_id = one.shown["vm"]["id"]
    one.kill()
    (bridge,) = [n for n in world.links(settings) if n[3] == "b"]
    world.remove_link(bridge)
    world.remove_table("inet", settings.name)
    for p in world.running(settings):
        if p.program == "dnsmasq":
            processes.send(p, signal.SIGKILL)
    (settings.node_dir / "disks").chmod(0o777)
    (settings.run_dir / "postgresql").chmod(0o700)
    output = one.make("up")
    said = said_of(output)
    for thing in (f"bridge {bridge}", f"nft table inet {settings.name}", "process agent", "process dnsmasq of net-"):
        assert thing in said, said
    assert f"QEMU of {vm_id}" not in said
    assert "libvirtd" not in said
    directories = next(line for line in output.splitlines() if line.strip().startswith("directories"))
    assert f"{settings.node_dir / 'disks'} set right" in directories
    assert f"{settings.run_dir / 'postgresql'} set right" in directories
    assert directories.count("set right") == 2
    assert standing.look(settings) == whole
    assert one.boot_id() == boot_id  # the guest never noticed
    idle(one)


def test_up_gives_a_guest_its_wire_back_while_it_runs(one: Clone) -> None:
    settings, boot_id = one.settings, one.boot_id()
    one.kill()
    (tap,) = [n for n in world.links(settings) if n[3] == "t"]
    world.remove_link(tap)
    assert f"tap {tap}" in said_of(one.make("up"))
    assert one.boot_id() == boot_id
    idle(one)


def test_f26_qemu_survives_a_killed_agent_which_adopts_it_within_10_s(one: Clone) -> None:
    settings, boot_id = one.settings, one.boot_id()
    (qemu,) = [p for p in world.running(settings) if standing.vm_of(p)]
    log = settings.var_dir / "log" / "agent.log"
    sessions, began = log.read_text().count("session.opened"), time.monotonic()
    for p in world.running(settings):
        if p.runs("agent") and p.program.startswith("python"):
            processes.send(p, signal.SIGKILL)
    while log.read_text().count("session.opened") == sessions:
        assert time.monotonic() - began < 10
        time.sleep(0.1)
    assert processes.alive(qemu)
    assert one.boot_id() == boot_id


def test_up_brings_back_a_vm_whose_process_was_killed(one: Clone) -> None:
    settings, boot_id = one.settings, one.boot_id()
    one.kill()  # so that nobody is quicker
    for p in world.running(settings):
        if standing.vm_of(p) is not None:
            processes.send(p, signal.SIGKILL)
    said = said_of(one.make("up"))
    assert f"QEMU of {one.shown['vm']['id']}" in said
    assert "bridge" not in said
    assert one.boot_id() != boot_id
    idle(one)


def test_after_a_boot_of_the_machine_what_was_wished_running_runs(one: Clone) -> None:
    """As a boot leaves it: no process, an empty run directory, no interfaces, no rules."""
    settings, boot_id = one.settings, one.boot_id()
    one.in_guest("echo kept >/data/kept && sync")
    one.kill(everything=True)
    for link in world.links(settings):
        world.remove_link(link)
    for family, name in world.tables(settings):
        world.remove_table(family, name)
    shutil.rmtree(settings.run_dir)
    assert standing.look(settings) == frozenset()
    one.make("up")
    assert one.boot_id() != boot_id
    assert one.in_guest("cat /data/kept") == "kept"
    idle(one)


def test_two_clones_live_side_by_side_and_destroying_one_leaves_the_other_whole(clones: tuple[Clone, Clone]) -> None:
    one, two = clones
    two.make("up")
    first, second = one.boot_id(), two.boot_id()
    whole = standing.look(one.settings)
    assert first != second
    assert one.shown["vm"]["addresses"] != two.shown["vm"]["addresses"]
    assert not standing.look(two.settings) & {s for s in whole if not s.startswith("process")}
    gone = two.settings
    assert "is gone" in two.make("destroy")
    assert standing.look(one.settings) == whole
    assert standing.look(gone) == frozenset()
    assert not gone.var_dir.exists()
    assert one.boot_id() == first
    idle(one)
