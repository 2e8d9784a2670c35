"""The XML that libvirt gets: valid by libvirt's own schema, whatever the values are."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from nubila.drivers import DriverError
from nubila.drivers.hypervisor import libvirt_xml
from nubila.drivers.hypervisor.base import Domain, DomainDisk, DomainNic

SCHEMA = "/usr/share/libvirt/schemas/domain.rng"  # of the package libvirt0
DOMAIN = Domain(
    vm_id="vm-01k9xg2m4n5p6q7r8s9t0v1w2x",
    uuid="01994c1a-0000-7000-8000-000000000001",
    epoch=3,
    virt_method="qemu",
    cores=2,
    memory_mib=512,
    directory="/var/lib/nubila/node/vms/vm-01k9xg2m4n5p6q7r8s9t0v1w2x",
    uid=1_900_001,
    gid=1_900_001,
    disks=(
        DomainDisk(volume_id="vol-01k9xg2m4n5p6q7r8s9t0v1w2x", path="/pool/a.qcow2", format="qcow2", cache="none"),
        DomainDisk(volume_id="vol-b", path="/pool/b.raw", format="raw", read_iops=100, write_bytes=1 << 20),
    ),
    nics=(DomainNic(tap="nabt01234567890", mac="52:54:00:00:00:01", mtu=1450),),
    seed="/var/lib/nubila/node/vms/seed.iso",
    serial_number="ds=nocloud",
)


@pytest.fixture(scope="module")
def schema() -> etree.RelaxNG:
    return etree.RelaxNG(etree.parse(SCHEMA))


def build(domain: Domain = DOMAIN) -> etree._Element:
    return etree.fromstring(libvirt_xml.build(domain, "test", "/log/console.log"))


@pytest.mark.parametrize("virt_method", ["kvm", "qemu"])
@pytest.mark.parametrize("seed", [None, "/seed.iso"])
def test_valid_by_libvirts_schema(schema: etree.RelaxNG, virt_method: str, seed: str | None) -> None:
    schema.assertValid(build(msgspec.structs.replace(DOMAIN, virt_method=virt_method, seed=seed)))


def test_no_disk_no_nic_is_valid(schema: etree.RelaxNG) -> None:
    schema.assertValid(build(msgspec.structs.replace(DOMAIN, disks=(), nics=())))


def test_formats_are_always_stated() -> None:
    drivers = build().findall(".//disk/driver")
    assert [d.get("type") for d in drivers] == ["qcow2", "raw", "raw", "raw"]


def test_owner_is_read_from_what_was_written() -> None:
    meta = build().find(f"metadata/{{{libvirt_xml.NAMESPACE}}}vm")
    assert meta is not None
    assert libvirt_xml.owner(etree.tostring(meta, encoding="unicode")) == ("test", DOMAIN.vm_id)
    assert libvirt_xml.owner("<x") is None
    assert libvirt_xml.owner("<vm/>") is None


def test_names_lead_back() -> None:
    assert libvirt_xml.parse_name(libvirt_xml.name_of(DOMAIN.vm_id, 3)) == (DOMAIN.vm_id, 3)
    for name in ("", "web", "vm-01.e", "vm-01.e1 ", "vm-01.ex", "vm-01.e1\n", "VM-01.e1"):
        assert libvirt_xml.parse_name(name) is None


@pytest.mark.parametrize(
    "change",
    [
        {"virt_method": "lxc"},
        {"vm_id": "vm-1/../x"},
        {"vm_id": "vm-1\n"},
        {"directory": "/" + "d" * 120},
        {"serial_number": "a\x00b"},
        {"disks": (DomainDisk(volume_id="v", path="/p", format="vmdk"),)},
        {"disks": (DomainDisk(volume_id="v", path="/p", format="raw", cache="evil"),)},
        {"disks": tuple(DomainDisk(volume_id="v", path="/p", format="raw") for _ in range(27))},
    ],
)
def test_what_cannot_be_expressed_is_refused_for_good(change: dict[str, object]) -> None:
    with pytest.raises(DriverError) as error:
        build(msgspec.structs.replace(DOMAIN, **change))
    assert error.value.again is False


HOSTILE = st.one_of(
    st.text(max_size=60),
    st.sampled_from(
        ["'/><hostdev/>", "]]>", "<!--", "&lt;", '"><devices><disk/>', "a,b=c", "%n", "../..", "\u202e", "\r\n"]
    ),
)
# leaf -> how a value gets there
LEAVES = {
    "path": lambda d, v: msgspec.structs.replace(d, disks=(msgspec.structs.replace(d.disks[0], path=v),)),
    "volume": lambda d, v: msgspec.structs.replace(d, disks=(msgspec.structs.replace(d.disks[0], volume_id=v),)),
    "tap": lambda d, v: msgspec.structs.replace(d, nics=(msgspec.structs.replace(d.nics[0], tap=v),)),
    "mac": lambda d, v: msgspec.structs.replace(d, nics=(msgspec.structs.replace(d.nics[0], mac=v),)),
    "seed": lambda d, v: msgspec.structs.replace(d, seed=v),
    "serial": lambda d, v: msgspec.structs.replace(d, serial_number=v or "x"),
    "directory": lambda d, v: msgspec.structs.replace(d, directory=v),
    "uuid": lambda d, v: msgspec.structs.replace(d, uuid=v),
}


def _shape(element: etree._Element) -> list[tuple[str, tuple[str, ...]]]:
    return [(str(e.tag), tuple(sorted(map(str, e.attrib)))) for e in element.iter()]


@pytest.mark.parametrize("leaf", LEAVES)
@settings(max_examples=60, deadline=None)
@given(value=HOSTILE)
def test_a_hostile_value_stays_in_its_leaf(leaf: str, value: str) -> None:
    try:
        root = build(LEAVES[leaf](DOMAIN, value))
    except DriverError:
        return
    assert _shape(root) == _shape(build(LEAVES[leaf](DOMAIN, "x")))
