"""A bridge driver of its own for a test, and taps that are plugged into it as a guest's are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from driver_frames import Tap

from nubila.drivers.network.base import Network, Options, Port
from nubila.drivers.network.bridge import BridgeNetwork


@contextlib.contextmanager
def bridged(directory: Path, *networks: Network) -> Iterator[BridgeNetwork]:
    driver = BridgeNetwork(Options(table="drivertest", directory=str(directory)))
    try:
        for network in networks:
            driver.ensure_network(network)
        yield driver
    finally:
        driver.remove_all()
        driver.close()


@contextlib.contextmanager
def plugged(driver: BridgeNetwork, wish: Port) -> Iterator[Tap]:
    tap = Tap(driver.ensure_port(wish))
    try:
        yield tap
    finally:
        tap.close()
