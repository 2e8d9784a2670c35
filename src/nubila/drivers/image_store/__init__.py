"""Image stores by name. The table holds names only, so that reading it imports no driver."""

DRIVERS: dict[str, str] = {
    "file": "nubila.drivers.image_store.file:FileImageStore",
    "s3": "nubila.drivers.image_store.s3:S3ImageStore",
    "fake": "nubila.drivers.image_store.fake:FakeImageStore",
}
