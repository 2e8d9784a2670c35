"""What a libvirt domain looks like in the fields that can be compared with a wish, and taking away what is too much.

Read from libvirt's own XML: whatever changed a domain, virsh or its files, shows there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import libvirt
import msgspec
from lxml import etree

from nubila.drivers.hypervisor import libvirt_xml
from nubila.drivers.hypervisor.base import Domain, Shape, Shaped, held, limited, shape_of
from nubila.drivers.hypervisor.libvirt_disk_xml import tuning
from nubila.drivers.hypervisor.libvirt_disks import disks_of
from nubila.drivers.hypervisor.libvirt_nic_xml import mac_of
from nubila.drivers.hypervisor.libvirt_session import Session, mapped

KIB: dict[str, int] = {"b": 0, "KiB": 1, "MiB": 1024, "GiB": 1024 * 1024}


class Shapes:
    """Reads the shapes of our domains, again only when libvirt wrote something; and makes one as it is wished."""

    def __init__(
        self,
        session: Session,
        driver: str,
        parse: Callable[[str, bool], Shape],
        xml: Callable[[Domain], str],
        more: Callable[[libvirt.virDomain, Domain], None] | None = None,
    ):
        """`driver`: libvirt's name for its own, where it keeps definitions; `more`: what else a repair does to one that
        runs."""
        self._session, self._driver, self._parse, self._xml, self._more = session, driver, parse, xml, more
        self._read: dict[str, tuple[tuple[int, ...], Shaped]] = {}  # name of a domain -> as last read

    def shapes(self) -> tuple[Shaped, ...]:
        found: dict[str, Shaped] = {}
        try:
            domains = [d for d in self._session.open().listAllDomains() if self._session.is_ours(d)]
        except libvirt.libvirtError as e:
            raise mapped(e) from e
        for domain in domains:
            name, marks = domain.name(), self._marks(domain.name())
            known = self._read.get(name)
            if known is None or known[0] != marks:
                try:
                    known = self._read[name] = (marks, read(domain, self._parse))
                except libvirt.libvirtError as e:
                    if e.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:  # removed in between
                        continue
                    raise mapped(e) from e
            found[name] = self._counted(name, known[1])
        for name in set(self._read) - set(found):
            self._read.pop(name, None)
        return tuple(found.values())

    def repair(self, domain: Domain) -> None:
        connection = self._session.open()
        xml = self._xml(domain)
        name = libvirt_xml.name_of(domain.vm_id, domain.epoch)
        try:
            connection.defineXML(xml).setAutostart(0)
            for other in self._session.of(connection, domain.vm_id):
                if other.name() == name and other.isActive():
                    restore(other, shape_of(domain))
                    if self._more is not None:
                        self._more(other, domain)
        except libvirt.libvirtError as e:
            raise mapped(e) from e

    def _counted(self, name: str, shaped: Shaped) -> Shaped:
        """With the cores that it has: libvirt does not write when it is wrong about them."""
        if shaped.live is None or shaped.live.cores == shaped.defined.cores:
            return shaped
        cores = cores_of(pid_of(self._session.daemons.run / self._driver / f"{name}.pid"), shaped.live.cores)
        return msgspec.structs.replace(shaped, live=msgspec.structs.replace(shaped.live, cores=cores))

    def _marks(self, name: str) -> tuple[int, ...]:
        """When libvirt last wrote what it knows of a domain: definition, state of what runs, link to start it."""
        daemons = self._session.daemons
        etc, run = daemons.directory / "etc" / self._driver, daemons.run / self._driver
        return tuple(_written(d / f"{name}.xml") for d in (etc, run, etc / "autostart"))


def _written(path: Path) -> int:
    try:
        return path.lstat().st_mtime_ns
    except FileNotFoundError:
        return 0


def pid_of(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (FileNotFoundError, ValueError):
        return None


def cores_of(pid: int | None, told: int) -> int:
    """How many cores QEMU has, by its threads: of one that went out late libvirt may never hear, and count it on."""
    try:
        names = [p.read_bytes() for p in Path(f"/proc/{pid}/task").glob("*/comm")]
    except OSError:  # it ended meanwhile
        return told
    there = len([n for n in names if n.startswith(b"CPU ")])
    return min(told, there) if there else told


def read(domain: libvirt.virDomain, parse: Callable[[str, bool], Shape]) -> Shaped:
    """Both halves of one domain of ours."""
    named = libvirt_xml.parse_name(domain.name())
    assert named is not None, "ours are named so"
    autostart = bool(domain.autostart())
    live = parse(domain.XMLDesc(), autostart) if domain.isActive() else None
    defined = parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE), autostart)
    return Shaped(vm_id=named[0], epoch=named[1], defined=defined, live=live)


def parse(xml: str, autostart: bool) -> Shape:
    root = etree.fromstring(xml, libvirt_xml.PARSER)
    cpus = root.find("vcpu")
    cores = 0 if cpus is None else int(cpus.get("current") or cpus.text or 0)
    memory = root.find("currentMemory")
    if memory is None:
        memory = root.find("memory")
    return Shape(
        cores=cores,
        memory_mib=0 if memory is None else int(memory.text or 0) * KIB[memory.get("unit", "KiB")] // 1024,
        disks=tuple(sorted(source for d in root.iterfind("devices/disk") if (source := writable(d)))),
        nics=tuple(sorted(mac for n in root.iterfind("devices/interface") if (mac := mac_of(n)))),
        title=(root.findtext("title") or "")[:200],
        description=(root.findtext("description") or "")[:200],
        autostart=autostart,
        media=_medium(root),
        boot=_boot(root),
        limits=limited({volume_id: has.limits for volume_id, has in disks_of(root).items()}),
    )


def _medium(root: etree._Element) -> str:
    """What is in the drive for ISOs; the seed's is another."""
    for disk in root.iterfind("devices/disk[@device='cdrom']"):
        target, source = disk.find("target"), disk.find("source")
        if target is not None and target.get("dev") == libvirt_xml.DRIVE and source is not None:
            return next(
                (str(source.get(k)) for k in ("file", "dev", "name") if source.get(k)), ""
            )  # an empty one has an index
    return ""


