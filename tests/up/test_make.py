"""`make up`, `down` and `destroy` in clones of their own, on this machine, under another name and other ports."""

from __future__ import annotations

import json
import os
import pwd
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nubila.bootstrap import packages, processes, supervisor
from nubila.bootstrap.journal import Journal
from nubila.config import Settings
from tests.up.foreign import present
from tests.up.snapshot import differences, take

pytestmark = [pytest.mark.real, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

ROOT = Path(__file__).parents[2]
NAME, PORT, SUBNET = "nbuptest", "28440", "10.93.7.0/24"
KEPT_OUT = {".git", ".venv", "build", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"}
HOST_BOOT_ID = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
GUESTS_OWN = ("libvirtd", "qemu-system-x86_64", "dnsmasq", "virtlogd")  # they outlive everything else


@pytest.fixture(scope="module")
def clones(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two clones. Whatever happens, nothing of the installation stays."""
    work = Path("/var/tmp") / f"nubila-{NAME}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    packages.ensure(Journal(tmp_path_factory.mktemp("journal")))  # so that files of packages are no difference
    try:
        for name in ("one", "two"):
            shutil.copytree(ROOT, work / name, symlinks=True, ignore=lambda _, names: KEPT_OUT & set(names))
            subprocess.run((work / name / "tools" / "setup",), check=True, capture_output=True)
        yield work
    finally:
        make(work / "one", "destroy", check=False)
        shutil.rmtree(work, ignore_errors=True)


def make(clone: Path, target: str, *more: str, check: bool = True) -> str:
    argv = ("make", "-C", str(clone), target, f"NAME={NAME}", f"PORT={PORT}", f"SUBNET={SUBNET}", *more)
    run = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=600)
    assert not check or run.returncode == 0, f"{run.stdout[-3000:]}\n{run.stderr[-3000:]}\n{exceptions()}"
    return run.stdout + run.stderr


def exceptions() -> str:
    """The newest of the services' logs: they are gone when the fixture has cleaned up."""
    logs = Path("/var/lib", NAME, "log").glob("*.log")
    lines = [line for log in logs for line in log.read_text(errors="replace").splitlines() if "exception" in line]
    return "\n".join(lines[-3:]).replace("\\n", "\n")[-6000:]


def test_up_down_up_destroy_leave_the_machine_as_it_was(clones: Path) -> None:
    one, two = clones / "one", clones / "two"
    with present(clones) as theirs:
        before = take(NAME, clones)
        said = make(one, "up")
        shown = json.loads((one / "build" / "up.json").read_text())
        assert shown["ssh"] in said.splitlines()
        boot_id = first_look(one, shown)
        who_fetches_may_read_nothing(one)
        nothing_changes(one, shown, boot_id)
        what_would_change_nothing_is_refused(one)
        a_killed_supervisor_is_replaced(one, shown, boot_id)
        outlives_the_services(one, shown, boot_id)
        other_clones_are_kept_out(two, one)
        assert "is gone" in make(one, "destroy")
        left = differences(before, take(NAME, clones))
        assert left == {}, json.dumps(left, indent=1)
        for program, pid in theirs.items():
            found = processes.read(pid)
            assert found is not None, f"the foreign {program} is gone"
        assert "nothing to do" in make(one, "destroy")


def first_look(clone: Path, shown: dict[str, Any]) -> str:
    """The VM is another machine than this one, and knows who it is."""
    boot_id = in_guest(shown, "cat /proc/sys/kernel/random/boot_id")
    assert boot_id != HOST_BOOT_ID
    vm = cli(clone, "vm", "show", "first")
    assert vm["id"] == shown["vm"]["id"]
    assert in_guest(shown, "cat /run/seed/metadata-id") == vm["id"]
    for file in ("up.json", "contexts.json", "ssh/id_ed25519"):
        assert (clone / "build" / file).stat().st_mode & 0o777 == 0o600
    return boot_id


def who_fetches_may_read_nothing(clone: Path) -> None:
    """The control plane's keys are closed to it, and open to the control plane, which alone may ask it."""
    settings = Settings(name=NAME)
    fetcher = processes.marked(settings.run_dir / "fetcher.process")
    assert fetcher is not None
    control = pwd.getpwnam(NAME)
    status = dict(x.split(":", 1) for x in Path(f"/proc/{fetcher.pid}/status").read_text().splitlines())
    assert status["Uid"].split() == [str(settings.fetch_uid)] * 4
    assert (status["Groups"].split(), status["CapEff"].strip(), status["NoNewPrivs"].strip()) == ([], "0" * 16, "1")
    connect = f"import socket; socket.socket(socket.AF_UNIX).connect({str(settings.fetch_socket)!r})"
    for argv in (("cat", str(settings.control_dir / "vault.key")), ("/usr/bin/python3", "-c", connect)):
        for user, may in ((settings.fetch_uid, argv[0] != "cat"), (settings.helper_uid, False), (control.pw_uid, True)):
            group = control.pw_gid if user == control.pw_uid else user
            done = subprocess.run(argv, user=user, group=group, extra_groups=[], capture_output=True, check=False)
            assert (done.returncode == 0) == may, (argv, user, done.stderr)
    # it is asked: the refusal is its own word
    words = ("image", "fetch", "http://127.0.0.1:9/x", "--name", "inner", "--format", "raw", "--no-wait")
    subprocess.run((clone / "nubila", *words), check=True, capture_output=True)
    deadline = time.monotonic() + 20
    while (found := cli(clone, "image", "show", "inner"))["state"] != "failed":
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    assert "not on the open internet" in found["status"]["reason"]
    cli(clone, "image", "delete", "inner")


def nothing_changes(clone: Path, shown: dict[str, Any], boot_id: str) -> None:
    """Again: the same processes, the same VM, within 15 s, and it says so."""
    pids = ours()
    start = time.monotonic()
    said = make(clone, "up")
    assert time.monotonic() - start < 15
    assert "Nothing was changed" in said
    assert ours() == pids
    assert json.loads((clone / "build" / "up.json").read_text()) == shown
    assert in_guest(shown, "cat /proc/sys/kernel/random/boot_id") == boot_id


def what_would_change_nothing_is_refused(clone: Path) -> None:
    pids = ours()
    said = make(clone, "up", "PORT=28540", "SUBNET=10.93.8.0/24", check=False)
    assert "PORT=28540 does not change that" in said
    assert "SUBNET=10.93.8.0/24 does not change that" in said
    assert ours() == pids


def a_killed_supervisor_is_replaced(clone: Path, shown: dict[str, Any], boot_id: str) -> None:
    """In one `make up`, though what it left would answer; and the guest does not notice."""
    marked = processes.marked(Path("/run", NAME, supervisor.MARK_FILE))
    assert marked is not None
    processes.send(marked, signal.SIGKILL)
    make(clone, "up")
    assert cli(clone, "vm", "show", "first")["state"] == "running"
    assert in_guest(shown, "cat /proc/sys/kernel/random/boot_id") == boot_id


def outlives_the_services(clone: Path, shown: dict[str, Any], boot_id: str) -> None:
    """Down: what serves the guest goes on, and nothing else. Up: adopted."""
    pids = ours()
    make(clone, "down")
    left = ours()
    assert set(left) <= set(GUESTS_OWN)
    assert left == {program: found for program, found in pids.items() if program in GUESTS_OWN}
    assert in_guest(shown, "cat /proc/sys/kernel/random/boot_id") == boot_id
    assert "down already" in make(clone, "down")
    make(clone, "up")
    assert {k: v for k, v in ours().items() if k in GUESTS_OWN} == left
    assert in_guest(shown, "cat /proc/sys/kernel/random/boot_id") == boot_id


def other_clones_are_kept_out(other: Path, holder: Path) -> None:
    pids = ours()
    for target in ("up", "down", "destroy"):
        said = make(other, target, check=False)
        assert str(holder) in said, said
    assert ours() == pids


def ours() -> dict[str, list[int]]:
    """Program -> pids, of this installation."""
    found: dict[str, list[int]] = {}
    for p in processes.all_of():
        mine = p.variable(processes.NAME_VARIABLE) == NAME or any(f"/{NAME}/" in word for word in p.argv)
        if mine and p.program.startswith(("python", "postgres", *GUESTS_OWN)) and not p.runs("up"):
            found.setdefault(p.program, []).append(p.pid)
    return {program: sorted(pids) for program, pids in found.items() if not program.startswith("postgres:")}


def in_guest(shown: dict[str, Any], command: str) -> str:
    argv = [*shlex.split(shown["ssh"]), command]
    run = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=30)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def cli(clone: Path, *words: str) -> dict[str, Any]:
    run = subprocess.run((clone / "nubila", *words, "--json"), capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0, run.stderr
    found: dict[str, Any] = json.loads(run.stdout)
    return found
