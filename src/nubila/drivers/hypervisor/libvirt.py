"""The hypervisor driver over a libvirt of our own: QEMU domains, each under its own uid, found again after a restart.

A domain without our metadata is foreign and is shown, not touched. The parts are in files of their own: session, power,
the definition's XML.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import libvirt

from nubila.drivers import Leftover, Scan
from nubila.drivers.hypervisor import libvirt_xml
from nubila.drivers.hypervisor.base import Capabilities, Found, Observed, Options
from nubila.drivers.hypervisor.console_log import tail
from nubila.drivers.hypervisor.libvirt_base import OverLibvirt
from nubila.drivers.hypervisor.libvirt_daemon import Daemons
from nubila.drivers.hypervisor.libvirt_disks import Disks
from nubila.drivers.hypervisor.libvirt_leftovers import Leftovers
from nubila.drivers.hypervisor.libvirt_power import AGENT_CONNECTED, Power
from nubila.drivers.hypervisor.libvirt_session import Session, mapped
from nubila.drivers.hypervisor.libvirt_shape import Shapes, change_disks, cores_of, parse, pid_of
from nubila.drivers.hypervisor.libvirt_wires import Wires

_REASONS: dict[int, str] = {
    libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN: "guest-shutdown",
    libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED: "destroyed",
    libvirt.VIR_DOMAIN_SHUTOFF_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_SHUTOFF_FAILED: "crashed",
}
# one call for all domains; what it says of vCPUs and balloon was told to libvirt by QEMU before
_STATS = libvirt.VIR_DOMAIN_STATS_STATE | libvirt.VIR_DOMAIN_STATS_VCPU | libvirt.VIR_DOMAIN_STATS_BALLOON
# Not running as far as the world can tell: QEMU is gone.
_OFF = frozenset({libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_NOSTATE})
# (state, reason) -> why its vCPUs stand still; a crashed domain that is preserved still has its QEMU
_PAUSED: dict[tuple[int, int], str | None] = {
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER): "suspended",
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR): "io-error",
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_CRASHED): "panicked",
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP): None,
    (libvirt.VIR_DOMAIN_CRASHED, libvirt.VIR_DOMAIN_CRASHED_PANICKED): "panicked",
}
# QEMU's last words; libvirtd itself sends one after a guest's own shutdown.
_SIGNALLED = re.compile(rb"terminating on signal \d+ from pid \d+ \(([^)\n]*)\)")


class LibvirtHypervisor(OverLibvirt):
    """The driver. Its methods may be called from several threads at once."""

    def __init__(self, options: Options, node_dir: Path, run_dir: Path, installation: str):
        session = Session(Daemons(node_dir, run_dir, options.console_log_max_bytes), installation)
        super().__init__(session, Power(session, installation))
        self._disks = Disks(session)
        self._agent_seen: dict[str, int] = {}  # name of a domain -> pid of the QEMU whose guest agent was connected
        self._virt_methods: tuple[str, ...] = ("qemu",)

        self.ask_reboot = self._reboot
        self.remove = self._power.remove
        self._leftovers = Leftovers(self.daemons)
        self._wires = Wires(self.session, installation, self._pid, self._disks.changed)
        self.rewire = self._wires.rewire
        self.attach_nic = self._wires.attach_nic
        self.detach_nic = self._wires.detach_nic
        self._shapes = Shapes(self.session, "qemu", parse, self._power.xml, change_disks)
        self.shapes = self._shapes.shapes
        self.repair = self._shapes.repair
        self.attach_disk = self._disks.attach_disk
        self.detach_disk = self._disks.detach_disk
        self.tune_disk = self._disks.tune_disk
        self.resize_disk = self._disks.resize_disk
        self.snapshot_disk = self._disks.snapshot_disk
        self.drop_disk_snapshot = self._disks.drop_disk_snapshot
        self.copy_disk = self._disks.copy_disk

    def use_methods(self, virt_methods: tuple[str, ...]) -> None:
        """What works on this machine; `kvm.probe_kvm` finds out, once per boot."""
        self._virt_methods = virt_methods

    def capabilities(self) -> Capabilities:
        return Capabilities(virt_methods=self._virt_methods)

    def observe(self) -> Observed:
        connection = self.session.open()
        try:
            return self._sorted(connection.getAllDomainStats(_STATS, 0), self._found)
        except libvirt.libvirtError as e:
            raise mapped(e) from e

    def scan(self) -> Scan:
        return self._leftovers.scan({d.pid for d in self.observe().domains if d.pid is not None})

    def remove_leftover(self, leftover: Leftover) -> None:
        self._leftovers.remove(leftover)

    def remove_all(self) -> None:
        """Every domain of ours, then the daemons and what they needed on the machine: a node is being destroyed."""
        for domain in self.observe().domains:
            self.remove(domain.vm_id)
        self.close()
        self.daemons.remove()

    def _found(self, domain: libvirt.virDomain, stats: dict[str, Any]) -> Found:
        state, reason = stats["state.state"], stats.get("state.reason", 0)
        name = domain.name()
        named = libvirt_xml.parse_name(name)
        assert named is not None, "ours are named so"
        running = state not in _OFF
        pid = self._pid(name) if running else None
        disks, nics = (None, None) if pid is None else self._disks.held(domain, name, pid)
        return Found(
            vm_id=named[0],
            epoch=named[1],
            running=running,
            pid=pid,
            paused=_paused(state, reason) if running else None,
            **(_size(stats, pid) if running else {}),
            reason=None if running else self._why_off(name, reason),
            guest_agent=pid is not None and self._has_agent(domain, name, pid),
            disks=disks,
            nics=nics,
        )

    def _why_off(self, name: str, reason: int) -> str | None:
        """libvirt takes a SIGTERM from outside, as when the machine goes down, for the guest's own shutdown."""
        if reason == libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN:
            signalled = _SIGNALLED.search(self._said(name))
            if signalled is not None and not signalled[1].endswith(b"libvirtd"):
                return "crashed"
        if reason == libvirt.VIR_DOMAIN_SHUTOFF_CRASHED and self._by_libvirtd(name):
            return "panicked"
        return _REASONS.get(reason)

    def _by_libvirtd(self, name: str) -> bool:
        """A QEMU that crashed has no last words; one whose guest panicked is ended by libvirtd."""
        signalled = _SIGNALLED.search(self._said(name))
        return signalled is not None and signalled[1].endswith(b"libvirtd")

    def _said(self, name: str) -> bytes:
        """QEMU's own words since its newest start."""
        log = self.daemons.directory / "log" / "qemu" / f"{name}.log"
        return tail(log, 4096).rpartition(b"starting up")[2]

    def _reboot(self, vm_id: str, how: str) -> bool:
        """The guest that boots now has no agent yet."""
        went = self._power.ask_reboot(vm_id, how)
        if went:
            for name in [n for n in self._agent_seen if n.startswith(f"{vm_id}.")]:
                self._agent_seen.pop(name, None)
        return went

    def _has_agent(self, domain: libvirt.virDomain, name: str, pid: int) -> bool:
        """Asked until it is there; then it counts as there until a reboot that was asked for, or that QEMU's end."""
        if self._agent_seen.get(name) != pid and AGENT_CONNECTED in domain.XMLDesc():
            self._agent_seen[name] = pid
        return self._agent_seen.get(name) == pid

    def _pid(self, name: str) -> int | None:
        return pid_of(self.daemons.run / "qemu" / f"{name}.pid")


def _size(stats: dict[str, Any], pid: int | None) -> dict[str, int]:
    return {
        "cores": cores_of(pid, stats.get("vcpu.current", 0)),
        "cores_max": stats.get("vcpu.maximum", 0),
        "memory_mib": stats.get("balloon.current", 0) // 1024,
        "memory_max_mib": stats.get("balloon.maximum", 0) // 1024,
    }


def _paused(state: int, reason: int) -> str | None:
    still = state in (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_CRASHED)
    return _PAUSED.get((state, reason), "other") if still else None
