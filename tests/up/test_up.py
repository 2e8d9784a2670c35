"""What `make up` and `make destroy` do in the clone, and to what an earlier run left, without an installation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from nubila.bootstrap import children, contexts, destroy, main, processes, runtime, services, show, supervisor
from nubila.bootstrap.install import Install
from nubila.bootstrap.journal import Journal
from nubila.bootstrap.owner import Owner
from nubila.bootstrap.supervisor import Supervisor
from nubila.config import Settings

OWN = Path(__file__).parents[2]


def install(tmp_path: Path, name: str = "nbuphalf") -> Install:
    settings = Settings(name=name, var=str(tmp_path / "var"), run=str(tmp_path / "run"))
    for directory in (settings.var_dir, settings.run_dir, settings.var_dir / "log", tmp_path / "clone" / "build"):
        directory.mkdir(parents=True, exist_ok=True)
    clone = tmp_path / "clone"
    return Install(settings, clone, Owner(str(clone), name, "now", "", ""), Journal(settings.var_dir))


def shown(name: str, **more: str) -> dict[str, Any]:
    apis = {"user": f"https://{name}", "operator": f"https://{name}:1"}
    return {
        "name": name,
        "apis": apis,
        "ca_file": f"/var/lib/{name}/public/ca.pem",
        "user_token": "u",
        "operator_token": "o",
        "project": "p",
    } | more


def held(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "clone" / "build" / "contexts.json").read_text())
    return found


# --- the contexts file


def test_contexts_of_others_stay(tmp_path: Path) -> None:
    file = tmp_path / "clone" / "build" / "contexts.json"
    show.contexts(install(tmp_path), shown("nubila"))
    mine = held(tmp_path)
    mine["contexts"].append({"name": "work", "user_url": "https://10.0.0.9:8440", "user_token": "nbu_1_x"})
    file.write_text(json.dumps(mine | {"current": "work"}))
    show.contexts(install(tmp_path), shown("nubila", user_token="newer"))
    assert show.contexts(install(tmp_path, "x"), shown("x")) == "work"
    found = held(tmp_path)
    assert [c["name"] for c in found["contexts"]] == ["nubila", "work", "x"]
    assert [c["user_token"] for c in found["contexts"]] == ["newer", "nbu_1_x", "u"]
    assert found["current"] == "work"
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_current_one_that_is_gone_gives_way(tmp_path: Path) -> None:
    (tmp_path / "clone" / "build").mkdir(parents=True)
    (tmp_path / "clone" / "build" / "contexts.json").write_text('{"current": "gone", "contexts": []}')
    assert show.contexts(install(tmp_path), shown("nubila")) == "nubila"


def test_a_second_installation_says_to_whom_the_client_speaks(tmp_path: Path) -> None:
    for name in ("nubila", "x"):
        answer = shown(name)
        show.remember(install(tmp_path, name), answer)
        assert ("--context x" in show.text(install(tmp_path, name), answer)) == (name == "x")


def test_a_file_that_is_none_is_kept_aside(tmp_path: Path) -> None:
    build = tmp_path / "clone" / "build"
    build.mkdir(parents=True)
    for text in ("{", "[]", '{"contexts": [1]}', '{"contexts": [{}]}'):
        (build / "contexts.json").write_text(text)
        show.contexts(install(tmp_path), shown("nubila"))
        assert (build / "contexts.json.unreadable").read_text() == text
        assert held(tmp_path)["current"] == "nubila"


def test_destroy_takes_out_its_own_context_only(tmp_path: Path) -> None:
    build = tmp_path / "clone" / "build"
    for name in ("nubila", "x"):
        show.remember(install(tmp_path, name), shown(name))
    show.contexts(install(tmp_path), shown("far", ca_file="far.pem"))
    assert destroy._build("far", tmp_path / "clone") == []
    assert "context 'x' taken out of build/contexts.json" in destroy._build("x", tmp_path / "clone")
    assert [c["name"] for c in held(tmp_path)["contexts"]] == ["nubila", "far"]
    assert not (build / "up.json").exists()
    (build / "contexts.json").write_text(json.dumps(contexts.without(held(tmp_path), "far", Path("far.pem"))))
    destroy._build("nubila", tmp_path / "clone")
    assert list(build.iterdir()) == []
    assert destroy._build("nubila", tmp_path / "clone") == []


# --- what a killed supervisor left


def test_what_a_killed_supervisor_left_answers_for_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An orphan that would answer /readyz is gone before the new supervisor is started and waited for."""
    here = install(tmp_path)
    program = "import time; print('up', flush=True); time.sleep(60)"
    argv = [sys.executable, "-c", program, "-m", "nubila", "serve", "user", "operator"]
    orphan = subprocess.Popen(argv, stdout=subprocess.PIPE, env={"NUBILA_NAME": here.settings.name})
    assert orphan.stdout is not None
    orphan.stdout.readline()
    stale = here.settings.run_dir / supervisor.STATUS_FILE
    stale.write_text("{}")
    seen: list[tuple[bool, bool]] = []

    class Started:
        def __init__(self, argv: object, **more: object) -> None:
            seen.append((orphan.poll() is None, stale.exists()))

    try:
        monkeypatch.setattr(services.subprocess, "Popen", Started)
        assert services.ensure(here, dict) == "started"
        assert seen == [(False, False)]
    finally:
        orphan.kill()
        orphan.wait()


