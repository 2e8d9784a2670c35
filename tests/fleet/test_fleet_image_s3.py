"""An installation whose image store is a bucket of a real radosgw: pushed through the public API, cut, resumed, used, removed.

What is looked at is the bucket itself. The disks are fake; a guest that boots from such an image is in tests/real.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

from tests.fleet.image_client import Slow, part
from tests.fleet.installation import Installation, installed, until
from tests.fleet.tenant import Tenant, refused
from tests.fleet.test_fleet_volumes import done, volume
from tests.rgw import Gateway, gateway, settings

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.fixture(scope="module")
def bucket() -> Iterator[Gateway]:
    with gateway() as made:
        yield made


@pytest.fixture(scope="module")
def remote(bucket: Gateway) -> Iterator[Installation]:
    with installed(nodes=1, more=settings(bucket)) as made:
        yield made


def objects(bucket: Gateway) -> dict[str, int]:
    keys = json.loads(Path(bucket.credentials_file).read_text())
    store = S3Store(
        bucket.bucket,
        config={"endpoint": bucket.endpoint, "region": "us-east-1", "virtual_hosted_style_request": False, **keys},
        client_options={"allow_http": True},
    )
    return {str(o["path"]): int(o["size"]) for o in obstore.list(store).collect()}


def test_an_image_pushed_into_a_bucket_survives_a_cut_and_a_vm_runs_from_it(
    remote: Installation, bucket: Gateway
) -> None:
    tenant, content = Tenant(remote), os.urandom(20 << 20)
    owner, sha256 = tenant.owner, hashlib.sha256(content).hexdigest()
    owner.post("/v1/images", {"name": "i", "format": "raw", "size_bytes": len(content), "sha256": sha256}).ok()
    slow = Slow(owner, "i", len(content))
    slow.send(content[: 10 << 20])
    until(lambda: owner.get("/v1/images/i/upload").ok()["received_bytes"] >= 8 << 20, 30)
    slow.cut()
    second = tenant.at("front2")  # another process of the control plane, which shares nothing but bucket and database

    def free() -> int | None:
        here: int = second.get("/v1/images/i/upload").ok()["received_bytes"]
        return here if part(second, "i", b"", here, len(content)).status == 202 else None

    here = until(free, 30)
    assert 8 << 20 <= here <= 10 << 20
    assert f"images/{sha256}" not in objects(bucket)
    refused(owner.post("/v1/vms", tenant.wish("a", image="i")), 409, "conflict")
    assert part(second, "i", content[here:], here, len(content)).ok()["state"] == "ready"
    assert objects(bucket)[f"images/{sha256}"] == len(content)
    assert not [name for name in objects(bucket) if name.startswith("uploads/")]
    assert owner.send("GET", "/v1/images/i/content").raw == content
    tenant.running("a", image="i")  # its node fetched these bytes, and checked them
    assert not list(remote.settings.image_dir.glob("*")) if remote.settings.image_dir.exists() else True
    done(owner.delete("/v1/vms/a?wait=20"))
    owner.delete("/v1/images/i").ok()
    until(lambda: f"images/{sha256}" not in objects(bucket), 20)


def test_an_image_of_a_disk_goes_into_the_bucket_too(remote: Installation, bucket: Gateway) -> None:
    tenant = Tenant(remote)
    volume(tenant.owner, "data")
    done(tenant.owner.post("/v1/images?wait=30", {"name": "i", "format": "raw", "volume": "data"}), 201)
    found = tenant.owner.get("/v1/images/i").ok()
    assert objects(bucket)[f"images/{found['sha256']}"] == found["status"]["size_bytes"]
    assert remote.faults() == []
