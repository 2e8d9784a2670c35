"""All drivers together: a Linux guest from the image gets its address, is asked through its agent, and ends cleanly."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from driver_images import sha256
from driver_rig import found, wait_for
from test_driver_network import NETWORK, port

from nubila.drivers.hypervisor.base import Domain, DomainDisk, DomainNic
from nubila.drivers.hypervisor.base import Options as HypervisorOptions
from nubila.drivers.hypervisor.libvirt import LibvirtHypervisor
from nubila.drivers.network.base import Options as NetworkOptions
from nubila.drivers.network.bridge import BridgeNetwork
from nubila.drivers.storage.base import Options as StorageOptions
from nubila.drivers.storage.base import Volume
from nubila.drivers.storage.directory import DirectoryStorage

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("netns")]
UID = 1_900_001


@pytest.fixture
def hypervisor(place: Path, netns: None) -> Iterator[LibvirtHypervisor]:
    driver = LibvirtHypervisor(HypervisorOptions(), place / "node", place / "run", "drivertest")
    yield driver
    driver.remove_all()
    assert driver.daemons.running() is None


@pytest.fixture
def network(place: Path, netns: None) -> Iterator[BridgeNetwork]:
    driver = BridgeNetwork(NetworkOptions(table="drivertest", directory=str(place / "network")))
    yield driver
    driver.remove_all()
    driver.close()


def test_a_guest_from_its_disk_to_its_clean_end(
    place: Path, hypervisor: LibvirtHypervisor, network: BridgeNetwork, guest_image: Path
) -> None:
    image = guest_image / "nubila-mini.qcow2"
    storage = DirectoryStorage(StorageOptions(directory=str(place / "pool")))
    storage.ensure_image(sha256(image), lambda path: shutil.copyfile(image, path) and None)
    disk = storage.ensure_volume(
        Volume(
            volume_id="vol-01",
            format="qcow2",
            size_gib=1,
            uid=UID,
            gid=UID,
            image_sha256=sha256(image),
            image_format="qcow2",
        )
    )
    network.ensure_network(NETWORK)
    wish = port(1, uid=UID)
    tap = network.ensure_port(wish)
    directory = place / "vm"
    directory.mkdir(mode=0o700)
    os.chown(directory, UID, UID)
    domain = Domain(
        vm_id="vm-01", uuid=str(uuid.UUID(int=0x4000 << 64)), epoch=1, virt_method="qemu", cores=1, memory_mib=256,
        directory=str(directory), uid=UID, gid=UID, nics=(DomainNic(tap=tap, mac=wish.mac, mtu=NETWORK.mtu),),
        disks=(DomainDisk(volume_id="vol-01", path=disk, format="qcow2"),),
    )  # fmt: skip
    hypervisor.start(domain)
    wait_for(lambda: (d := found(hypervisor, "vm-01")) and d.guest_agent, 60)
    leases = wait_for(lambda: network.observe().leases, 60)
    assert [(x.mac, x.address) for x in leases] == [(wish.mac, "10.91.0.11")]
    assert [p.up for p in network.observe().ports] == [True]
    hypervisor.start(msgspec.structs.replace(domain, cores=2))  # what runs is left alone
    wait_for(lambda: b"READY" in hypervisor.read_console("vm-01", 1 << 16), 90)  # its init ends nothing before that
    assert hypervisor.ask_stop("vm-01", "agent") is True
    off = wait_for(lambda: (d := found(hypervisor, "vm-01")) and not d.running and d, 60)
    assert (off.reason, off.guest_agent) == ("guest-shutdown", False)
    assert hypervisor.read_console("vm-01", 1 << 16) != b""
