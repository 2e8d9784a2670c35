"""Image stores by name. The table holds names only, so that reading it imports no driver."""

DRIVERS: dict[str, str] = {
    "file": "nubila.drivers.image_store.file:FileImageStore",
    "fake": "nubila.drivers.image_store.fake:FakeImageStore",
}
