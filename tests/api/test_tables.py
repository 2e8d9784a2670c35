"""Each plane's table of routes is one that a process can start with."""

from __future__ import annotations

import pytest

from nubila.api.table import compiled
from nubila.main import PLANES


@pytest.mark.parametrize("word", PLANES)
def test_a_plane_starts_with_its_table(word: str) -> None:
    plane, routes, _ = PLANES[word]
    compiled(plane, routes)
    assert len({(r.method, r.path) for r in routes}) == len(routes)
