"""A machine with libvirt, a directory and bridges whose agent dies when it is told to; and what is in its world.

The world is asked by other ways than the drivers' own where there are some: the kernel for links and processes, libvirt
for domains, the files themselves for disks.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import libvirt
import msgspec
from lxml import etree

from nubila.agent.hands import Drivers
from nubila.drivers.hypervisor import base as hypervisor
from nubila.drivers.hypervisor.libvirt import LibvirtHypervisor
from nubila.drivers.network import base as network
from nubila.drivers.network.bridge import BridgeNetwork
from nubila.drivers.storage import base as storage
from nubila.drivers.storage.directory import DirectoryStorage
from nubila.drivers.storage.directory_files import look
from tests.crash.host import Host

BOOTED = b"BOOT SECTOR RUNS"


def parts(directory: Path) -> tuple[LibvirtHypervisor, DirectoryStorage, BridgeNetwork]:
    """The drivers of a host, each with a name of its own on the machine: the directory's."""
    name = directory.name
    return (
        LibvirtHypervisor(hypervisor.Options(), directory, directory / "run", name),
        DirectoryStorage(storage.Options(directory=str(directory / "disks"))),
        BridgeNetwork(network.Options(table=name, directory=str(directory / "network"))),
    )


def drivers_of(directory: Path, method: str) -> tuple[Drivers, dict[str, str]]:
    domains, disks, wires = parts(directory)
    names = {"hypervisor": "libvirt", "storage": "directory", "network": "bridge"}
    return Drivers(hypervisor=_Renamed(domains, method), storage=disks, network=wires), names  # type: ignore[arg-type]


class _Renamed:
    """libvirt under the virt method of this host alone, by which the tests choose where a vm goes."""

    def __init__(self, driver: LibvirtHypervisor, method: str):
        self._driver, self._method = driver, method

    def capabilities(self) -> hypervisor.Capabilities:
        return msgspec.structs.replace(self._driver.capabilities(), virt_methods=(self._method,))

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._driver, name)
        if name not in ("start", "repair", "rewire"):
            return found
        return lambda domain: found(msgspec.structs.replace(domain, virt_method="qemu"))


class RealHost(Host):
    drivers = "real"
    image = "sector"
    patience_s = 60.0
    _connection: libvirt.virConnect | None = None

    def world(self) -> dict[str, dict[str, Any]]:
        disks = self.directory / "disks"
        found: dict[str, dict[str, Any]] = {"domain": self._domains(), "volume": {}, "network": {}, "port": {}}
        for path in (disks / "volumes").glob("vol-*"):
            seen = look(path, path.stem, path.suffix[1:])
            if seen is not None:
                found["volume"][path.stem] = {"size_gib": seen.size_gib, "snapshots": list(seen.snapshots)}
        for kind in ("image", "export"):
            found[kind] = {p.name: {} for p in (disks / f"{kind}s").glob("*")}
        for link in json.loads(subprocess.run(["ip", "-j", "link"], capture_output=True, check=True).stdout):
            table, kind, its_id = [*link.get("ifalias", "").split(":"), "", "", ""][:3]
            if table == self.name:
                found[kind][its_id] = {"link": link["ifname"]}
        return found

    def domain(self, vm_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self._domains().get(vm_id, {})
        return found

    def tamper(self, vm_id: str) -> None:
        domain = self._libvirt().lookupByName(f"{vm_id}.e1")
        domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_TITLE, "by hand", None, None, libvirt.VIR_DOMAIN_AFFECT_CONFIG)

    def litter(self) -> list[str]:
        """What is left here of a node on which nothing is wished: processes, rooms, unfinished files."""
        found = [f"room {p.name}" for p in (self.directory / "vms").glob("*")]
        for kind in ("tmp", "copies"):
            found += [f"{kind} {p.name}" for p in (self.directory / "disks" / kind).glob("*")]
        for entry in Path("/proc").iterdir():
            try:
                words = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            except OSError:
                continue
            if words.startswith(b"/usr/bin/qemu-system-") and f"{self.directory}/vms/".encode() in words:
                found.append(f"process {entry.name}")
        return found

    def close(self) -> None:
        super().close()
        if self._connection is not None:
            self._connection.close()
        domains, _, wires = parts(self.directory)
        domains.remove_all()
        wires.remove_all()
        wires.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _libvirt(self) -> libvirt.virConnect:
        if self._connection is None or not self._connection.isAlive():
            self._connection = libvirt.open(f"qemu+unix:///system?socket={self.directory / 'run/libvirt/libvirt-sock'}")
        return self._connection

    def _domains(self) -> dict[str, Any]:
        if not (self.directory / "run/libvirt/libvirt-sock").exists():
            return {}
        found = {}
        for domain in self._libvirt().listAllDomains():
            try:
                found[domain.name().partition(".")[0]] = self._shown(domain)
            except libvirt.libvirtError as e:
                if e.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                    raise
        return found

    def _shown(self, domain: libvirt.virDomain) -> dict[str, Any]:
        vm_id = domain.name().partition(".")[0]
        running, state = domain.isActive(), domain.state()[0]
        live = etree.fromstring(domain.XMLDesc())
        defined = etree.fromstring(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
        sources = [s for d in live.iterfind("devices/disk[@device='disk']/source") if (s := d.get("file"))]
        try:
            said = (self.directory / "libvirt/log/console" / f"{vm_id}.log").read_bytes()
        except FileNotFoundError:  # not yet, or the agent is just removing it all
            said = b""
        return {
            "running": bool(running),
            "paused": state == libvirt.VIR_DOMAIN_PAUSED,
            "boots": said.count(BOOTED),
            "disks": {Path(s).stem: {} for s in sources} if running else {},
            "defined": {"cores": defined.findtext("vcpu"), "title": defined.findtext("title")},
        }
