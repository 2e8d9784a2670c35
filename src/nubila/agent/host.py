"""What this machine is: read from the kernel, reported when a session opens. Called by main."""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from nubila import protocol
from nubila.agent.hands import Drivers
from nubila.drivers.hypervisor.several import Several
from nubila.drivers.storage.base import Storage
from nubila.model import node

# What a fake node says it has: enough that benchmarks end on other limits.
FAKE_CORES, FAKE_MEMORY_MIB, FAKE_DISK_GIB = 4096, 16 << 20, 1 << 20


def hello(
    drivers: Drivers, names: dict[str, str], version: str, fqdn: str, *, fake: bool, address: str = ""
) -> protocol.Hello:
    """Stable between starts on an unchanged machine, so that a restart changes nothing in the fabric; the disk is in whole
    GiB, of which others on the machine take some in time."""
    hypervisor, capabilities = drivers.hypervisor, drivers.hypervisor.capabilities()
    said = hypervisor.described() if isinstance(hypervisor, Several) else {names["hypervisor"]: capabilities}
    described: dict[str, dict[str, dict[str, Any]]] = {
        "hypervisor": {name: msgspec.to_builtins(c) for name, c in said.items()},
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
        disk_gib=FAKE_DISK_GIB if fake else disk_gib(drivers.storage),
        virt_methods=capabilities.virt_methods,
        drivers=described,
        ranges=drivers.network.ranges(),
        machine_id=machine_id(),
        address=address,
        links=tuple(
            node.Link(name=i.name, mac=i.mac, mtu=i.mtu, addresses=i.addresses) for i in drivers.network.interfaces()
        ),
        disks=() if fake else disks(),
    )


def machine_id(etc: Path = Path("/etc"), dmi: Path = Path("/sys/class/dmi/id")) -> str:
    """A name for this machine that a copy of its disk does not have: of the hardware and the installed system, as a hash, since
    neither is to be shown. '' where neither is known."""
    known = [_line(etc / "machine-id"), _line(dmi / "product_uuid")]
    return hashlib.sha256("\n".join(["nubila", *known]).encode()).hexdigest()[:32] if any(known) else ""


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def memory_mib() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) >> 10
    return 0


def disks(block: Path = Path("/sys/block")) -> tuple[node.Disk, ...]:
    """Those that are no device's picture of another."""
    found = []
    for disk in sorted(block.iterdir()) if block.is_dir() else ():
        if (disk / "device").exists():
            size_gib = int(_line(disk / "size") or 0) * 512 >> 30
            spins = _line(disk / "queue" / "rotational") == "1"
            model = _line(disk / "device" / "model")
            found.append(node.Disk(name=disk.name, size_gib=size_gib, model=model, rotational=spins))
    return tuple(found)


def _line(file: Path) -> str:
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return ""


def address_towards(url: str) -> str:
    """The address with which this machine reaches the control plane; '' while it has no way there. Nothing is sent."""
    where = urlsplit(url)
    try:
        family, kind, _, _, to = socket.getaddrinfo(where.hostname, where.port or 443, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(to)
            return str(probe.getsockname()[0])
    except OSError:
        return ""


def disk_gib(storage: Storage) -> int:
    """What volumes can have in all: what is free, and what they hold already. What others use is not there to give."""
    held_bytes = sum(volume.allocated_bytes for volume in storage.observe().volumes)
    return storage.free_gib() + (held_bytes >> 30)
