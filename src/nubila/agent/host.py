"""What this machine is: read from the kernel, reported when a session opens. Called by main."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from nubila import protocol
from nubila.agent.hands import Drivers

# What a fake node says it has: enough that benchmarks end on other limits.
FAKE_CORES, FAKE_MEMORY_MIB, FAKE_DISK_GIB = 4096, 16 << 20, 1 << 20


def hello(
    drivers: Drivers, names: dict[str, str], directory: Path, version: str, fqdn: str, *, fake: bool
) -> protocol.Hello:
    """Stable between starts on an unchanged machine, so that a restart changes nothing in the fabric."""
    capabilities = drivers.hypervisor.capabilities()
    described: dict[str, dict[str, dict[str, Any]]] = {
        "hypervisor": {names["hypervisor"]: msgspec.to_builtins(capabilities)},
        "storage": {names["storage"]: msgspec.to_builtins(drivers.storage.capabilities())},
        "network": {names["network"]: msgspec.to_builtins(drivers.network.capabilities())},
    }
    return protocol.Hello(
        protocol=protocol.VERSION,
        agent_version=version,
        fqdn=fqdn,
        boot_id=boot_id(),
        kernel=os.uname().release,
        cores=FAKE_CORES if fake else os.cpu_count() or 1,
        memory_mib=FAKE_MEMORY_MIB if fake else memory_mib(),
        disk_gib=FAKE_DISK_GIB if fake else disk_gib(directory),
        virt_methods=capabilities.virt_methods,
        drivers=described,
        ranges=drivers.network.ranges(),
    )


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def memory_mib() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) >> 10
    return 0


def disk_gib(directory: Path) -> int:
    """The size of the file system below; what others use of it is the operator's reserve to name."""
    found = os.statvfs(directory)
    return found.f_blocks * found.f_frsize >> 30
