"""Two installations: one that all tests share and none may harm, and one whose processes may be killed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fleet.installation import Installation, installed
from tests.fleet.tenant import Tenant


@pytest.fixture(scope="session")
def cloud() -> Iterator[Installation]:
    """Nothing in here ever breaks: its logs hold no error when all tests are over."""
    with installed(nodes=2) as made:
        yield made
        faults = made.faults()
        if faults:  # not by assert: pytest would print them all
            pytest.fail(f"{len(faults)} faults in the logs, the first: {faults[0][:3000]}", pytrace=False)


@pytest.fixture(scope="session")
def fragile() -> Iterator[Installation]:
    """Its processes are killed; each test leaves it whole."""
    with installed(nodes=1) as made:
        yield made


@pytest.fixture
def tenant(cloud: Installation) -> Tenant:
    return Tenant(cloud)
