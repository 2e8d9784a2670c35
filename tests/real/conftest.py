"""A real installation with one real node, and guests that are asked over ssh what happened to them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench.guest import image
from bench.installation import Installation, installation

USER_DATA = "#!/bin/sh\necho user-data-ran > /run/marker\n"


class Guest:
    """A vm seen from inside."""

    def __init__(self, cloud: Installation, name: str, key: Path):
        self.cloud, self.name, self.key = cloud, name, key

    def shown(self) -> dict[str, Any]:
        found: dict[str, Any] = self.cloud.call(0, "GET", f"/v1/vms/{self.name}", token=self.cloud.tokens["user"])
        return found

    def verb(self, method: str, path: str = "", body: Any = None, wait_s: int = 120) -> dict[str, Any]:
        """Do it and wait until its operation has ended; fails unless it is done."""
        answer = self.cloud.call(0, method, f"/v1/vms/{self.name}{path}?wait={wait_s}", body, self.cloud.tokens["user"])
        assert answer["operation"]["state"] == "done", answer
        return dict(answer)

    def ssh(self, command: str, timeout_s: float = 20) -> str:
        address = next(a for a in self.shown()["addresses"] if ":" not in a)
        options = [
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "ConnectTimeout=3",
            "-o",
            "LogLevel=ERROR",
        ]
        words = ["ssh", "-i", str(self.key), "-o", "BatchMode=yes", *options, f"root@{address}", command]
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout_s, check=False)
        if done.returncode == 255:
            raise ConnectionError(done.stderr.strip())
        return done.stdout.strip()

    def reachable(self, within_s: float = 240) -> str:
        """Waits for ssh; returns the boot id that the guest's kernel tells."""
        deadline = time.monotonic() + within_s
        while True:
            try:
                return self.ssh("cat /proc/sys/kernel/random/boot_id", 8)
            except (ConnectionError, subprocess.TimeoutExpired) as e:
                if time.monotonic() > deadline:
                    raise AssertionError(f"{self.name}: no ssh: {e}\n{self.console()[-1500:]}") from e
                time.sleep(0.5)

    def uptime_s(self) -> float:
        return float(self.ssh("cut -d' ' -f1 /proc/uptime"))

    def console(self) -> str:
        return str(
            self.cloud.call(0, "GET", f"/v1/vms/{self.name}/console?bytes=65536", token=self.cloud.tokens["user"])
        )

    def until(self, state: str, within_s: float = 60) -> dict[str, Any]:
        deadline = time.monotonic() + within_s
        while (shown := self.shown())["state"] != state:
            assert time.monotonic() < deadline, f"{self.name} is {shown['state']}, not {state}: {shown['status']}"
            time.sleep(0.2)
        return shown

    def qemu(self) -> int | None:
        """The pid of its QEMU process, as the kernel lists it."""
        vm_id = self.shown()["id"]
        for p in Path("/proc").iterdir():
            try:
                if p.name.isdigit() and f"guest={vm_id}.e".encode() in (p / "cmdline").read_bytes():
                    return int(p.name)
            except OSError:
                continue
        return None


class Cloud:
    def __init__(self, made: Installation, key: Path):
        self.made, self.key = made, key

    def create(self, name: str, **body: Any) -> Guest:
        user = self.made.tokens["user"]
        wish = {"name": name, "flavor": "tiny", "image": "mini", "keys": ["test"], **body}
        answer = self.made.call(0, "POST", "/v1/vms?wait=120", wish, user)
        assert answer["operation"]["state"] == "done", answer
        return Guest(self.made, name, self.key)


@pytest.fixture(scope="package")
def vm(cloud: Cloud) -> Guest:
    """The guest that verbs are tried on, one after the other: each test leaves it running."""
    made = cloud.create("verbs", user_data=USER_DATA, boot_string="boot=me")
    made.reachable()
    return made


@pytest.fixture(scope="package")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    key = tmp_path_factory.mktemp("key") / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    with installation("nbtest", "real", 1, image(), "qcow2") as made:
        public = key.with_suffix(".pub").read_text()
        made.call(0, "POST", "/v1/keypairs", {"name": "test", "public_key": public}, made.tokens["user"])
        yield Cloud(made, key)
