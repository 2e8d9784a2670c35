"""How a driver's name becomes its class: from the literal table of its kind, importing that one module only."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from nubila.drivers import CapabilityMissing


def load(drivers: Mapping[str, str], name: str) -> Any:
    """The driver's class. The caller knows its kind, hence its contract and its constructor's arguments."""
    if name not in drivers:
        raise CapabilityMissing(f"there is no driver {name!r}; known are: {', '.join(sorted(drivers))}")
    module, _, attribute = drivers[name].partition(":")
    return getattr(import_module(module), attribute)
