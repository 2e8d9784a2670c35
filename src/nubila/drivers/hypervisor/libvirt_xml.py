"""From a Domain to libvirt's XML, by a builder: a hostile value can only ever become the text of its one leaf.

Pure. Proved against libvirt's own schema in the tests.
"""

from __future__ import annotations

import re

from lxml import etree
from lxml.builder import ElementMaker

from nubila.drivers import DriverError
from nubila.drivers.hypervisor.base import Domain
from nubila.drivers.hypervisor.libvirt_disk_xml import disk_xml
from nubila.drivers.hypervisor.libvirt_nic_xml import nic_xml

NAMESPACE = "urn:nubila"
EMULATOR = "/usr/bin/qemu-system-x86_64"
PARSER = etree.XMLParser(resolve_entities=False, no_network=True)  # of what libvirt says
_E = ElementMaker()
_META = ElementMaker(namespace=NAMESPACE, nsmap={"nubila": NAMESPACE})

# virt method -> (type of domain, CPU mode). TCG's 'maximum' has what current distributions ask of a CPU.
_METHODS: dict[str, tuple[str, str]] = {"kvm": ("kvm", "host-passthrough"), "qemu": ("qemu", "maximum")}
DRIVE = "sdb"  # the drive for ISOs
_SPARE_PORTS = 4  # PCIe root ports for what is plugged later; each costs boot time
_FIXED_DEVICES = 4  # virtio-scsi, virtio-serial, rng, balloon
_SOCKET_PATH_MAX = 107  # of the kernel
VM_ID = re.compile(r"[a-z]{2,4}-[0-9a-z]{1,40}")
_NAME = re.compile(r"([a-z]{2,4}-[0-9a-z]{1,40})\.e([0-9]{1,18})")


def name_of(vm_id: str, epoch: int) -> str:
    return f"{vm_id}.e{epoch}"


def parse_name(name: str) -> tuple[str, int] | None:
    """vm_id and epoch in a domain's name, or None when it is no name of ours."""
    m = _NAME.fullmatch(name)
    return (m[1], int(m[2])) if m else None


def build(domain: Domain, installation: str, console_log: str) -> str:
    """The persistent definition of one domain. DriverError for what cannot be expressed."""
    if domain.virt_method not in _METHODS:
        raise DriverError(f"the virt method {domain.virt_method!r} is not one of {sorted(_METHODS)}", again=False)
    if not VM_ID.fullmatch(domain.vm_id):
        raise DriverError("the vm's id is not well formed", again=False)
    vnc = f"{domain.directory}/vnc.sock"
    if len(vnc.encode()) > _SOCKET_PATH_MAX:
        raise DriverError(f"the path {vnc} is too long for a socket", again=False)
    cores_max = max(domain.cores, domain.cores_max)
    kind, cpu_mode = _METHODS[domain.virt_method]
    try:
        root = _E.domain(
            {"type": kind},
            _E.name(name_of(domain.vm_id, domain.epoch)),
            _E.uuid(domain.uuid),
            _E.metadata(_META.vm({"installation": installation, "id": domain.vm_id, "epoch": str(domain.epoch)})),
            _E.memory({"unit": "MiB"}, str(domain.memory_mib)),
            _E.vcpu({"current": str(domain.cores)}, str(cores_max)),
            _sysinfo(domain),
            _E.os(_E.type({"arch": "x86_64", "machine": "q35"}, "hvm"), _E.smbios({"mode": "sysinfo"})),
            _E.features(_E.acpi(), _E.apic()),
            _E.cpu({"mode": cpu_mode}, _E.topology({"sockets": "1", "cores": str(cores_max), "threads": "1"})),
            _E.clock({"offset": "utc"}),
            _E.on_poweroff("destroy"),
            _E.on_reboot("restart"),
            _E.on_crash(domain.on_crash),
            _devices(domain, console_log, vnc),
            _seclabel(domain),
        )
    except ValueError as e:  # lxml refuses control characters
        raise DriverError(f"a value of the vm cannot stand in XML: {e}", again=False) from e
    return etree.tostring(root, encoding="unicode")


def owner(metadata: str) -> tuple[str, str] | None:
    """(installation, vm_id) from a domain's metadata element, or None when it is not ours."""
    try:
        element = etree.fromstring(metadata)
    except etree.XMLSyntaxError:
        return None
    installation, vm_id = element.get("installation"), element.get("id")
    return (installation, vm_id) if installation and vm_id else None


def _sysinfo(domain: Domain) -> etree._Element:
    entries = [("manufacturer", "Nubila"), ("product", "Nubila VM"), ("uuid", domain.uuid)]
    if domain.serial_number:
        entries.append(("serial", domain.serial_number))
    return _E.sysinfo({"type": "smbios"}, _E.system(*(_E.entry({"name": name}, value) for name, value in entries)))


def _seclabel(domain: Domain) -> etree._Element:
    """QEMU runs under a uid of the vm's own; its files belong to it already, so nothing is relabelled."""
    label = f"+{int(domain.uid)}:+{int(domain.gid)}"
    return _E.seclabel({"type": "static", "model": "dac", "relabel": "no"}, _E.label(label))


def _devices(domain: Domain, console_log: str, vnc: str) -> etree._Element:
    ports = _FIXED_DEVICES + _SPARE_PORTS + len(domain.disks) + len(domain.nics)
    return _E.devices(
        _E.emulator(EMULATOR),
        *(
            disk_xml(d, place if d.index is None else d.index, boot=_order(domain, "disk"))
            for place, d in enumerate(domain.disks)
        ),
        *([_cdrom("sda", domain.seed, None)] if domain.seed is not None else []),
        drive(domain),
        _E.controller({"type": "usb", "model": "none"}),
        _E.controller({"type": "scsi", "index": "0", "model": "virtio-scsi"}),
        _E.controller({"type": "pci", "index": "0", "model": "pcie-root"}),
        *(_E.controller({"type": "pci", "index": str(n), "model": "pcie-root-port"}) for n in range(1, ports + 1)),
        *(nic_xml(nic) for nic in domain.nics),
        _E.serial({"type": "file"}, _E.source({"path": console_log, "append": "on"}), _E.target({"port": "0"})),
        _E.channel({"type": "unix"}, _E.target({"type": "virtio", "name": "org.qemu.guest_agent.0"})),
        _E.graphics({"type": "vnc"}, _E.listen({"type": "socket", "socket": vnc})),
        _E.video(_E.model({"type": "vga", "vram": "16384", "heads": "1", "primary": "yes"})),
        _E.memballoon({"model": "virtio"}),
        _E.panic({"model": "isa"}),
        _E.rng({"model": "virtio"}, _E.backend({"model": "random"}, "/dev/urandom")),
    )


def drive(domain: Domain) -> etree._Element:
    """The drive for ISOs, with what is wished in it."""
    return _cdrom(DRIVE, domain.media, _order(domain, "cdrom"))


def _order(domain: Domain, device: str) -> int | None:
    """Its place in the boot order, from 1 on."""
    return domain.boot.index(device) + 1 if device in domain.boot else None


def _cdrom(name: str, path: str | None, boot: int | None) -> etree._Element:
    return _E.disk(
        {"type": "file", "device": "cdrom"},
        _E.driver({"name": "qemu", "type": "raw"}),
        *([_E.source({"file": path})] if path is not None else []),
        _E.target({"dev": name, "bus": "scsi"}),
        _E.readonly(),
        *([_E.boot({"order": str(boot)})] if boot is not None else []),
    )
