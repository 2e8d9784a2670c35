"""Fixtures of the drivers' tests: a place that unprivileged processes reach, a network namespace, the guest image."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from driver_netns import own_netns

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """Not below pytest's own directory, which only root may search."""
    path = Path(tempfile.mkdtemp(prefix="nubila-test-", dir="/var/tmp"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def netns() -> Iterator[None]:
    """The module runs in a network namespace of its own: nothing of the machine's network is seen or changed."""
    with own_netns():
        yield


@pytest.fixture(scope="session")
def guest_image() -> Path:
    """The directory with vmlinuz, initrd.gz and nubila-mini.qcow2, built when it is not there."""
    directory = REPOSITORY / "build" / "guest"
    if not (directory / "nubila-mini.qcow2").exists():
        subprocess.run([str(REPOSITORY / "guest" / "build.sh"), str(directory)], check=True, timeout=300)
    return directory
