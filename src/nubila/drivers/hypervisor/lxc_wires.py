"""Wires of a running container: the host's half of each pair of interfaces, and plugging in anew what was lost.

When that half is removed, the container's goes with it.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

import libvirt
from lxml import etree

from nubila.drivers.hypervisor.base import Domain
from nubila.drivers.hypervisor.libvirt_nic_xml import mac_of
from nubila.drivers.hypervisor.libvirt_session import Session, mapped
from nubila.drivers.hypervisor.libvirt_xml import PARSER


class Wires:
    def __init__(self, session: Session, xml: Callable[[Domain], str]):
        self._session, self._xml = session, xml

    def rewire(self, domain: Domain) -> None:
        running = self._session.running(domain.vm_id)
        lost = [n.mac.lower() for n in domain.nics if not _there(n.tap)]
        if running is None or not lost:
            return
        wished = {mac_of(n): n for n in etree.fromstring(self._xml(domain), PARSER).iterfind("devices/interface")}
        try:
            for nic in etree.fromstring(running.XMLDesc(), PARSER).iterfind("devices/interface"):
                if mac_of(nic) in lost:
                    with contextlib.suppress(libvirt.libvirtError):  # its interface is gone already
                        _change(running.detachDeviceFlags, nic)
            for mac in lost:
                _change(running.attachDeviceFlags, wished[mac])
        except libvirt.libvirtError as e:
            raise mapped(e) from e


def _change(call: Callable[[str, int], object], nic: etree._Element) -> None:
    call(etree.tostring(nic, encoding="unicode"), libvirt.VIR_DOMAIN_AFFECT_LIVE)


def _there(name: str) -> bool:
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True
