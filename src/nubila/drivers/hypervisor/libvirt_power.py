"""Running, stopping and forgetting domains of libvirt."""

from __future__ import annotations

import contextlib
import os
import time

import libvirt

from nubila.drivers.hypervisor import libvirt_xml
from nubila.drivers.hypervisor.base import Domain
from nubila.drivers.hypervisor.libvirt_session import Session, mapped

_STOP: dict[str, int] = {
    "agent": libvirt.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT,
    "acpi": libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN,
}
_REBOOT_WITHIN_S = 300.0  # whoever asked waits as long as he likes, and then forces it
_REBOOT_LOOK_S = 0.1
# (state, reason) in which its vCPUs may be let go on: stopped on request, or by a disk that failed
CAN_GO_ON = frozenset(
    {
        (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER),
        (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR),
    }
)
AGENT_CONNECTED = "name='org.qemu.guest_agent.0' state='connected'"


class Power:
    # what else goes with a definition
    forgotten = (
        libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
        | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
    )

    def __init__(self, session: Session, installation: str):
        self._session, self._installation = session, installation

    def xml(self, domain: Domain) -> str:
        return libvirt_xml.build(domain, self._installation, str(self._session.console(domain.vm_id)))

    def prepare(self, domain: Domain) -> None:
        """Before each start, when it is defined and does not run."""
        with contextlib.suppress(FileNotFoundError):  # a socket that a killed QEMU left
            os.unlink(f"{domain.directory}/vnc.sock")

    def start(self, domain: Domain) -> None:
        connection = self._session.open()
        name = libvirt_xml.name_of(domain.vm_id, domain.epoch)
        xml = self.xml(domain)
        try:
            for other in self._session.of(connection, domain.vm_id):
                if other.name() == name and other.isActive():
                    return
                if other.name() != name:
                    power_off(other)
                    self._forget(other)
            defined = connection.defineXML(xml)  # replaces a definition of the same name and uuid
            self.prepare(domain)
            defined.create()
        except libvirt.libvirtError as e:
            raise mapped(e) from e

    def ask_stop(self, vm_id: str, how: str) -> bool:
        domain = self._session.running(vm_id)
        if domain is None or how not in _STOP:
            return False
        try:
            domain.shutdownFlags(_STOP[how])
        except libvirt.libvirtError as e:
            return _asked_in_vain(e)
        return True

    def ask_reboot(self, vm_id: str, how: str) -> bool:
        domain = self._session.running(vm_id)
        if domain is None or how not in ("agent", "reset"):
            return False
        try:
            if how == "agent":
                domain.reboot(libvirt.VIR_DOMAIN_REBOOT_GUEST_AGENT)
                return self._went_down(domain)
            domain.reset()
        except libvirt.libvirtError as e:
            return _asked_in_vain(e)
        return True

    def _went_down(self, domain: libvirt.virDomain) -> bool:
        """libvirt comes back as soon as the guest was asked; its agent's channel closes when it really goes down."""
        limit = time.monotonic() + _REBOOT_WITHIN_S
        while AGENT_CONNECTED in domain.XMLDesc():
            if time.monotonic() > limit:
                return False
            time.sleep(_REBOOT_LOOK_S)
        return True

    def suspend(self, vm_id: str) -> None:
        domain = self._session.running(vm_id)
        try:
            if domain is not None and domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING:
                domain.suspend()
        except libvirt.libvirtError as e:
            raise mapped(e) from e

    def resume(self, vm_id: str) -> None:
        domain = self._session.running(vm_id)
        try:
            if domain is not None and tuple(domain.state()) in CAN_GO_ON:
                domain.resume()
        except libvirt.libvirtError as e:
            raise mapped(e) from e

    def destroy(self, vm_id: str) -> None:
        try:
            for domain in self._session.of(self._session.open(), vm_id):
                power_off(domain)
        except libvirt.libvirtError as e:
            raise mapped(e) from e

    def remove(self, vm_id: str) -> None:
        try:
            for domain in self._session.of(self._session.open(), vm_id):
                power_off(domain)
                self._forget(domain)
        except libvirt.libvirtError as e:
            raise mapped(e) from e
        log = self._session.console(vm_id)
        for path in (log, log.with_name(log.name + ".0")):
            path.unlink(missing_ok=True)

    def _forget(self, domain: libvirt.virDomain) -> None:
        try:
            domain.undefineFlags(self.forgotten)
        except libvirt.libvirtError as e:
            if e.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise


def power_off(domain: libvirt.virDomain) -> None:
    try:
        domain.destroy()
    except libvirt.libvirtError as e:
        if e.get_error_code() not in (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN):
            raise


def _asked_in_vain(e: libvirt.libvirtError) -> bool:
    """False when the guest could not be asked; errors of the driver itself are raised."""
    if e.get_error_domain() == libvirt.VIR_FROM_RPC or e.get_error_code() == libvirt.VIR_ERR_RPC:
        raise mapped(e) from e
    return False
