"""A DomainNic as libvirt's XML, for a definition and for plugging. Pure."""

from __future__ import annotations

from lxml import etree
from lxml.builder import ElementMaker

from nubila.drivers.hypervisor.base import DomainNic

_E = ElementMaker()


def mac_of(nic: etree._Element) -> str:
    mac = nic.find("mac")
    return "" if mac is None else str(mac.get("address", "")).lower()


def nic_xml(nic: DomainNic) -> etree._Element:
    return _E.interface(
        {"type": "ethernet"},
        _E.mac({"address": nic.mac}),
        _E.target({"dev": nic.tap, "managed": "no"}),
        _E.model({"type": "virtio"}),
        _E.mtu({"size": str(nic.mtu)}),
        _E.rom({"enabled": "no"}),
    )
