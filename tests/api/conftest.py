from __future__ import annotations

import io

import pytest

from nubila.telemetry import log
from tests.api import toy


@pytest.fixture
def logged() -> io.BytesIO:
    """What the test logs."""
    stream = io.BytesIO()
    log.setup("debug", stream)
    return stream


@pytest.fixture(autouse=True)
def _quiet(logged: io.BytesIO) -> None:
    """No test writes its request lines to the terminal."""


@pytest.fixture
def world() -> toy.Toy:
    return toy.make()
