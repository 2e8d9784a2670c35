"""The real route tables of the three planes: each can be built, and a route given twice cannot hide."""

from __future__ import annotations

import importlib

import pytest

from nubila.api.route import Route
from nubila.api.table import compiled
from nubila.model.catalog import Plane


@pytest.mark.parametrize("plane", list(Plane))
def test_every_plane_can_be_built_from_its_table(plane: Plane) -> None:
    routes: tuple[Route, ...] = importlib.import_module(f"nubila.api.{plane.value}.routes").ROUTES
    assert len(routes) > 5
    compiled(plane, routes)
    with pytest.raises(ValueError, match="twice"):
        compiled(plane, (*routes, routes[0]))
