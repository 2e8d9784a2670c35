"""The hypervisor driver over libvirt's LXC: containers, each in a user namespace of its own, found again after a restart.

It shares libvirtd, its session and the marks of what is ours with the QEMU driver. A container has its root as its one
disk, no drive and no screen; what it cannot do stands in its capabilities.
"""

from __future__ import annotations

from pathlib import Path

import libvirt
from lxml import etree

from nubila.drivers import CapabilityMissing, Leftover, Scan
from nubila.drivers.hypervisor import libvirt_xml, lxc_xml
from nubila.drivers.hypervisor.base import (
    Capabilities,
    Domain,
    DomainDisk,
    DomainNic,
    Found,
    Held,
    Observed,
    Options,
    Shaped,
)
from nubila.drivers.hypervisor.libvirt_base import OverLibvirt
from nubila.drivers.hypervisor.libvirt_daemon import Daemons
from nubila.drivers.hypervisor.libvirt_session import NoDriver, Session, mapped
from nubila.drivers.hypervisor.libvirt_shape import Shapes
from nubila.drivers.hypervisor.lxc_console import tells_ends
from nubila.drivers.hypervisor.lxc_guest import Places, first_process, signal_for
from nubila.drivers.hypervisor.lxc_leftovers import Leftovers
from nubila.drivers.hypervisor.lxc_power import LxcPower
from nubila.drivers.hypervisor.lxc_wires import Wires

_REASONS: dict[int, str] = {
    libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED: "destroyed",
    libvirt.VIR_DOMAIN_SHUTOFF_FAILED: "crashed",
}
_NEEDED = Path(lxc_xml.EMULATOR)
_FREEZER = Path("/sys/fs/cgroup/freezer")  # libvirt 9.0 freezes by cgroups of version 1 only
PACKAGE = "libvirt-daemon-driver-lxc"
_NO = "a container cannot do that"


