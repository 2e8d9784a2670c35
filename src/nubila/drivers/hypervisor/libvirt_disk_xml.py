"""A DomainDisk as libvirt's XML, for a definition and for plugging. Pure."""

from __future__ import annotations

import re

from lxml import etree
from lxml.builder import ElementMaker

from nubila.drivers import DriverError
from nubila.drivers.hypervisor.base import DomainDisk

_E = ElementMaker()
_ALIAS = re.compile(r"ua-(vol-[0-9a-z]{1,40})-e([0-9]{1,18})")
_CACHE_MODES = frozenset({"none", "writethrough", "writeback", "directsync", "unsafe"})
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def disk_xml(disk: DomainDisk, index: int, *, boot: int | None = 1) -> etree._Element:
    """`boot`: the first disk's place in the boot order."""
    if index >= len(_LETTERS):
        raise DriverError(f"a vm has at most {len(_LETTERS)} disks", again=False)
    if disk.format not in ("qcow2", "raw"):
        raise DriverError(f"the disk format {disk.format!r} is not one of qcow2, raw", again=False)
    # A write or read that fails stops the vm rather than reaching its guest: it is done again when the vm goes on.
    driver = {"name": "qemu", "type": disk.format, "discard": "unmap", "error_policy": "stop"}
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
        *([_E.boot({"order": str(boot)})] if index == 0 and boot is not None else []),
        _E.alias({"name": alias(disk.volume_id, disk.epoch)}),
    ]
    return _E.disk({"type": "file", "device": "disk"}, *parts)


def alias(volume_id: str, epoch: int) -> str:
    """libvirt keeps names that begin so."""
    return f"ua-{volume_id}-e{epoch}"


def parse_alias(name: str) -> tuple[str, int] | None:
    m = _ALIAS.fullmatch(name)
    return (m[1], int(m[2])) if m else None


def tuning(disk: DomainDisk) -> dict[str, int]:
    """All limits as libvirt names them; 0 lifts one. A burst's length may only be named with its burst."""
    plain = {
        "read_bytes_sec": disk.read_bytes,
        "write_bytes_sec": disk.write_bytes,
        "read_iops_sec": disk.read_iops,
        "write_iops_sec": disk.write_iops,
    }
    bursts = {
        "read_bytes_sec_max": disk.read_bytes_burst,
        "write_bytes_sec_max": disk.write_bytes_burst,
        "read_iops_sec_max": disk.read_iops_burst,
        "write_iops_sec_max": disk.write_iops_burst,
    }
    return plain | bursts | {f"{name}_length": disk.burst_s for name, value in bursts.items() if value}


def _limits(disk: DomainDisk) -> list[etree._Element]:
    set_ = [_E(name, str(value)) for name, value in tuning(disk).items() if value]
    return [_E.iotune(*set_)] if set_ else []
