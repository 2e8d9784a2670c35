"""A container on a real node, created over the API: judged by what it says on its console, by its files and by the host."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.real.conftest import Cloud, Guest

sys.path.insert(0, str(Path(__file__).parents[1] / "drivers"))
import driver_containers

pytestmark = [pytest.mark.real, pytest.mark.long]

INIT = """#!/bin/sh
export PATH=/bin
echo CONTAINER STARTS
trap 'echo ASKED TO STOP; poweroff -f' TERM
ip link set lo up
ip link set eth0 up
udhcpc -i eth0 -n -q -t 20 -s /bin/lease
echo "NAME $(wget -q -O - http://169.254.169.254/latest/meta-data/local-hostname)"
echo "SEED $(grep local-hostname /var/lib/cloud/seed/nocloud/meta-data)"
read -r inside outside count < /proc/self/uid_map
echo "ROOT $inside IS $outside OF $count"
mknod /tmp/disk b 7 0 2>/dev/null && echo MADE A DEVICE || echo MADE NO DEVICE
mount -t ext4 /dev/loop0 /tmp 2>/dev/null && echo MOUNTED || echo MOUNTED NOTHING
count=$(cat /kept 2>/dev/null || echo 0)
count=$((count + 1))
echo $count > /kept
echo "COUNT $count"
echo READY
while :; do sleep 0.2 & wait $!; done
"""
LEASE = """#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add "$ip/$mask" dev "$interface"
ip route add default via "${router%% *}"
echo "ADDRESS $ip"
ping -c 1 -W 5 "${router%% *}" > /dev/null && echo GATEWAY ANSWERS
"""


def wait(what: Callable[[], Any], within_s: float = 90) -> Any:
    deadline = time.monotonic() + within_s
    while not (got := what()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return got


def said(guest: Guest, words: str, times: int = 1) -> str:
    def look() -> str:
        console = guest.console()
        return console if console.count(words) >= times else ""

    deadline = time.monotonic() + 90
    while not (found := look()):
        assert time.monotonic() < deadline, guest.console()[-2000:]
        time.sleep(0.2)
    return found


def containers() -> list[int]:
    """Their processes beside them, as the kernel lists them."""
    found = subprocess.run(["pgrep", "-x", "libvirt_lxc"], capture_output=True, text=True, check=False).stdout
    return [int(p) for p in found.split()]


def test_a_container_runs_is_served_outlives_the_agent_and_leaves_nothing(cloud: Cloud) -> None:
    user, made = cloud.made.tokens["user"], cloud.made
    node = made.call(1, "GET", "/v1/nodes", token=made.tokens["operator"])["items"][0]
    assert "lxc" in node["status"]["virt_methods"], node["status"]["drivers"]["hypervisor"]["lxc"]["reason"]
    before, volumes = containers(), made.top / "var/node/disks/volumes"
    disks = {p.name for p in volumes.iterdir()} if volumes.is_dir() else set()  # other guests' of this installation
    loops = subprocess.run(["losetup", "-a"], capture_output=True, text=True, check=True).stdout
    made.call(0, "POST", "/v1/images", {"name": "rootfs", "format": "tar"}, user)
    content = driver_containers.root(INIT, {"bin/lease": LEASE})
    made.call(0, "PATCH", f"/v1/images/rootfs/content?offset=0&size_bytes={len(content)}", token=user, raw=content)
    guest = cloud.create("box", image="rootfs")
    shown = guest.shown()
    address = next(a for a in shown["addresses"] if ":" not in a)
    console = said(guest, "READY")
    assert shown["spec"]["virt_method"] == "lxc"
    for words in (f"ADDRESS {address}", "GATEWAY ANSWERS", "NAME box", "SEED local-hostname: box", "MADE NO DEVICE",
                  "MOUNTED NOTHING", "COUNT 1"):  # fmt: skip
        assert words in console, console
    inside, _, outside = console.partition("ROOT ")[2].split("\n", 1)[0].partition(" IS ")
    assert (inside, int(outside.split()[0]) >= 1_370_000_000) == ("0", True)
    (beside,) = [p for p in containers() if p not in before]
    first = int(Path(f"/proc/{beside}/task/{beside}/children").read_text().split()[0])
    assert os.stat(f"/proc/{first}").st_uid == int(outside.split()[0])

    agent = made.processes["agent"]
    agent.kill()
    agent.wait()
    made.start("agent", "agent")
    with pytest.raises(RuntimeError, match="unsupported"):
        made.call(0, "POST", "/v1/vms/box/insert", {"image": "mini"}, user)
    time.sleep(5)
    assert guest.shown()["state"] == "running"
    assert os.path.exists(f"/proc/{first}")
    assert guest.console().count("CONTAINER STARTS") == 1

    guest.verb("POST", "/stop", {"mode": "clean", "timeout_s": 60})
    assert "ASKED TO STOP" in guest.console()
    guest.verb("POST", "/start")
    assert "COUNT 2" in said(guest, "READY", 2)  # its files are kept
    guest.verb("DELETE")
    wait(lambda: set(containers()) <= set(before))  # one that was there before may have ended since
    assert subprocess.run(["losetup", "-a"], capture_output=True, text=True, check=True).stdout == loops
    assert list((made.top / "var/node/containers").iterdir()) == []
    assert {p.name for p in volumes.iterdir()} <= disks