class LxcHypervisor(OverLibvirt):
    """The driver. Its methods may be called from several threads at once."""

    def __init__(self, options: Options, node_dir: Path, run_dir: Path, installation: str):
        session = Session(Daemons(node_dir, run_dir, options.console_log_max_bytes), installation, "lxc")
        self.places = Places(node_dir / "containers", options.console_log_max_bytes)
        super().__init__(session, LxcPower(session, installation, self.places))
        self._leftovers = Leftovers(self.daemons, self.places)
        self._methods: tuple[str, ...] = ()
        self._reason = "it was not tried yet"
        self._tells_ends = tells_ends()

        self.rewire = Wires(self.session, self._power.xml).rewire
        self._shapes = Shapes(self.session, "lxc", lxc_xml.parse, self._power.xml)

    def use_methods(self, virt_methods: tuple[str, ...], reason: str = "") -> None:
        """What works on this machine, and why nothing does; `lxc_probe` finds out."""
        self._methods, self._reason = virt_methods, reason

    def lacks(self) -> str | None:
        """Why no container can be here, or None. What runs is seen and served whatever a probe says."""
        if not _NEEDED.exists():
            return f"the package {PACKAGE} is not installed"
        try:
            self.session.open()
        except NoDriver:
            return "our libvirtd runs without its driver for containers"
        return None

    def capabilities(self) -> Capabilities:
        return Capabilities(
            virt_methods=self._methods,
            reason=self._reason,
            crash=self._tells_ends,
            suspend=_FREEZER.is_dir(),
            panic=False,
            live_resize=False,
            media=False,
            more_disks=False,
            disk_hotplug=False,
            disk_limits=False,
            nic_hotplug=False,
            live_snapshots=False,
            live_copies=False,
        )

    def observe(self) -> Observed:
        if self.lacks() is not None:
            return Observed()
        connection = self.session.open()
        try:
            domains = [d for d in connection.listAllDomains() if not d.name().startswith(lxc_xml.PROBE_ID)]
            return self._sorted(((d, None) for d in domains), lambda d, _: self._found(d))
        except libvirt.libvirtError as e:
            raise mapped(e) from e

    def scan(self) -> Scan:
        if self.lacks() is not None:
            return Scan()
        try:
            domains = [d for d in self.session.open().listAllDomains() if self.session.is_ours(d)]
            return self._leftovers.scan({d.name() for d in domains}, {d.ID() for d in domains if d.isActive()})
        except libvirt.libvirtError as e:
            raise mapped(e) from e

    def remove_leftover(self, leftover: Leftover) -> None:
        self._leftovers.remove(leftover)

    def repair(self, domain: Domain) -> None:
        self._shapes.repair(domain)

    def shapes(self) -> tuple[Shaped, ...]:
        shaped = () if self.lacks() is not None else self._shapes.shapes()
        return tuple([s for s in shaped if s.vm_id != lxc_xml.PROBE_ID])

    def remove(self, vm_id: str) -> None:
        if self.lacks() is None:
            self._power.remove(vm_id)

    def remove_all(self) -> None:
        """Every container of ours: a node is being destroyed. The daemons are the QEMU driver's to remove."""
        for domain in self.observe().domains:
            self.remove(domain.vm_id)
        self.close()

    def attach_nic(self, vm_id: str, nic: DomainNic) -> None:
        raise CapabilityMissing(_NO)

    def detach_nic(self, vm_id: str, mac: str) -> bool:
        """What is not there is gone."""
        return not any(mac in (d.nics or ()) for d in self.observe().domains if d.vm_id == vm_id and d.running)

    def attach_disk(self, vm_id: str, disk: DomainDisk) -> None:
        raise CapabilityMissing(_NO)

    def detach_disk(self, vm_id: str, volume_id: str) -> bool:
        """What is not there is gone; its root it never gives away."""
        return not any(volume_id in (d.disks or {}) for d in self.observe().domains if d.vm_id == vm_id and d.running)

    def tune_disk(self, vm_id: str, disk: DomainDisk) -> None:
        raise CapabilityMissing(_NO)

    def resize_disk(self, vm_id: str, volume_id: str, size_gib: int) -> None:
        raise CapabilityMissing(_NO)

    def snapshot_disk(self, vm_id: str, volume_id: str, snapshot_id: str) -> None:
        raise CapabilityMissing(_NO)

    def drop_disk_snapshot(self, vm_id: str, volume_id: str, snapshot_id: str) -> None:
        raise CapabilityMissing(_NO)

    def copy_disk(self, vm_id: str, volume_id: str, target: str, format_: str) -> None:
        raise CapabilityMissing(_NO)

    def _found(self, domain: libvirt.virDomain) -> Found:
        name = domain.name()
        named = libvirt_xml.parse_name(name)
        assert named is not None, "ours are named so"
        state, reason = domain.state()
        running = state in (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_PAUSED)
        if not running:
            why = _REASONS.get(reason) or self.places.why_ended(name)
            if why is None and reason == libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN and not self._tells_ends:
                why = "guest-shutdown"
            return Found(vm_id=named[0], epoch=named[1], running=False, reason=why)
        self.places.keep_console(domain, self.session.console(named[0]))
        pid = first_process(domain)
        xml = domain.XMLDesc()
        shape, disk = lxc_xml.parse(xml, False), lxc_xml.disk_of(etree.fromstring(xml, libvirt_xml.PARSER))
        return Found(
            vm_id=named[0],
            epoch=named[1],
            running=True,
            pid=pid,
            paused="suspended" if state == libvirt.VIR_DOMAIN_PAUSED else None,
            cores=shape.cores,
            cores_max=shape.cores,
            nics=shape.nics,
            memory_mib=shape.memory_mib,
            memory_max_mib=shape.memory_mib,
            guest_agent=pid is not None and signal_for(pid, "reboot") is not None,
            disks={disk["volume"]: Held(epoch=int(disk["epoch"]))} if disk else None,
        )
