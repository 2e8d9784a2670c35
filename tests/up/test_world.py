"""What `destroy` finds: only what proves to be this installation's; settings of the host go back once, by the last one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nubila.bootstrap import packages, world
from nubila.bootstrap.owner import Owner, write
from nubila.config import Settings

KEY = "net/ipv4/ip_forward"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(name="nbworld", var=str(tmp_path / "var"), run=str(tmp_path / "run"))


def record(var_dir: Path, before: dict[str, str]) -> Path:
    file = var_dir / "node" / "network" / "host-settings.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(before))
    return file


def test_a_process_needs_a_proof(settings: Settings, tmp_path: Path) -> None:
    program = "import time; time.sleep(60)"
    ours = subprocess.Popen([sys.executable, "-c", program, f"{settings.var_dir}/node/x"], cwd="/")
    named = subprocess.Popen([sys.executable, "-c", program], cwd="/", env={"NUBILA_NAME": "nbworld"})
    like = f"{settings.var_dir}x/y"
    other = subprocess.Popen([sys.executable, "-c", program, like], cwd="/", env={"NUBILA_NAME": "z"})
    pager = subprocess.Popen(["tail", "-f", "/dev/null", f"{settings.var_dir}/log"], stderr=subprocess.DEVNULL)
    everyone = (ours, named, other, pager)
    try:
        for _ in range(100):
            found = {p.pid for p in world.running(settings)}
            if {ours.pid, named.pid} <= found:
                break
        assert found & {p.pid for p in everyone} == {ours.pid, named.pid}
    finally:
        for p in everyone:
            p.kill()
            p.wait()


def test_settings_are_given_back_as_they_were(settings: Settings) -> None:
    record(settings.var_dir, {"net/ipv6/conf/eth9/accept_ra": "1", KEY: "0"})
    assert world.changed_settings(settings) == {Path("/proc/sys", KEY): "0"}


def test_no_record_is_nothing_to_give_back(settings: Settings) -> None:
    assert world.changed_settings(settings) == {}


def points(var_dir: Path, made: list[str]) -> None:
    file = var_dir / "node" / "libvirt" / "mount-points.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(made))


def test_alone_on_the_host_nobody_inherits(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(settings.var_dir, {KEY: "0"})
    monkeypatch.setattr(world, "STATES", tmp_path)
    assert world.hand_over_settings(settings) is world.hand_over_mounts(settings) is None


def test_another_installation_inherits_them(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heir = tmp_path / "lib" / "other"
    heirs_record = record(heir, {"x": "1"})
    write(heir, Owner("/c", "other", "now", "", ""))
    record(settings.var_dir, {KEY: "0"})
    points(heir, ["/a"])
    points(settings.var_dir, ["/b", "/a"])
    monkeypatch.setattr(world, "STATES", tmp_path / "lib")
    assert world.hand_over_settings(settings) == heir
    assert json.loads(heirs_record.read_text()) == {"x": "1", KEY: "0"}
    assert world.hand_over_mounts(settings) == heir
    assert json.loads((heir / "node" / "libvirt" / "mount-points.json").read_text()) == ["/a", "/b"]


def test_settings_of_a_machine_of_a_lab_are_not_this_machines(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "lib" / "other", tmp_path / "lib" / "labh2"
    records = [record(d, {"x": "1"}) for d in (here, there)]
    write(here, Owner("/c", "other", "now", "", ""))
    write(there, Owner("/c", "labh2", "now", "", "", machine="h2"))
    record(settings.var_dir, {KEY: "0"})
    write(settings.var_dir, Owner("/c", settings.name, "now", "", "", machine="h1"))
    points(settings.var_dir, ["/b"])
    points(here, [])
    monkeypatch.setattr(world, "STATES", tmp_path / "lib")
    assert world.hand_over_settings(settings) is None
    assert [json.loads(r.read_text()) for r in records] == [{"x": "1"}, {"x": "1"}]
    assert world.hand_over_mounts(settings) in (here, there)  # directories are all machines' in common


def test_mount_points_come_from_the_agents_record(settings: Settings) -> None:
    file = settings.node_dir / "libvirt" / "mount-points.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(["/etc/libvirt", "/var/lib/libvirt", "not/absolute"]))
    assert world.mount_points(settings) == [Path("/var/lib/libvirt"), Path("/etc/libvirt")]


def test_an_installed_postgresql_of_any_version_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "postgresql_bin", lambda: Path("/usr/lib/postgresql/16/bin"))
    assert "postgresql-99" not in packages.missing({"postgresql-99": "why"})
    monkeypatch.setattr(packages, "postgresql_bin", lambda: None)
    assert packages.missing({"postgresql-99": "why", "coreutils": "there"}) == ["postgresql-99"]
