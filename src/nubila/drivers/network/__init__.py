"""Network drivers by name. The table holds names only, so that reading it imports no driver."""

DRIVERS: dict[str, str] = {
    "bridge": "nubila.drivers.network.bridge:BridgeNetwork",
    "fake": "nubila.drivers.network.fake:FakeNetwork",
}
