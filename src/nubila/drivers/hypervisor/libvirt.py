"""The hypervisor driver over a libvirt of our own: QEMU domains, each under its own uid, found again after a restart.

Ownership is by the metadata that a definition carries, never by name alone; a domain without it is foreign and is
shown, not touched. A failed connection is opened anew, and a dead daemon started again, by the next call.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from pathlib import Path

import libvirt

from nubila.drivers import DriverError
from nubila.drivers.hypervisor import libvirt_xml
from nubila.drivers.hypervisor.base import Capabilities, Domain, Found, Observed, Options
from nubila.drivers.hypervisor.libvirt_daemon import Daemons

_REASONS: dict[int, str] = {
    libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN: "guest-shutdown",
    libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED: "destroyed",
    libvirt.VIR_DOMAIN_SHUTOFF_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_SHUTOFF_FAILED: "crashed",
}
# Not running as far as the world can tell: QEMU is gone.
_OFF = frozenset({libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_CRASHED, libvirt.VIR_DOMAIN_NOSTATE})
_GONE = frozenset({libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_NO_DOMAIN_METADATA})
_STOP: dict[str, int] = {
    "agent": libvirt.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT,
    "acpi": libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN,
}
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
# QEMU's last words; libvirtd itself sends one after a guest's own shutdown.
_SIGNALLED = re.compile(rb"terminating on signal \d+ from pid \d+ \(([^)\n]*)\)")
_REBOOT_WITHIN_S = 300.0  # whoever asked waits as long as he likes, and then forces it
_REBOOT_LOOK_S = 0.1
_AGENT_CONNECTED = "name='org.qemu.guest_agent.0' state='connected'"


class LibvirtHypervisor:
    """The driver. Its methods may be called from several threads at once."""

    def __init__(self, options: Options, node_dir: Path, run_dir: Path, installation: str):
        self._installation = installation
        self._options = options
        self.daemons = Daemons(node_dir, run_dir, options.console_log_max_bytes)
        self._connection: libvirt.virConnect | None = None
        self._daemons_met: tuple[int, int] | None = None  # whom `_connection` leads to
        self._lock = threading.Lock()
        self._ours: dict[tuple[str, str], bool] = {}  # (name, uuid) of a definition -> it carries our metadata
        self._agent_seen: dict[str, int] = {}  # name of a domain -> pid of the QEMU whose guest agent was connected
        self._virt_methods: tuple[str, ...] = ("qemu",)
        libvirt.registerErrorHandler(lambda *_: None, None)  # it would write each error to stderr

    def use_methods(self, virt_methods: tuple[str, ...]) -> None:
        """What works on this machine; `kvm.probe_kvm` finds out, once per boot."""
        self._virt_methods = virt_methods

    def capabilities(self) -> Capabilities:
        return Capabilities(virt_methods=self._virt_methods)

    def observe(self) -> Observed:
        connection = self._open()
        found: list[Found] = []
        foreign: list[str] = []
        try:
            for domain, stats in connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE, 0):
                if self._is_ours(domain):
                    found.append(self._found(domain, stats["state.state"], stats.get("state.reason", 0)))
                else:
                    foreign.append(domain.name())
        except libvirt.libvirtError as e:
            raise _mapped(e) from e
        return Observed(domains=tuple(found), foreign=tuple(foreign))

    def start(self, domain: Domain) -> None:
        connection = self._open()
        name = libvirt_xml.name_of(domain.vm_id, domain.epoch)
        xml = libvirt_xml.build(domain, self._installation, str(self._console(domain.vm_id)))
        try:
            for other in self._of(connection, domain.vm_id):
                if other.name() == name and other.isActive():
                    return
                if other.name() != name:
                    _power_off(other)
                    _forget(other)
            defined = connection.defineXML(xml)  # replaces a definition of the same name and uuid
            with contextlib.suppress(FileNotFoundError):  # a socket that a killed QEMU left
                os.unlink(f"{domain.directory}/vnc.sock")
            defined.create()
        except libvirt.libvirtError as e:
            raise _mapped(e) from e

    def ask_stop(self, vm_id: str, how: str) -> bool:
        domain = self._running(vm_id)
        if domain is None or how not in _STOP:
            return False
        try:
            domain.shutdownFlags(_STOP[how])
        except libvirt.libvirtError as e:
            return _asked_in_vain(e)
        return True

    def ask_reboot(self, vm_id: str, how: str) -> bool:
        domain = self._running(vm_id)
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
        while _AGENT_CONNECTED in domain.XMLDesc():
            if time.monotonic() > limit:
                return False
            time.sleep(_REBOOT_LOOK_S)
        return True

    def destroy(self, vm_id: str) -> None:
        try:
            for domain in self._of(self._open(), vm_id):
                _power_off(domain)
        except libvirt.libvirtError as e:
            raise _mapped(e) from e

    def remove(self, vm_id: str) -> None:
        try:
            for domain in self._of(self._open(), vm_id):
                _power_off(domain)
                _forget(domain)
        except libvirt.libvirtError as e:
            raise _mapped(e) from e
        log = self._console(vm_id)
        for path in (log, log.with_name(log.name + ".0")):
            path.unlink(missing_ok=True)

    def read_console(self, vm_id: str, max_bytes: int) -> bytes:
        log = self._console(vm_id)
        text = b""
        for path in (log, log.with_name(log.name + ".0")):  # virtlogd moves a full log aside
            if len(text) < max_bytes:
                text = _tail(path, max_bytes - len(text)) + text
        return text

    def remove_all(self) -> None:
        """Every domain of ours, then the daemons and what they needed on the machine: a node is being destroyed."""
        for domain in self.observe().domains:
            self.remove(domain.vm_id)
        self.close()
        self.daemons.remove()

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                with contextlib.suppress(libvirt.libvirtError):
                    self._connection.close()
                self._connection = None

    def _open(self) -> libvirt.virConnect:
        with self._lock:
            same = self._daemons_met is not None and self._daemons_met == self.daemons.running()
            if same and self._connection is not None and self._connection.isAlive():
                return self._connection
            self.daemons.ensure()
            try:
                self._connection = libvirt.open(self.daemons.uri)
            except libvirt.libvirtError as e:
                raise _mapped(e) from e
            self._daemons_met = self.daemons.running()
            return self._connection

    def _console(self, vm_id: str) -> Path:
        return self.daemons.console_dir / f"{vm_id}.log"

    def _is_ours(self, domain: libvirt.virDomain) -> bool:
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

    def _of(self, connection: libvirt.virConnect, vm_id: str) -> list[libvirt.virDomain]:
        """Our domains of that vm: one, or more when its epoch has grown."""
        prefix = vm_id + ".e"
        return [d for d in connection.listAllDomains() if d.name().startswith(prefix) and self._is_ours(d)]

    def _running(self, vm_id: str) -> libvirt.virDomain | None:
        try:
            return next((d for d in self._of(self._open(), vm_id) if d.isActive()), None)
        except libvirt.libvirtError as e:
            raise _mapped(e) from e

    def _found(self, domain: libvirt.virDomain, state: int, reason: int) -> Found:
        name = domain.name()
        named = libvirt_xml.parse_name(name)
        assert named is not None, "ours are named so"
        running = state not in _OFF
        pid = self._pid(name) if running else None
        return Found(
            vm_id=named[0],
            epoch=named[1],
            running=running,
            pid=pid,
            reason=None if running else self._why_off(name, reason),
            guest_agent=pid is not None and self._has_agent(domain, name, pid),
        )

    def _why_off(self, name: str, reason: int) -> str | None:
        """libvirt takes a SIGTERM from outside, as when the machine goes down, for the guest's own shutdown."""
        if reason == libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN:
            said = _tail(self.daemons.directory / "log" / "qemu" / f"{name}.log", 4096).rpartition(b"starting up")[2]
            signalled = _SIGNALLED.search(said)
            if signalled is not None and not signalled[1].endswith(b"libvirtd"):
                return "crashed"
        return _REASONS.get(reason)

    def _has_agent(self, domain: libvirt.virDomain, name: str, pid: int) -> bool:
        """Asked until it is there; then it counts as there for the life of that QEMU."""
        if self._agent_seen.get(name) != pid and _AGENT_CONNECTED in domain.XMLDesc():
            self._agent_seen[name] = pid
        return self._agent_seen.get(name) == pid

    def _pid(self, name: str) -> int | None:
        try:
            return int((self.daemons.run / "qemu" / f"{name}.pid").read_text())
        except (FileNotFoundError, ValueError):
            return None


def _power_off(domain: libvirt.virDomain) -> None:
    try:
        domain.destroy()
    except libvirt.libvirtError as e:
        if e.get_error_code() not in (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN):
            raise


def _forget(domain: libvirt.virDomain) -> None:
    try:
        domain.undefineFlags(
            libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
            | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
            | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
        )
    except libvirt.libvirtError as e:
        if e.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
            raise


def _asked_in_vain(e: libvirt.libvirtError) -> bool:
    """False when the guest could not be asked; errors of the driver itself are raised."""
    if e.get_error_domain() == libvirt.VIR_FROM_RPC or e.get_error_code() == libvirt.VIR_ERR_RPC:
        raise _mapped(e) from e
    return False


def _mapped(e: libvirt.libvirtError) -> DriverError:
    return DriverError(f"libvirt: {e.get_error_message()}", again=e.get_error_code() not in _HOPELESS)


def _tail(path: Path, max_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - max_bytes))
            return file.read(max_bytes)
    except FileNotFoundError:
        return b""
