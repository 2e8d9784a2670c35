"""Disks of running domains by libvirt: plugged, unplugged, limited, resized, snapshotted, copied, all through their QEMU.

A disk is known by its alias, which carries the volume's id and the attachment's epoch. Snapshots lie inside of the qcow2
file; libvirt has no call for those of one disk of a running domain, so QEMU's own is used (decision 0016).
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import libvirt
import libvirt_qemu
from lxml import etree
from lxml.builder import ElementMaker

from nubila.drivers import DriverError
from nubila.drivers.hypervisor.base import DomainDisk, Held
from nubila.drivers.hypervisor.libvirt_disk_xml import disk_xml, parse_alias, tuning
from nubila.drivers.hypervisor.libvirt_nic_xml import mac_of
from nubila.drivers.hypervisor.libvirt_session import Session, mapped

T = TypeVar("T")
_E = ElementMaker()
_GIB = 1 << 30
LET_GO_S = 3.0  # how long a guest is given before the caller asks again
COPY_LOOK_S = 0.2


class Disks:
    """Its methods may be called from several threads at once."""

    def __init__(self, session: Session):
        self._session = session
        self._known: dict[
            str, tuple[int, dict[str, Held], tuple[str, ...]]
        ] = {}  # domain's name -> QEMU's pid, devices
        self._changes = 0
        self._lock = threading.Lock()

    def held(
        self, domain: libvirt.virDomain, name: str, pid: int
    ) -> tuple[dict[str, Held], tuple[str, ...]] | tuple[None, None]:
        """The disks that it has open and the MACs of its interfaces: read once for the life of a QEMU, and again after
        each change that is told here."""
        known, changes = self._known.get(name), self._changes
        if known is None or known[0] != pid:
            try:
                xml = _live(domain)
                known = pid, disks_of(xml), tuple(mac for n in xml.iterfind("devices/interface") if (mac := mac_of(n)))
            except libvirt.libvirtError:
                return None, None
            with self._lock:
                if changes == self._changes:  # otherwise it may be older than a change
                    self._known[name] = known
        return known[1:]

    def attach_disk(self, vm_id: str, disk: DomainDisk) -> None:
        def attach(domain: libvirt.virDomain) -> None:
            xml = etree.tostring(disk_xml(disk, disk.index or 0), encoding="unicode")
            if disk.volume_id not in disks_of(_live(domain)):
                domain.attachDeviceFlags(xml, libvirt.VIR_DOMAIN_AFFECT_LIVE)
            if _device(_defined(domain), disk.volume_id) is None:
                domain.attachDeviceFlags(xml, libvirt.VIR_DOMAIN_AFFECT_CONFIG)

        self._changing(vm_id, attach)

    def detach_disk(self, vm_id: str, volume_id: str) -> bool:
        def detach(domain: libvirt.virDomain) -> bool:
            limit = time.monotonic() + LET_GO_S
            defined = _device(_defined(domain), volume_id)
            if defined is not None:
                domain.detachDeviceAlias(_alias(defined), libvirt.VIR_DOMAIN_AFFECT_CONFIG)
            device = _device(_live(domain), volume_id)
            if device is not None:
                try:
                    domain.detachDeviceAlias(_alias(device), libvirt.VIR_DOMAIN_AFFECT_LIVE)
                except libvirt.libvirtError as e:
                    if "in the process of unplug" not in str(e.get_error_message()):
                        raise
            while _device(_live(domain), volume_id) is not None:
                if time.monotonic() > limit:
                    return False
                time.sleep(0.1)
            return True

        if self._session.running(vm_id) is None:
            return True
        return self._changing(vm_id, detach)

    def tune_disk(self, vm_id: str, disk: DomainDisk) -> None:
        def tune(domain: libvirt.virDomain) -> None:
            domain.setBlockIoTune(_target(domain, disk.volume_id), tuning(disk), libvirt.VIR_DOMAIN_AFFECT_LIVE)
            defined = _device(_defined(domain), disk.volume_id)
            if defined is not None:
                target = str(defined.xpath("string(target/@dev)"))
                domain.setBlockIoTune(target, tuning(disk), libvirt.VIR_DOMAIN_AFFECT_CONFIG)

        self._changing(vm_id, tune)

    def resize_disk(self, vm_id: str, volume_id: str, size_gib: int) -> None:
        def resize(domain: libvirt.virDomain) -> None:
            target = _target(domain, volume_id)
            if domain.blockInfo(target)[0] < size_gib * _GIB:
                domain.blockResize(target, size_gib * _GIB, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)

        self._changing(vm_id, resize)

    def snapshot_disk(self, vm_id: str, volume_id: str, snapshot_id: str) -> None:
        def take(domain: libvirt.virDomain) -> None:
            node, present = _node(domain, volume_id)
            if snapshot_id not in present:
                _qmp(domain, "blockdev-snapshot-internal-sync", device=node, name=snapshot_id)

        self._changing(vm_id, take)

    def drop_disk_snapshot(self, vm_id: str, volume_id: str, snapshot_id: str) -> None:
        def drop(domain: libvirt.virDomain) -> None:
            node, present = _node(domain, volume_id)
            if snapshot_id in present:
                _qmp(domain, "blockdev-snapshot-delete-internal-sync", device=node, name=snapshot_id)

        self._changing(vm_id, drop)

    def copy_disk(self, vm_id: str, volume_id: str, target: str, format_: str) -> None:
        def copy(domain: libvirt.virDomain) -> None:
            wish = _E.domainbackup(
                {"mode": "push"},
                _E.disks(
                    _E.disk(
                        {"name": _target(domain, volume_id), "type": "file", "backup": "yes"},
                        _E.target({"file": target}),
                        _E.driver({"type": format_}),
                    )
                ),
            )
            xml = etree.tostring(wish, encoding="unicode")
            domain.backupBegin(xml, None, libvirt.VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL)
            while domain.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE:
                time.sleep(COPY_LOOK_S)
            ended = domain.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)
            if not ended.get("success", ended.get("type") == libvirt.VIR_DOMAIN_JOB_COMPLETED):
                raise DriverError(f"the copy failed: {ended.get('errmsg', 'QEMU does not say why')}")

        self._changing(vm_id, copy)

    def _changing(self, vm_id: str, what: Callable[[libvirt.virDomain], T]) -> T:
        domain = self._session.running(vm_id)
        if domain is None:
            raise DriverError("the vm does not run")
        try:
            return what(domain)
        except libvirt.libvirtError as e:
            raise mapped(e) from e
        finally:
            self.changed(domain.name())

    def changed(self, name: str) -> None:
        """A domain may have other devices now."""
        with self._lock:
            self._changes += 1
            self._known.pop(name, None)


def _defined(domain: libvirt.virDomain) -> etree._Element:
    return etree.fromstring(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))


def _live(domain: libvirt.virDomain) -> etree._Element:
    return etree.fromstring(domain.XMLDesc())


def disks_of(xml: etree._Element) -> dict[str, Held]:
    """Our disks in a domain's XML, by volume."""
    found: dict[str, Held] = {}
    for disk in xml.findall("devices/disk"):
        named = parse_alias(_alias(disk))
        if named is not None:
            driver = disk.find("driver")
            cache = "default" if driver is None else str(driver.get("cache", "default"))
            found[named[0]] = Held(epoch=named[1], limits=_limits(disk.find("iotune")), cache=cache)
    return found


