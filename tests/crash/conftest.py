"""One installation and one host for all crash points of a test process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.crash.host import Host, wait_node
from tests.fleet.installation import Installation, installed
from tests.fleet.tenant import Tenant


@pytest.fixture(scope="session")
def installation() -> Iterator[Installation]:
    with installed(nodes=1) as made:
        yield made


HOSTS = 3  # side by side; most of a run is waiting


class Bench(NamedTuple):
    """A host, and a project that has nothing anywhere else."""

    host: Host
    tenant: Tenant


@pytest.fixture(scope="session")
def benches(installation: Installation) -> Iterator[list[Bench]]:
    made = []
    for n in range(HOSTS):
        host = Host(installation, f"crash{n}")
        host.start()
        wait_node(installation, host.name)
        host.stop()
        made.append(Bench(host, Tenant(installation)))
    yield made
    for bench in made:
        bench.host.close()
