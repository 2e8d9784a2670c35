"""The rules of 1,000 ports, on real taps in a network namespace of the bench's own: what an agent loads after its start,
and a rule more in a group that all of them are in. The peer is `nft -f` of the same rules as one file.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from nubila.drivers.network.base import Group, Network, Options, Port, Rule, Subnet
from nubila.drivers.network.bridge import BridgeNetwork

PORTS = 1000
TABLE = "benchrules"
NETWORK = Network(
    network_id=f"net-01{'0' * 24}",
    name="bench",
    mtu=1500,
    nat=True,
    subnets=(Subnet(cidr="10.91.0.0/16", gateway="10.91.0.1"),),
)
GROUP = f"sg-01{'0' * 24}"
SSH = Rule(direction="in", protocol="tcp", ports=(22, 22))
RULES = (SSH, Rule(direction="in", protocol="icmp"), Rule(direction="out"))
WEB = Rule(direction="in", protocol="tcp", ports=(443, 443))
WORKERS = 8  # as an agent has


def port(n: int) -> Port:
    return Port(
        port_id=f"port-01{n:024d}",
        epoch=1,
        network_id=NETWORK.network_id,
        mac=f"52:54:00:00:{n >> 8:02x}:{n & 255:02x}",
        hostname=f"guest-{n}",
        addresses=(f"10.91.{1 + (n >> 8)}.{n & 255}",),
        uid=1_900_000 + n,
        groups=(GROUP,),
    )


def ensured(driver: BridgeNetwork, count: int) -> float:
    began = time.monotonic()
    driver.ensure_network(NETWORK)
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(lambda n: driver.ensure_port(port(n)), range(1, count + 1)))
    return time.monotonic() - began


def nft(*words: str) -> str:
    return subprocess.run(["nft", *words], check=True, capture_output=True, text=True).stdout


def inside(count: int) -> dict[str, float]:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    place = Path(tempfile.mkdtemp(prefix="nubila-bench-", dir="/var/tmp"))
    place.chmod(0o711)
    options = Options(table=TABLE, directory=str(place / "network"))
    driver = BridgeNetwork(options)
    try:
        driver.ensure_group(Group(group_id=GROUP, rules=RULES))
        out = {"ports_1000_new_s": ensured(driver, count)}
        began = time.monotonic()
        driver.ensure_group(Group(group_id=GROUP, rules=(*RULES, WEB)))
        out["rule_1000_ports_ms"] = (time.monotonic() - began) * 1e3
        driver.close()
        driver = BridgeNetwork(options)  # an agent that starts anew loads them all again; the taps are there
        began = time.monotonic()
        driver.ensure_group(Group(group_id=GROUP, rules=RULES))
        ensured(driver, count)
        out["rules_1000_ports_s"] = time.monotonic() - began
        file = place / "rules.nft"
        file.write_text(nft("list", "ruleset"))
        nft("flush", "ruleset")
        began = time.monotonic()
        nft("-f", str(file))
        out["nft_f_1000_ports_s"] = time.monotonic() - began
        return out
    finally:
        driver.remove_all()
        driver.close()
        shutil.rmtree(place, ignore_errors=True)


def run(quick: bool) -> dict[str, Any]:
    count = 100 if quick else PORTS
    command = ["unshare", "--net", sys.executable, "-m", "bench.rules", "--inside", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    result: dict[str, Any] = json.loads(done.stdout)
    return result


if __name__ == "__main__":
    if "--inside" in sys.argv:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # by way of what cleans up
        print(json.dumps(inside(int(sys.argv[-1]))))
    else:
        print(run("--quick" in sys.argv))