def _alias(disk: etree._Element) -> str:
    alias = disk.find("alias")
    return "" if alias is None else str(alias.get("name"))


def _limits(tune: etree._Element | None) -> tuple[int, ...]:
    def of(name: str) -> int:
        return 0 if tune is None else int(tune.findtext(name, "0"))

    names = ("read_iops_sec", "write_iops_sec", "read_bytes_sec", "write_bytes_sec")
    bursts = [of(f"{n}_max") for n in names]
    lengths = [of(f"{n}_max_length") for n in names]
    return (*(of(n) for n in names), *bursts, max(1, *lengths) if any(bursts) else 1)


def _device(xml: etree._Element, volume_id: str) -> etree._Element | None:
    for disk in xml.findall("devices/disk"):
        named = parse_alias(_alias(disk))
        if named is not None and named[0] == volume_id:
            return disk
    return None


def _target(domain: libvirt.virDomain, volume_id: str) -> str:
    device = _device(_live(domain), volume_id)
    if device is None:
        raise DriverError("the vm does not have that disk")
    return str(device.xpath("string(target/@dev)"))


def _node(domain: libvirt.virDomain, volume_id: str) -> tuple[str, set[str]]:
    """QEMU's name for the disk's topmost node, and the snapshots inside."""
    device = _device(_live(domain), volume_id)
    if device is None:
        raise DriverError("the vm does not have that disk")
    alias = _alias(device)
    for block in _qmp(domain, "query-block"):
        inserted = block.get("inserted")
        if inserted and alias in str(block.get("qdev", "")).split("/"):
            present = {s["name"] for s in inserted.get("image", {}).get("snapshots", ())}
            return str(inserted["node-name"]), present
    raise DriverError("QEMU does not know that disk")


def _qmp(domain: libvirt.virDomain, command: str, **arguments: Any) -> Any:
    asked = json.dumps({"execute": command, **({"arguments": arguments} if arguments else {})})
    answer = json.loads(libvirt_qemu.qemuMonitorCommand(domain, asked, 0))
    if "error" in answer:
        raise DriverError(f"QEMU: {answer['error'].get('desc', 'it does not say why')}")
    return answer["return"]
