"""A real domain that somebody changes with virsh: its node notices, the ledger shows it, a repair puts it back."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.real.conftest import Guest

pytestmark = [pytest.mark.real, pytest.mark.long]


def virsh(vm: Guest, *words: str) -> str:
    uri = f"qemu+unix:///system?socket={vm.cloud.top / 'run/node/libvirt/libvirt-sock'}"
    return subprocess.run(["virsh", "-q", "-c", uri, *words], check=True, capture_output=True, text=True).stdout


def drifts(vm: Guest) -> dict[str, dict[str, Any]]:
    """The open lines about this vm, by field, without the id of a volume."""
    found = vm.cloud.call(1, "GET", "/v1/drifts?cause=changed-outside", token=vm.cloud.tokens["operator"])["items"]
    return {d["status"]["field"].split(" vol-")[0]: d for d in found if d["vm"] == vm.name}


def until(vm: Guest, fields: set[str]) -> dict[str, dict[str, Any]]:
    deadline = time.monotonic() + 40
    while (found := drifts(vm)).keys() != fields:
        assert time.monotonic() < deadline, {f: d["status"] for f, d in found.items()}
        time.sleep(1)
    return found


def reading(vm: Guest) -> float:
    clock = "cut -d' ' -f1 /proc/uptime"
    begin, end = vm.ssh(f"{clock}; dd if=/dev/vda of=/dev/null bs=1M count=8 iflag=direct 2>/dev/null; {clock}").split()
    return float(end) - float(begin)


def test_a_domain_changed_with_virsh_is_shown_field_by_field_and_repaired(vm: Guest, tmp_path: Path) -> None:
    before, qemu, shown = vm.reachable(), vm.qemu(), vm.shown()
    name = f"{shown['id']}.e1"
    assert until(vm, set()) == {}
    disc = vm.cloud.top / "theirs.iso"
    disc.write_bytes(bytes(1 << 20))
    disc.chmod(0o444)
    virsh(vm, "blkdeviotune", name, "vda", "--read-bytes-sec", "1048576", "--live", "--config")
    virsh(vm, "change-media", name, "sdb", str(disc), "--live", "--config")
    virsh(vm, "setvcpus", name, "2", "--config")
    virsh(vm, "desc", name, "--title", "mine", "--config")
    slow = reading(vm)
    found = until(vm, {"limits of", "media", "cores", "title"})
    assert {f: (d["status"]["wished"], d["status"]["observed"]) for f, d in found.items()} == {
        "limits of": ("none", "read_bytes=1048576"),
        "media": ("", str(disc)),
        "cores": (str(shown["spec"]["cores"]), "2"),
        "title": ("", "mine"),
    }
    repair = f"/v1/drifts/{found['media']['id']}/repair?wait=30"
    assert vm.cloud.call(1, "POST", repair, token=vm.cloud.tokens["operator"])["operation"]["state"] == "done"
    assert until(vm, set()) == {}
    assert slow > 4
    assert reading(vm) < slow / 2
    assert "theirs.iso" not in virsh(vm, "dumpxml", name) + virsh(vm, "dumpxml", name, "--inactive")
    assert (vm.reachable(), vm.qemu()) == (before, qemu)
