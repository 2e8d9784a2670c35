"""Processes are told by pid and start time, and a signal reaches the one that is meant or none."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from nubila.bootstrap import children, processes
from nubila.bootstrap.children import LOG_MAX_BYTES, rotate
from nubila.bootstrap.processes import Process


def sleeper(code: str = "") -> subprocess.Popen[bytes]:
    program = f"import time, signal; {code or 'pass'}; print('up', flush=True); time.sleep(60)"
    made = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env={"NUBILA_NAME": "nbtest"})
    assert made.stdout is not None
    made.stdout.readline()
    return made


def test_a_process_shows_its_words_and_whose_it_is() -> None:
    child = sleeper()
    try:
        found = processes.read(child.pid)
        assert found is not None
        assert found.argv[1] == "-c"
        assert found.variable("NUBILA_NAME") == "nbtest"
        assert found in list(processes.all_of())
    finally:
        child.kill()
        child.wait()
    assert processes.read(child.pid) is None


def test_another_process_with_the_same_pid_is_left_alone() -> None:
    child = sleeper()
    try:
        found = processes.read(child.pid)
        assert found is not None
        assert not processes.send(replace(found, started=found.started - 1), signal.SIGKILL)
        time.sleep(0.1)
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()


def test_stop_asks_first_and_kills_in_the_end() -> None:
    deaf, polite = sleeper("signal.signal(signal.SIGTERM, signal.SIG_IGN)"), sleeper()
    both = [p for p in (processes.read(deaf.pid), processes.read(polite.pid)) if p]
    killed = processes.stop(both, patience_s=0.5)
    assert [p.pid for p in killed] == [deaf.pid]
    assert (deaf.wait(5), polite.wait(5)) == (-signal.SIGKILL, -signal.SIGTERM)


def test_a_mark_of_a_dead_process_names_none(tmp_path: Path) -> None:
    child = sleeper()
    found = processes.read(child.pid)
    assert found is not None
    file = tmp_path / "x.process"
    processes.mark(file, found)
    assert processes.marked(file) == found
    processes.mark(file, replace(found, started=1))
    assert processes.marked(file) is None
    child.kill()
    child.wait()
    assert processes.marked(tmp_path / "none.process") is None


def test_runs_wants_the_words_in_a_row() -> None:
    process = Process(1, 1, ("/v/bin/python", "-m", "nubila", "serve", "user", "operator"), ())
    assert process.runs()
    assert process.runs("serve", "user")
    assert not process.runs("agent")
    assert not Process(1, 1, ("grep", "-m", "nubilax"), ()).runs()


def test_logs_stay_bounded_while_a_writer_has_them_open(tmp_path: Path) -> None:
    log = tmp_path / "agent.log"
    with log.open("ab", buffering=0) as writer:
        for n in range(6):
            writer.write(bytes([65 + n]) * LOG_MAX_BYTES)
            rotate(log)
        writer.write(b"last")
    assert log.read_bytes() == b"last"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["agent.log", *(f"agent.log.{n}" for n in (1, 2, 3))]
    assert log.with_name("agent.log.1").read_bytes()[:1] == b"F"


def test_the_kinds_start_after_what_they_need_and_are_told_apart() -> None:
    names = [k.name for k in children.KINDS]
    assert len(set(names)) == len(names)
    for kind in children.KINDS:
        assert kind.after is None or names.index(kind.after) < names.index(kind.name)
    assert [k.name for k in children.KINDS if k.user.__name__ == "_root"] == ["agent"]
