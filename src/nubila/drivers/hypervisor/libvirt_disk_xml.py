"""A DomainDisk as libvirt's XML, for a definition and for plugging. Pure."""

from __future__ import annotations

from lxml import etree
from lxml.builder import ElementMaker

from nubila.drivers import DriverError
from nubila.drivers.hypervisor.base import DomainDisk

_E = ElementMaker()
_CACHE_MODES = frozenset({"none", "writethrough", "writeback", "directsync", "unsafe"})
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def disk_xml(disk: DomainDisk, index: int) -> etree._Element:
    if index >= len(_LETTERS):
        raise DriverError(f"a vm has at most {len(_LETTERS)} disks", again=False)
    if disk.format not in ("qcow2", "raw"):
        raise DriverError(f"the disk format {disk.format!r} is not one of qcow2, raw", again=False)
    driver = {"name": "qemu", "type": disk.format, "discard": "unmap"}
    if disk.cache != "default":
        if disk.cache not in _CACHE_MODES:
            raise DriverError(f"the cache mode {disk.cache!r} is not one of {sorted(_CACHE_MODES)}", again=False)
        driver["cache"] = disk.cache
    parts = [
        _E.driver(driver),
        _E.source({"file": disk.path}),
        _E.target({"dev": f"vd{_LETTERS[index]}", "bus": "virtio"}),
        *_limits(disk),
        _E.serial(disk.volume_id[-20:]),  # so many characters of it reach the guest
        *([_E.boot({"order": "1"})] if index == 0 else []),
    ]
    return _E.disk({"type": "file", "device": "disk"}, *parts)


def _limits(disk: DomainDisk) -> list[etree._Element]:
    limits = {
        "read_bytes_sec": disk.read_bytes,
        "write_bytes_sec": disk.write_bytes,
        "read_iops_sec": disk.read_iops,
        "write_iops_sec": disk.write_iops,
    }
    set_ = [_E(name, str(value)) for name, value in limits.items() if value]
    return [_E.iotune(*set_)] if set_ else []
