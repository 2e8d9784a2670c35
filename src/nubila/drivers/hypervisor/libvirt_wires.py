"""Wires of a running domain: whether QEMU still holds its taps, and plugging in anew what it lost.

A tap that was removed is gone for the QEMU that had it open, whatever has its name by now. The guest sees its interface
go and come again, with the same MAC.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import libvirt
from lxml import etree

from nubila.drivers import DriverError
from nubila.drivers.hypervisor import libvirt_xml
from nubila.drivers.hypervisor.base import Domain
from nubila.drivers.hypervisor.held import taps_of
from nubila.drivers.hypervisor.libvirt_session import Session, mapped
from nubila.drivers.hypervisor.libvirt_shape import mac_of

_UNPLUGGED_WITHIN_S = 10.0
_LOOK_S = 0.05
_PARSER = etree.XMLParser(resolve_entities=False, no_network=True)


class Wires:
    def __init__(self, session: Session, installation: str, pid_of: Callable[[str], int | None]):
        self._session, self._installation, self._pid_of = session, installation, pid_of

    def rewire(self, domain: Domain) -> None:
        running = self._session.running(domain.vm_id)
        pid = None if running is None else self._pid_of(running.name())
        if running is None or pid is None:
            return
        held = taps_of(pid)
        lost = [n.mac.lower() for n in domain.nics if n.tap not in held]
        if not lost:
            return
        xml = libvirt_xml.build(domain, self._installation, str(self._session.console(domain.vm_id)))
        wished = {mac_of(n): n for n in etree.fromstring(xml, _PARSER).iterfind("devices/interface")}
        try:
            for mac in lost:
                _unplug(running, mac)
                device = etree.tostring(wished[mac], encoding="unicode")
                running.attachDeviceFlags(device, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        except libvirt.libvirtError as e:
            raise mapped(e) from e


def _unplug(domain: libvirt.virDomain, mac: str) -> None:
    """The guest has to agree; libvirt comes back before it did."""
    limit, asked = time.monotonic() + _UNPLUGGED_WITHIN_S, False
    while True:
        nics = etree.fromstring(domain.XMLDesc(), _PARSER).iterfind("devices/interface")
        device = next((n for n in nics if mac_of(n) == mac), None)
        if device is None:
            return
        if not asked:
            domain.detachDeviceFlags(etree.tostring(device, encoding="unicode"), libvirt.VIR_DOMAIN_AFFECT_LIVE)
            asked = True
        elif time.monotonic() > limit:
            raise DriverError(f"the guest does not let go of its interface {mac}, whose wire was lost; reboot it")
        time.sleep(_LOOK_S)
