"""The systemd unit: what systemd itself says of it, when it is installed, and that it goes with its installation."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from nubila.bootstrap import units
from nubila.bootstrap.install import Install
from nubila.bootstrap.journal import Journal
from nubila.bootstrap.owner import Owner
from nubila.config import Settings

SETTINGS = Settings(name="unittest")


@pytest.fixture
def install(tmp_path: Path) -> Install:
    settings = Settings(name="unittest", var=str(tmp_path / "var"), run=str(tmp_path / "run"))
    settings.var_dir.mkdir(parents=True)
    return Install(settings, tmp_path, Owner(str(tmp_path), "unittest", "now", "", ""), Journal(settings.var_dir))


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with systemd: what systemctl is asked goes to a file, and it knows which units are enabled."""
    tool, log = tmp_path / "bin" / "systemctl", tmp_path / "said"
    tool.parent.mkdir()
    tool.write_text(
        f'#!/bin/sh\necho "$*" >>{log}\n'
        f"case $1 in enable) touch {tmp_path}/enabled;; disable) rm -f {tmp_path}/enabled;; "
        f"is-enabled) test -e {tmp_path}/enabled;; esac\n"
    )
    tool.chmod(0o755)
    for directory in ("units", "runs"):
        (tmp_path / directory).mkdir()
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(units, "DIRECTORY", tmp_path / "units")
    monkeypatch.setattr(units, "RUNS", tmp_path / "runs")
    log.touch()
    return log


def test_systemd_finds_nothing_wrong_with_it(tmp_path: Path) -> None:
    file = tmp_path / units.name_of(SETTINGS)
    file.write_text(units.text(SETTINGS, Path("/usr/bin/python3")))
    run = subprocess.run(("systemd-analyze", "verify", str(file)), capture_output=True, text=True, check=False)
    about = [line for line in run.stderr.splitlines() if file.name in line]
    assert (run.returncode, about) == (0, [])
    file.write_text(file.read_text().replace("KillMode=process", "KillMode=nonsense"))  # it would have said so
    run = subprocess.run(("systemd-analyze", "verify", str(file)), capture_output=True, text=True, check=False)
    assert "kill mode" in run.stderr


def test_guests_outlive_it_and_nothing_of_a_person_is_in_it() -> None:
    text = units.text(SETTINGS, Path("/x/python"))
    assert "KillMode=process\n" in text
    assert 'Environment="NUBILA_NAME=unittest"\n' in text
    assert "SSH" not in text
    assert "SUDO" not in text


def test_it_is_installed_once_and_goes_with_its_installation(install: Install, said: Path, tmp_path: Path) -> None:
    assert units.ensure(install) == "nubila-unittest.service installed"
    file = tmp_path / "units" / "nubila-unittest.service"
    assert "enable --quiet nubila-unittest.service" in said.read_text()
    assert install.journal.has("file", str(file))
    assert units.ensure(install) == ""
    units.disable(install.settings)  # make down
    assert not (tmp_path / "enabled").exists()
    assert units.ensure(install) == "nubila-unittest.service enabled"
    file.write_text(file.read_text() + "# old\n")
    assert units.ensure(install) == "nubila-unittest.service refreshed"
    other = tmp_path / "units" / "nubila-other.service"
    other.write_text(units.text(Settings(name="other"), Path("/x")))
    assert units.remove(install.settings) == f"{file} removed"
    assert (file.exists(), other.exists()) == (False, True)
    assert units.remove(install.settings) == ""


def test_a_unit_of_somebody_else_stays_as_it_is(install: Install, said: Path, tmp_path: Path) -> None:
    """Mutant: without the mark, another's unit of that name would be replaced, and removed."""
    file = tmp_path / "units" / "nubila-unittest.service"
    file.write_text("[Service]\nExecStart=/bin/true\n")
    with pytest.raises(units.UnitFailure, match="not Nubila's"):
        units.ensure(install)
    units.disable(install.settings)
    assert units.remove(install.settings) == ""
    assert file.read_text() == "[Service]\nExecStart=/bin/true\n"
    assert said.read_text() == ""


def test_without_systemd_nothing_is_installed(
    install: Install, said: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "RUNS", tmp_path / "nowhere")
    assert units.ensure(install) == ""
    assert list((tmp_path / "units").iterdir()) == []
    assert said.read_text() == ""
