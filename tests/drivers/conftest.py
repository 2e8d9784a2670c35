"""Fixtures of the drivers' tests: a place that unprivileged processes reach, a network namespace, images, hypervisors."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench import guest
from driver_images import make_qcow2
from driver_netns import own_netns
from driver_rig import Rig
from driver_rigs import MARKS, RIGS

from nubila.drivers import hypervisor


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """Not below pytest's own directory, which only root may search."""
    path = Path(tempfile.mkdtemp(prefix="nubila-test-", dir="/var/tmp"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def spot(place: Path, tmp_path: Path) -> Path:
    """Of one test, within the place."""
    path = place / tmp_path.name
    path.mkdir(mode=0o711)
    return path


@pytest.fixture(scope="module")
def netns() -> Iterator[None]:
    """The module runs in a network namespace of its own: nothing of the machine's network is seen or changed."""
    with own_netns():
        yield


@pytest.fixture(scope="session")
def guest_image() -> Path:
    return guest.directory()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qcow2(tmp_path_factory.mktemp("image") / "image.qcow2")


@pytest.fixture(
    scope="module", params=[pytest.param(n, marks=MARKS.get(n, [pytest.mark.real])) for n in hypervisor.DRIVERS]
)
def rig(request: pytest.FixtureRequest, place: Path) -> Iterator[Rig]:
    """Every hypervisor driver of the registry, one after the other."""
    path = place / request.param
    path.mkdir(mode=0o711)
    rig = RIGS[request.param](path)
    yield rig
    rig.done()
