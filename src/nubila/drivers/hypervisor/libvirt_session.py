"""The connection to our own libvirtd, and our domains in it: what every part of the libvirt driver needs.

A failed connection is opened anew, and a dead daemon started again, by the next call. Ownership is by the metadata that
a definition carries, never by name alone.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import libvirt

from nubila.drivers import CapabilityMissing, DriverError
from nubila.drivers.hypervisor import libvirt_xml
from nubila.drivers.hypervisor.libvirt_daemon import Daemons

_GONE = frozenset({libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_NO_DOMAIN_METADATA})
# Errors that the same call would meet again.
_HOPELESS = frozenset(
    {
        libvirt.VIR_ERR_XML_ERROR,
        libvirt.VIR_ERR_XML_DETAIL,
        libvirt.VIR_ERR_XML_INVALID_SCHEMA,
        libvirt.VIR_ERR_CONFIG_UNSUPPORTED,
        libvirt.VIR_ERR_INVALID_ARG,
        libvirt.VIR_ERR_NO_SUPPORT,
    }
)


class NoDriver(CapabilityMissing):
    """This libvirtd has no such driver."""


class Session:
    """Its methods may be called from several threads at once."""

    def __init__(self, daemons: Daemons, installation: str, scheme: str = "qemu"):
        """`scheme`: which of libvirt's drivers is spoken to."""
        self.daemons = daemons
        self._scheme = scheme
        self._installation = installation
        self._connection: libvirt.virConnect | None = None
        self._daemons_met: tuple[int, int] | None = None  # whom `_connection` leads to
        self._lock = threading.Lock()
        self._ours: dict[tuple[str, str], bool] = {}  # (name, uuid) of a definition -> it carries our metadata

    def open(self) -> libvirt.virConnect:
        with self._lock:
            same = self._daemons_met is not None and self._daemons_met == self.daemons.running()
            if same and self._connection is not None and self._connection.isAlive():
                return self._connection
            self.daemons.ensure()
            try:
                self._connection = libvirt.open(self.daemons.uri_of(self._scheme))
            except libvirt.libvirtError as e:
                if e.get_error_code() in (libvirt.VIR_ERR_NO_CONNECT, libvirt.VIR_ERR_CONFIG_UNSUPPORTED):
                    raise NoDriver(f"libvirt: {e.get_error_message()}") from e
                raise mapped(e) from e
            self._daemons_met = self.daemons.running()
            return self._connection

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                with contextlib.suppress(libvirt.libvirtError):
                    self._connection.close()
                self._connection = None

    def console(self, vm_id: str) -> Path:
        return self.daemons.console_dir / f"{vm_id}.log"

    def is_ours(self, domain: libvirt.virDomain) -> bool:
        key = (domain.name(), domain.UUIDString())
        if key not in self._ours:
            try:
                meta = domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, libvirt_xml.NAMESPACE, 0)
            except libvirt.libvirtError as e:
                if e.get_error_code() not in _GONE:
                    raise
                return False
            named = libvirt_xml.parse_name(key[0])
            self._ours[key] = named is not None and libvirt_xml.owner(meta) == (self._installation, named[0])
        return self._ours[key]

    def of(self, connection: libvirt.virConnect, vm_id: str) -> list[libvirt.virDomain]:
        """Our domains of that vm: one, or more when its epoch has grown."""
        prefix = vm_id + ".e"
        return [d for d in connection.listAllDomains() if d.name().startswith(prefix) and self.is_ours(d)]

    def running(self, vm_id: str) -> libvirt.virDomain | None:
        try:
            return next((d for d in self.of(self.open(), vm_id) if d.isActive()), None)
        except libvirt.libvirtError as e:
            raise mapped(e) from e


def mapped(e: libvirt.libvirtError) -> DriverError:
    return DriverError(f"libvirt: {e.get_error_message()}", again=e.get_error_code() not in _HOPELESS)
