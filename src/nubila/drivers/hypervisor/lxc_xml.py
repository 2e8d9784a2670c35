"""From a Domain to libvirt's XML for a container, by a builder; and what can be compared of one. Pure.

Its root is root of a user namespace: on the host each of its ids is one that nobody else has. It gets no device of the
host, a network of its own, and limits of memory and CPU time.
"""

from __future__ import annotations

from lxml import etree
from lxml.builder import ElementMaker

from nubila.drivers import CapabilityMissing, DriverError
from nubila.drivers.hypervisor.base import Domain, DomainNic, Shape
from nubila.drivers.hypervisor.libvirt_nic_xml import mac_of
from nubila.drivers.hypervisor.libvirt_shape import KIB
from nubila.drivers.hypervisor.libvirt_xml import NAMESPACE, PARSER, VM_ID, name_of

METHOD = "lxc"
PROBE_ID = "vm-00000000000000000000000000"  # what a probe starts; no vm's
EMULATOR = "/usr/lib/libvirt/libvirt_lxc"
SEED_AT = "/var/lib/cloud/seed/nocloud"  # where cloud-init looks for it
IDS = 65536  # of one container
_FIRST_ID, _RANGES = 1_370_000_000, 11_000  # below 2**31: devpts takes no larger group
_PERIOD_US = 100_000
_E = ElementMaker()
_META = ElementMaker(namespace=NAMESPACE, nsmap={"nubila": NAMESPACE})


def first_id(uid: int) -> int:
    """Where the container's ids begin on the host. No two vms of a node share a uid, so none of its first 11,000 share
    these."""
    return _FIRST_ID + uid % _RANGES * IDS


def build(domain: Domain, installation: str, place: str) -> str:
    """The persistent definition. `place`: the container's own directory, with `root` and `seed` in it."""
    _check(domain)
    first = str(first_id(domain.uid))
    ids = {"start": "0", "target": first, "count": str(IDS)}
    about = {"installation": installation, "id": domain.vm_id, "epoch": str(domain.epoch)}
    disk = domain.disks[0]
    root = {
        "path": disk.path,
        "at": f"{place}/root",
        "first": first,
        "volume": disk.volume_id,
        "epoch": str(disk.epoch),
    }
    try:
        element = _E.domain(
            {"type": "lxc"},
            _E.name(name_of(domain.vm_id, domain.epoch)),
            _E.uuid(domain.uuid),
            _E.metadata(_META.vm(about, _META.root(root))),
            _E.memory({"unit": "MiB"}, str(domain.memory_mib)),
            _E.vcpu(str(domain.cores)),
            _E.cputune(_E.period(str(_PERIOD_US)), _E.quota(str(_PERIOD_US * domain.cores))),
            _E.os(_E.type({"arch": "x86_64"}, "exe"), _E.init("/sbin/init")),
            _E.idmap(_E.uid(ids), _E.gid(ids)),
            _E.features(_E.privnet()),
            _E.clock({"offset": "utc"}),
            _E.on_poweroff("destroy"),
            _E.on_reboot("restart"),
            _E.on_crash("destroy"),
            _devices(domain, place),
        )
    except ValueError as e:  # lxml refuses control characters
        raise DriverError(f"a value of the vm cannot stand in XML: {e}", again=False) from e
    return etree.tostring(element, encoding="unicode")


def _check(domain: Domain) -> None:
    if domain.virt_method != METHOD:
        raise DriverError(f"the virt method {domain.virt_method!r} is not {METHOD!r}", again=False)
    if not VM_ID.fullmatch(domain.vm_id):
        raise DriverError("the vm's id is not well formed", again=False)
    if len(domain.disks) != 1 or domain.disks[0].format != "raw":
        raise CapabilityMissing("a container has one disk, its root, in a raw volume")
    if domain.media is not None or domain.boot != ("disk",):
        raise CapabilityMissing("a container has no drive for ISOs, and boots from its root only")


def _devices(domain: Domain, place: str) -> etree._Element:
    return _E.devices(
        _E.emulator(EMULATOR),
        _bound(f"{place}/root", "/"),
        *([_bound(f"{place}/seed", SEED_AT, _E.readonly())] if domain.seed is not None else []),
        *(nic_xml(nic, n) for n, nic in enumerate(domain.nics)),
        _E.console({"type": "pty"}, _E.target({"type": "lxc", "port": "0"})),
    )


def nic_xml(nic: DomainNic, index: int) -> etree._Element:
    """libvirt makes a pair of interfaces: one in the container, one here, under the name that the rules are for."""
    return _E.interface(
        {"type": "bridge"},
        _E.mac({"address": nic.mac}),
        _E.source({"bridge": nic.bridge}),
        _E.target({"dev": nic.tap}),
        _E.guest({"dev": f"eth{index}"}),
    )


def _bound(source: str, target: str, *more: etree._Element) -> etree._Element:
    return _E.filesystem(
        {"type": "mount", "accessmode": "passthrough"}, _E.source({"dir": source}), _E.target({"dir": target}), *more
    )


def disk_of(root: etree._Element) -> dict[str, str]:
    """What a definition of ours says of its root: path, at, first, volume, epoch."""
    found = root.find(f"metadata/{{{NAMESPACE}}}vm/{{{NAMESPACE}}}root")
    return {} if found is None else {str(k): str(v) for k, v in found.attrib.items()}


def parse(xml: str, autostart: bool) -> Shape:
    root = etree.fromstring(xml, PARSER)
    disk = disk_of(root)
    place = disk.get("at", "").removesuffix("/root")
    sources = [str(s.get("dir", s.get("file", "?"))) for s in root.iterfind("devices/filesystem/source")]
    disks = [disk["path"] if s == disk.get("at") else s for s in sources if s != f"{place}/seed"]
    cpus, memory = root.find("vcpu"), root.find("memory")
    return Shape(
        cores=0 if cpus is None else int(cpus.text or 0),
        memory_mib=0 if memory is None else int(memory.text or 0) * KIB[memory.get("unit", "KiB")] // 1024,
        disks=tuple(sorted(disks)),
        nics=tuple(sorted(mac for n in root.iterfind("devices/interface") if (mac := mac_of(n)))),
        title=(root.findtext("title") or "")[:200],
        description=(root.findtext("description") or "")[:200],
        autostart=autostart,
    )
