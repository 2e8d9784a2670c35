"""A real S3 server for the tests: Ceph's radosgw over one monitor and one OSD in memory, on loopback, with its own files.

Everything is started here and ended by its pid. The Debian packages are ceph-mon, ceph-osd, ceph-common and radosgw.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from tests.processes import free_ports

TOOLS = ("ceph-mon", "ceph-osd", "ceph", "radosgw", "radosgw-admin", "ceph-authtool", "monmaptool")
CONF = """[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon}]
mon initial members = a
public addr = 127.0.0.1
ms bind ipv6 = false
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
keyring = {top}/$name.keyring
run dir = {top}/run
admin socket = {top}/run/$name.$pid.asok
log file = {top}/log/$name.log
pid file = {top}/run/$name.pid
mon data = {top}/mon
osd data = {top}/osd
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon warn on pool no redundancy = false
mon data avail warn = 1
mon data avail crit = 0
auth allow insecure global id reclaim = false
paxos propose interval = 0.05
osd objectstore = memstore
memstore device bytes = 1073741824
mon max pg per osd = 1000
rgw data = {top}/rgw
"""


class Gateway(msgspec.Struct, frozen=True):
    endpoint: str
    bucket: str
    credentials_file: str
    environment: dict[str, str]


def settings(made: Gateway) -> dict[str, str]:
    """The settings of an installation that keeps its images there."""
    return {
        "NUBILA_IMAGE_STORE": "s3",
        "NUBILA_S3_ENDPOINT": made.endpoint,
        "NUBILA_S3_BUCKET": made.bucket,
        "NUBILA_S3_CREDENTIALS_FILE": made.credentials_file,
    }


def missing() -> list[str]:
    return [t for t in TOOLS if shutil.which(t) is None]


@contextlib.contextmanager
def gateway() -> Iterator[Gateway]:
    top = Path(tempfile.mkdtemp(prefix="nubila-rgw-", dir="/var/tmp"))
    processes: list[subprocess.Popen[bytes]] = []
    try:
        yield _start(top, processes)
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in reversed(processes):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(top, ignore_errors=True)


def _start(top: Path, processes: list[subprocess.Popen[bytes]]) -> Gateway:
    for name in ("mon", "osd", "run", "log", "rgw"):
        (top / name).mkdir()
    mon, port = free_ports(2)
    fsid, osd = str(uuid.uuid4()), str(uuid.uuid4())
    (top / "ceph.conf").write_text(CONF.format(fsid=fsid, mon=mon, top=top))
    environment = {**os.environ, "CEPH_CONF": str(top / "ceph.conf")}

    def run(*argv: str, timeout_s: float = 60) -> str:
        return subprocess.run(
            argv, cwd=top, env=environment, check=True, timeout=timeout_s, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ).stdout  # fmt: skip

    def start(*argv: str) -> None:
        with (top / "log" / f"{len(processes)}.out").open("wb") as out:
            processes.append(
                subprocess.Popen(argv, cwd=top, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
            )

    _keys(top, run)
    run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v2:127.0.0.1:{mon}]", "monmap")
    run("ceph-mon", "-i", "a", "--mkfs", "--monmap", "monmap", "--keyring", "all.keyring")
    start("ceph-mon", "-i", "a", "-f")
    _until(lambda: bool(run("ceph", "--connect-timeout", "5", "mon", "stat")), 60)
    run("ceph", "osd", "new", osd, "0")
    run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
    start("ceph-osd", "-i", "0", "-f")
    _until(lambda: "1 up" in run("ceph", "osd", "stat"), 60)
    start("radosgw", "-n", "client.rgw.a", "-f", f"--rgw_frontends=beast endpoint=127.0.0.1:{port}")
    _until(lambda: _open(port), 120)
    run("radosgw-admin", "user", "create", "--uid=nubila", "--display-name=n", "--access-key=AKTEST",
        "--secret-key=SKTEST", timeout_s=120)  # fmt: skip
    credentials = top / "credentials.json"
    credentials.write_text(json.dumps({"access_key_id": "AKTEST", "secret_access_key": "SKTEST"}))
    credentials.chmod(0o644)
    top.chmod(0o755)
    _make_bucket(port, "nubila-images")
    return Gateway(f"http://127.0.0.1:{port}", "nubila-images", str(credentials), environment)


def _keys(top: Path, run: Callable[..., str]) -> None:
    """Of each daemon, and all in one file."""
    keys = {
        "mon.": ("mon", "allow *"), "client.admin": ("mon", "allow *", "osd", "allow *", "mgr", "allow *"),
        "osd.0": ("mon", "allow profile osd", "osd", "allow *"), "client.rgw.a": ("mon", "allow rw", "osd", "allow rwx"),
    }  # fmt: skip
    for name, caps in keys.items():
        pairs = [word for i in range(0, len(caps), 2) for word in ("--cap", caps[i], caps[i + 1])]
        run("ceph-authtool", "-C", f"{name.rstrip('.')}.keyring", "--gen-key", "-n", name, *pairs)
    (top / "all.keyring").write_text("".join((top / f"{n.rstrip('.')}.keyring").read_text() for n in keys))


def _make_bucket(port: int, bucket: str) -> None:
    """obstore makes none: one signed PUT does."""
    import datetime
    import hashlib
    import hmac
    import urllib.request

    now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    day, host, empty = now[:8], f"127.0.0.1:{port}", hashlib.sha256(b"").hexdigest()
    signed = "host;x-amz-content-sha256;x-amz-date"
    canonical = f"PUT\n/{bucket}\n\nhost:{host}\nx-amz-content-sha256:{empty}\nx-amz-date:{now}\n\n{signed}\n{empty}"
    scope = f"{day}/us-east-1/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = b"AWS4SKTEST"
    for part in (day, "us-east-1", "s3", "aws4_request", text):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    headers = {
        "x-amz-date": now, "x-amz-content-sha256": empty,
        "authorization": f"AWS4-HMAC-SHA256 Credential=AKTEST/{scope}, SignedHeaders={signed}, Signature={key.hex()}",
    }  # fmt: skip
    request = urllib.request.Request(f"http://{host}/{bucket}", method="PUT", headers=headers)
    urllib.request.urlopen(request, timeout=60).read()


def _open(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _until(what: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(subprocess.SubprocessError):
            if what():
                return
        assert time.monotonic() < deadline, "Ceph did not start in time"
        time.sleep(0.2)