def test_the_supervisor_says_no_next_time_of_what_is_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = Supervisor(install(tmp_path).settings)
    made.children = [c for c in made.children if c.kind.name in ("migrate", "agent")]
    for child in made.children:
        child.popen = subprocess.Popen([sys.executable, "-c", ""])
        child.popen.wait()
    made._probe = lambda child: None  # type: ignore[method-assign]
    made._start = lambda child, now: None  # type: ignore[method-assign]
    made.turn(time.monotonic())
    told = {line["child"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert "again_in_s" not in told["migrate"]
    assert told["agent"]["again_in_s"] == children.BACKOFF_FIRST_S


def test_files_called_pid_hold_one_number(tmp_path: Path) -> None:
    me = processes.read(1)
    assert me is not None
    settings = install(tmp_path).settings
    names = [supervisor.MARK_FILE, *(c.mark_file.name for c in Supervisor(settings).children)]
    for name in names:
        processes.mark(tmp_path / name, me)
        assert not name.endswith(".pid") or (tmp_path / name).read_text().strip().isdigit()


# --- before there is an installation


def test_the_client_of_a_fresh_clone_says_what_to_run(tmp_path: Path) -> None:
    (tmp_path / "nubila").write_bytes((OWN / "nubila").read_bytes())
    ran = subprocess.run(("sh", tmp_path / "nubila", "vm", "list"), capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert f"sudo make -C {tmp_path} up" in ran.stderr
    assert "not found" not in ran.stderr


def test_help_of_make_points_at_nothing_that_is_not_there() -> None:
    ran = subprocess.run(("make", "-C", OWN, "help"), capture_output=True, text=True, check=True)
    assert "above" not in ran.stdout
    for word in ("NAME=", "PORT=", "SUBNET=", "ACCEPT=firewall", "ACCEPT=adopt", "PACKAGES=1"):
        assert word in ran.stdout


UV = """#!/bin/sh
case "$1" in --version) echo uv 0.9.0 ;; *) echo "${UV_CACHE_DIR:-none}" >>"$SEEN" ;; esac
"""


@pytest.mark.parametrize("had_one", [False, True])
def test_packages_are_kept_in_the_clone_unless_uv_has_its_own_place(tmp_path: Path, had_one: bool) -> None:
    clone, home, seen = tmp_path / "clone", tmp_path / "home", tmp_path / "seen"
    (clone / "tools").mkdir(parents=True)
    home.mkdir()
    if had_one:
        (home / ".cache" / "uv").mkdir(parents=True)
    for file in ("tools/setup", "requirements.lock", "pyproject.toml"):
        (clone / file).write_bytes((OWN / file).read_bytes())
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    uv.write_text(UV)
    uv.chmod(0o755)
    environ = {"PATH": f"{uv.parent}:{os.environ['PATH']}", "HOME": str(home), "SEEN": str(seen)}
    subprocess.run(("sh", clone / "tools" / "setup"), env=environ, check=True, capture_output=True)
    here = str(clone / "build" / "uv-cache")
    assert set(seen.read_text().split()) == {"none" if had_one else here}
    assert had_one or list(home.rglob("*")) == []


def test_the_services_packages_come_from_the_same_place(tmp_path: Path) -> None:
    here = install(tmp_path)
    seen = tmp_path / "seen"
    (here.build / "uv").write_text(str(tmp_path / "uv"))
    (tmp_path / "uv").write_text(f'#!/bin/sh\necho "${{UV_CACHE_DIR:-none}}" >{seen}\n')
    (tmp_path / "uv").chmod(0o755)
    (here.build / "uv-cache").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("UV_CACHE_DIR", raising=False)
        runtime._uv(here, "pip", "sync")
    assert seen.read_text().strip() == str(here.build / "uv-cache")


def test_dev_never_takes_a_real_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = install(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(main, "open_install", lambda *a, **k: here)
    monkeypatch.setattr(main, "destroy_all", lambda *a, **k: pytest.fail("it would be destroyed"))
    monkeypatch.setattr(main, "_up", lambda *a, **k: pytest.fail("it would be brought up"))
    assert main.dev(["--name", here.settings.name, str(here.clone)]) == 1
    assert "real installation" in capsys.readouterr().err
