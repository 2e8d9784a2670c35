"""Wires of a domain: interfaces that come and go while it runs, and plugging in anew what lost its tap.

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
from nubila.drivers.hypervisor.base import Domain, DomainNic
from nubila.drivers.hypervisor.held import taps_of
from nubila.drivers.hypervisor.libvirt_nic_xml import mac_of, nic_xml
from nubila.drivers.hypervisor.libvirt_session import Session, mapped

LET_GO_S = 3.0  # how long a guest is given before the caller asks again
_REWIRED_WITHIN_S = 10.0
_LOOK_S = 0.05
_LIVE, _CONFIG = libvirt.VIR_DOMAIN_AFFECT_LIVE, libvirt.VIR_DOMAIN_AFFECT_CONFIG


class Wires:
    """`changed` is told the name of a domain whose devices may be others now."""

    def __init__(
        self,
        session: Session,
        installation: str,
        pid_of: Callable[[str], int | None],
        changed: Callable[[str], None],
    ):
        self._session, self._installation, self._pid_of, self._changed = session, installation, pid_of, changed

    def attach_nic(self, vm_id: str, nic: DomainNic) -> None:
        running = self._session.running(vm_id)
        if running is None:
            raise DriverError("the vm does not run")
        xml = etree.tostring(nic_xml(nic), encoding="unicode")
        try:
            for flag in (_LIVE, _CONFIG):
                if _device(running, nic.mac.lower(), flag) is None:
                    running.attachDeviceFlags(xml, flag)
        except libvirt.libvirtError as e:
            raise mapped(e) from e
        finally:
            self._changed(running.name())

    def detach_nic(self, vm_id: str, mac: str) -> bool:
        gone = True
        try:
            for domain in self._session.of(self._session.open(), vm_id):
                defined = _device(domain, mac, _CONFIG)
                if defined is not None:
                    domain.detachDeviceFlags(defined, _CONFIG)
                if domain.isActive():
                    gone = _unplug(domain, mac, LET_GO_S) and gone
                    self._changed(domain.name())
        except libvirt.libvirtError as e:
            raise mapped(e) from e
        return gone

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
        wished = {mac_of(n): n for n in etree.fromstring(xml, libvirt_xml.PARSER).iterfind("devices/interface")}
        try:
            for mac in lost:
                if not _unplug(running, mac, _REWIRED_WITHIN_S):
                    why = f"the guest does not let go of its interface {mac}, whose wire was lost; reboot it"
                    raise DriverError(why)
                running.attachDeviceFlags(etree.tostring(wished[mac], encoding="unicode"), _LIVE)
        except libvirt.libvirtError as e:
            raise mapped(e) from e
        finally:
            self._changed(running.name())


def _unplug(domain: libvirt.virDomain, mac: str, within_s: float) -> bool:
    """The guest has to agree; libvirt comes back before it did. False: it did not, in that time."""
    limit, asked = time.monotonic() + within_s, False
    while (device := _device(domain, mac, _LIVE)) is not None:
        if not asked:
            try:
                domain.detachDeviceFlags(device, _LIVE)
            except libvirt.libvirtError as e:
                if "in the process of unplug" not in str(e.get_error_message()):
                    raise
            asked = True
        elif time.monotonic() > limit:
            return False
        time.sleep(_LOOK_S)
    return True


def _device(domain: libvirt.virDomain, mac: str, flag: int) -> str | None:
    """The interface as the definition or what runs has it, as XML."""
    if flag == _LIVE and not domain.isActive():
        return None
    xml = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE if flag == _CONFIG else 0)
    nics = etree.fromstring(xml, libvirt_xml.PARSER).iterfind("devices/interface")
    found = next((n for n in nics if mac_of(n) == mac), None)
    return None if found is None else etree.tostring(found, encoding="unicode")
