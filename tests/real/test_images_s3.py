"""A guest that boots from an image in a bucket: a whole installation over a real radosgw."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest
from bench.guest import image
from bench.installation import installation
from obstore.store import S3Store

from tests.real.conftest import Cloud
from tests.real.test_images import MARK_MIB
from tests.real.test_volumes import read, write
from tests.rgw import gateway, settings

pytestmark = [pytest.mark.real, pytest.mark.long]


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cloud, S3Store]]:
    key = tmp_path_factory.mktemp("key") / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    with gateway() as bucket, installation("nbs3", "real", 1, image(), "qcow2", settings(bucket)) as made:
        public = key.with_suffix(".pub").read_text()
        made.call(0, "POST", "/v1/keypairs", {"name": "test", "public_key": public}, made.tokens["user"])
        keys = json.loads(Path(bucket.credentials_file).read_text())
        config = {"endpoint": bucket.endpoint, "region": "us-east-1", "virtual_hosted_style_request": False, **keys}
        yield Cloud(made, key), S3Store(bucket.bucket, config=config, client_options={"allow_http": True})


def stored(bucket: S3Store) -> set[str]:
    return {str(o["path"]) for o in obstore.list(bucket).collect()}


def test_a_guest_boots_from_radosgw_and_its_own_image_goes_there(remote: tuple[Cloud, S3Store]) -> None:
    cloud, bucket = remote
    user = cloud.made.tokens["user"]
    mini = cloud.made.call(0, "GET", "/v1/images/mini", token=user)
    assert f"images/{mini['sha256']}" in stored(bucket)
    vm = cloud.create("first")
    vm.reachable()
    write(vm, "vda", "through-the-bucket", MARK_MIB)
    vm.verb("POST", "/stop", {"timeout_s": 60})
    body = {"name": "second", "format": "qcow2", "vm": "first"}
    answer = cloud.made.call(0, "POST", "/v1/images?wait=120", body, user)
    assert answer["operation"]["state"] == "done", answer
    made = cloud.made.call(0, "GET", "/v1/images/second", token=user)
    assert f"images/{made['sha256']}" in stored(bucket)
    again = cloud.create("again", image="second")
    again.reachable()
    assert read(again, "vda", MARK_MIB) == "through-the-bucket"
