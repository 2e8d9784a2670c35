"""Storage drivers by name. The table holds names only, so that reading it imports no driver."""

DRIVERS: dict[str, str] = {
    "directory": "nubila.drivers.storage.directory:DirectoryStorage",
    "fake": "nubila.drivers.storage.fake:FakeStorage",
}
