"""Each import contract bites: a planted import that it forbids makes exactly that contract fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

# contract -> (file that gets the import, the import)
PLANTED = {
    "testing": ("bootstrap/up.py", "import nubila.testing.faults"),
    "layers": ("model/vm.py", "import nubila.intent.vm"),
    "planes": ("api/user/routes.py", "import nubila.api.operator.routes"),
    "agent": ("agent/plan.py", "import asyncpg"),
    "control-plane": ("intent/vm.py", "import subprocess"),
    "strangers": ("drivers/storage/directory.py", "import nubila.drivers.network.fake"),
    "pure": ("placement/decide.py", "import time"),
    "sql": ("api/noun/vm.py", "import sqlalchemy"),
}


def lint(directory: Path, contract: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(directory / "src")}
    words = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache", "--contract", contract]
    return subprocess.run(
        words, cwd=directory, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("planted")
    shutil.copytree(ROOT / "src", directory / "src", ignore=shutil.ignore_patterns("__pycache__", "*.sql"))
    shutil.copy(ROOT / "pyproject.toml", directory)
    return directory


def test_every_contract_has_a_planted_import() -> None:
    import tomllib

    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert {c["id"] for c in contracts} == set(PLANTED)


@pytest.mark.parametrize("contract", PLANTED)
def test_contract_bites(copy: Path, contract: str) -> None:
    clean = lint(copy, contract)
    assert clean.returncode == 0, clean.stdout
    name, line = PLANTED[contract]
    file = copy / "src" / "nubila" / name
    original = file.read_text()
    try:
        file.write_text(original + f"\n{line}  # noqa\n")
        planted = lint(copy, contract)
    finally:
        file.write_text(original)
    assert planted.returncode == 1, planted.stdout
    assert "BROKEN" in planted.stdout