# what libvirt calls it -> what it is booted from
_BOOTED: dict[str, str] = {"disk": "disk", "hd": "disk", "cdrom": "cdrom", "interface": "network", "network": "network"}


def _boot(root: etree._Element) -> tuple[str, ...]:
    """By its devices' places, or by the list that somebody may have put instead."""
    placed = [(int(b.get("order", 0)), d) for d in root.iterfind("devices/*") if (b := d.find("boot")) is not None]
    words = [str(d.get("device", d.tag)) for _, d in sorted(placed, key=lambda p: p[0])]
    words = words or [str(b.get("dev")) for b in root.iterfind("os/boot")]
    return tuple(_BOOTED.get(w, w) for w in words)


def writable(disk: etree._Element) -> str:
    """Where the bytes of a disk are; '' for a medium that is only read, as seeds and ISOs are."""
    source = disk.find("source")
    if disk.get("device", "disk") != "disk" or source is None:
        return ""
    return next((str(source.get(k)) for k in ("file", "dev", "name", "volume", "dir") if source.get(k)), "?")


def change_disks(running: libvirt.virDomain, domain: Domain) -> None:
    """What a running machine has in its drive, and its disks' limits."""
    _limit(running, domain)
    _change_medium(running, domain)


def _limit(running: libvirt.virDomain, domain: Domain) -> None:
    """Its disks' limits as wished, where somebody set others."""
    xml = etree.fromstring(running.XMLDesc(), libvirt_xml.PARSER)
    has = disks_of(xml)
    for disk in domain.disks:
        if disk.volume_id in has and has[disk.volume_id].limits != held(disk).limits:
            running.setBlockIoTune(disk.path, tuning(disk), libvirt.VIR_DOMAIN_AFFECT_LIVE)


def _change_medium(running: libvirt.virDomain, domain: Domain) -> None:
    """By force: a guest that has locked its drive must not keep an ISO in it. One that has no drive gets it at its
    next start."""
    wished = libvirt_xml.drive(domain)
    for found in etree.fromstring(running.XMLDesc(), libvirt_xml.PARSER).iterfind("devices/disk[@device='cdrom']"):
        target, source = found.find("target"), found.find("source")
        if target is None or target.get("dev") != libvirt_xml.DRIVE:
            continue
        if (None if source is None else source.get("file")) == domain.media:
            return
        boot, was = wished.find("boot"), found.find("boot")
        if boot is not None:  # the order is as it was started
            wished.remove(boot)
        if was is not None:
            wished.append(was)
        flags = libvirt.VIR_DOMAIN_AFFECT_LIVE | libvirt.VIR_DOMAIN_DEVICE_MODIFY_FORCE
        running.updateDeviceFlags(etree.tostring(wished, encoding="unicode"), flags)


def restore(domain: libvirt.virDomain, wished: Shape) -> None:
    """Bring a running domain as near to the wish as its guest allows: what is too much is taken away, memory and
    cores are set back within what it was started with. The guest may take its time; what it refuses stays."""
    devices = etree.fromstring(domain.XMLDesc(), libvirt_xml.PARSER).find("devices")
    if devices is None:
        return
    live = parse(domain.XMLDesc(), False)
    with contextlib.suppress(libvirt.libvirtError):  # more than it was started with: the next start brings it
        if live.memory_mib != wished.memory_mib:
            domain.setMemoryFlags(wished.memory_mib * 1024, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    with contextlib.suppress(libvirt.libvirtError):
        if live.cores != wished.cores:
            domain.setVcpusFlags(wished.cores, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    extra = [d for d in devices.iterfind("disk") if (s := writable(d)) and s not in wished.disks]
    extra += [n for n in devices.iterfind("interface") if (m := mac_of(n)) and m not in wished.nics]
    for device in extra:
        try:
            domain.detachDeviceFlags(etree.tostring(device, encoding="unicode"), libvirt.VIR_DOMAIN_AFFECT_LIVE)
        except libvirt.libvirtError as e:
            if e.get_error_code() not in (libvirt.VIR_ERR_DEVICE_MISSING, libvirt.VIR_ERR_OPERATION_FAILED):
                raise
