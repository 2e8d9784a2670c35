"""Twenty things of ours that nobody wishes, and twenty of others that look a little like ours, on real parts: the
sweeper finds each of the former and removes it, and touches none of the latter."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from driver_rig import wait_for
from test_driver_network import NETWORK, port

from nubila.agent import garbage
from nubila.agent.directory import Rooms
from nubila.agent.disk_hands import DiskHands
from nubila.agent.hands import Drivers, Hands
from nubila.agent.pool import Pool
from nubila.drivers.hypervisor.base import Domain, DomainDisk
from nubila.drivers.hypervisor.base import Options as HypervisorOptions
from nubila.drivers.hypervisor.libvirt import LibvirtHypervisor
from nubila.drivers.network.base import Group, Rule
from nubila.drivers.network.base import Options as NetworkOptions
from nubila.drivers.network.bridge import BridgeNetwork
from nubila.drivers.network.bridge_nft import prefix
from nubila.drivers.storage.base import Options as StorageOptions
from nubila.drivers.storage.base import Volume
from nubila.drivers.storage.directory import DirectoryStorage
from nubila.model import ids

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("netns")]
TABLE = "orphantest"
CONTAINERS = frozenset(k for k in garbage.ORDER if k.startswith("container"))  # left by the driver `lxc` alone
THEIRS = ("bridge named like ours", "bridge", "table of our name", "table", "chain in our table", "domain")


def an_id(kind: str, number: int) -> str:
    return ids.text(kind, ids.uuid7(1_800_000_000_000 + number, number << 40 | 0xABCDEF))


class Node:
    """A node's drivers and its sweeper, without an agent."""

    def __init__(self, place: Path):
        self.place = place
        self.hypervisor = LibvirtHypervisor(HypervisorOptions(), place, place / "run", TABLE)
        self.network = BridgeNetwork(NetworkOptions(table=TABLE, directory=str(place / "network")))
        self.storage = DirectoryStorage(StorageOptions(directory=str(place / "disks")))
        self.drivers = Drivers(hypervisor=self.hypervisor, network=self.network, storage=self.storage)
        self.rooms = Rooms(place, TABLE)
        self.pool = Pool(2, "orphans")
        disks = DiskHands(self.drivers.hypervisor, self.drivers.storage, lambda attachment, epoch: None)
        hands = Hands(self.drivers, self.rooms, self.pool, lambda gate: None, disks)
        self.sweeper = garbage.Sweeper(self.pool, self.drivers, self.rooms, hands)
        self.known: dict[str, set[str]] = {kind: set() for kind in garbage.ORDER}

    def look(self) -> set[tuple[str, str]]:
        """All that the sweeper calls an orphan now; nothing is removed, since no time goes by."""
        self._observe()
        self.sweeper.sweep(self.known, 0.0)
        return set(self.sweeper.unknown())

    def sweep(self) -> None:
        self._observe()
        self.sweeper.sweep(self.known, 1e9)
        wait_for(lambda: not self.sweeper._under_way)

    def _observe(self) -> None:
        domains, wires, disks = self.hypervisor.observe(), self.network.observe(), self.storage.observe()
        self.sweeper.world.update(
            {
                "domain": [d.vm_id for d in domains.domains],
                "port": [p.port_id for p in wires.ports],
                "network": [n.network_id for n in wires.networks],
                "group": list(wires.groups),
                "export": list(disks.exports),
                "volume": [v.volume_id for v in disks.volumes],
                "image": list(disks.images),
                "directory": self.rooms.found(),
            }
        )
        self.sweeper.scanned(
            {"hypervisor": self.hypervisor.scan(), "network": self.network.scan(), "storage": self.storage.scan()}
        )

    def domain(self, number: int) -> Domain:
        vm_id = an_id("vm", number)
        room = self.rooms.ensure(vm_id)
        path = self.storage.ensure_volume(
            Volume(volume_id=an_id("volume", number), format="raw", size_gib=1, uid=room.uid, gid=room.gid)
        )
        return Domain(
            vm_id=vm_id, uuid=str(uuid.UUID(int=number << 64 | 0x4000 << 64 | 1)), epoch=1, virt_method="qemu", cores=1,
            memory_mib=32, directory=str(room.path), uid=room.uid, gid=room.gid, nics=(),
            disks=(DomainDisk(volume_id=an_id("volume", number), path=path, format="raw"),),
        )  # fmt: skip

    def port(self, number: int, network_id: str) -> str:
        port_id = an_id("port", number)
        wish = msgspec.structs.replace(port(number, uid=self.rooms.ensure(an_id("vm", 1)).uid), port_id=port_id)
        self.network.ensure_port(msgspec.structs.replace(wish, network_id=network_id))
        return port_id


@pytest.fixture
def node(place: Path, netns: None) -> Iterator[Node]:
    made = Node(place / "node")
    yield made
    made.pool.close(5.0)
    made.hypervisor.remove_all()
    made.network.remove_all()
    made.network.close()


def sh(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


def nft(text: str) -> None:
    subprocess.run(["nft", text], check=True, capture_output=True)


def tables() -> str:
    return subprocess.run(["nft", "list", "ruleset"], check=True, capture_output=True, text=True).stdout


class Living:
    """One VM that is wished, whole; nothing of it may be taken for garbage."""

    def __init__(self, node: Node):
        self.network_id = an_id("network", 1)
        node.network.ensure_network(msgspec.structs.replace(NETWORK, network_id=self.network_id))
        domain = node.domain(1)
        port_id = node.port(1, self.network_id)
        node.hypervisor.start(domain)
        node.known["domain"].add(domain.vm_id)
        node.known["directory"].add(domain.vm_id)
        node.known["volume"].add(domain.disks[0].volume_id)
        node.known["port"].add(port_id)
        node.known["network"].add(self.network_id)
        node.network.ensure_group(Group(group_id=an_id("security_group", 1), rules=(Rule(direction="in"),)))
        node.known["group"].add(an_id("security_group", 1))


def leftovers(node: Node, living: Living) -> tuple[set[tuple[str, str]], subprocess.Popen[bytes]]:
    """Twenty things as interrupted work leaves them."""
    planted: set[tuple[str, str]] = set()
    # 1-5: a whole domain with its disk, directory, console and QEMU's log
    domain = node.domain(2)
    node.hypervisor.start(domain)
    vm_id = domain.vm_id
    planted |= {("domain", vm_id), ("directory", vm_id), ("volume", an_id("volume", 2))}
    planted |= {("console", f"{vm_id}.log"), ("log", f"{vm_id}.e1.log")}
    # 6: a domain that is only defined (its directory and disk: 7, 8)
    defined = node.domain(3)
    node.hypervisor.start(defined)
    node.hypervisor.destroy(defined.vm_id)
    planted |= {("domain", defined.vm_id), ("directory", defined.vm_id), ("volume", an_id("volume", 3))}
    planted |= {("console", f"{defined.vm_id}.log"), ("log", f"{defined.vm_id}.e1.log")}  # 9, 10
    # 11: rules of a group that no port here is in; 12: an image that nothing is based on; 13: an unfinished file
    group_id = an_id("security_group", 2)
    node.network.ensure_group(Group(group_id=group_id, rules=(Rule(direction="in", ports=(22, 22), protocol="tcp"),)))
    (node.place / "disks" / "images" / ("ab" * 32)).write_bytes(b"x")
    (node.place / "disks" / "tmp" / "tmphalf").write_bytes(b"half")
    export_id = an_id("image", 2)  # and the bytes of a volume on their way to an image that nobody makes any more
    (node.place / "disks" / "exports" / export_id).write_bytes(b"x")
    planted |= {("export", export_id), ("group", group_id), ("image", "ab" * 32), ("temporary", "tmphalf")}
    # 14, 15: a network with its DHCP, and a tap on it
    network_id = an_id("network", 2)
    blue = [msgspec.structs.replace(s, cidr=s.cidr.replace("91", "92"), gateway=s.gateway.replace("91", "92")) for s in NETWORK.subnets]  # fmt: skip
    node.network.ensure_network(msgspec.structs.replace(NETWORK, network_id=network_id, subnets=tuple(blue)))
    planted |= {("network", network_id), ("port", node.port(2, network_id))}
    # 16: rules of a tap that is gone; 17: files of a DHCP that is gone; 18: a DHCP process whose bridge is gone
    chain = f"{prefix(TABLE)}tzzzzzzzzzzz"
    nft(f"add chain bridge {TABLE} {chain}")
    planted.add(("chain", chain))
    gone, alive = an_id("network", 3), an_id("network", 4)
    (node.place / "network" / f"{gone}.conf").write_text("port=0\n")
    (node.place / "network" / f"{gone}.leases").write_text("")
    planted.add(("dhcp", gone))
    from nubila.drivers.detached import Detached

    Detached(node.place / "network" / f"{alive}.process").start(["/bin/sleep", "600"], node.place / "out")
    planted.add(("dhcp", alive))
    # 19: a directory with a seed and a socket; 20: a QEMU that libvirt does not know
    lone = an_id("vm", 5)
    room = node.rooms.ensure(lone)
    (room.path / "seed.iso").write_bytes(b"seed")
    (room.path / "vnc.sock").touch()
    planted.add(("directory", lone))
    qemu = subprocess.Popen(
        ["qemu-system-x86_64", "-name", f"guest={lone}.e1,debug-threads=on", "-machine", "q35", "-nodefaults", "-S",
         "-display", "none", "-pidfile", str(room.path / "pid")],
        user=room.uid, group=room.gid, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return planted, qemu


def foreign(node: Node, place: Path) -> tuple[list[Path], set[tuple[str, str]], list[subprocess.Popen[bytes]]]:
    """Twenty things of others: files, what is shown of them, and processes."""
    files = [
        node.place / "disks" / "volumes" / "notes.txt", node.place / "disks" / "volumes" / "vol-1.vmdk",
        node.place / "disks" / "volumes" / "backup.qcow2.old", node.place / "disks" / "images" / "README",
        node.place / "disks" / "lost+found.txt", node.place / "network" / "mine.conf",
        node.place / "network" / "networks" / "mine.txt", node.place / "network" / "ports" / "port-1.json.bak",
        node.place / "vms" / "notes", node.place / "libvirt" / "log" / "qemu" / "their-vm.log",
        node.place / "libvirt" / "log" / "console" / "README", node.place / "vms" / "not-a-vm" / "disk.img",
    ]  # fmt: skip
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_text("theirs")
    their_name = f"{prefix(TABLE)}b-theirs"
    sh("ip", "link", "add", their_name, "type", "bridge")
    sh("ip", "link", "add", "br-other", "type", "bridge")
    nft(f"add table ip {TABLE}")
    nft("add table inet other")
    nft(f"add chain bridge {TABLE} mine")
    connection = node.hypervisor.session.open()
    connection.defineXML(
        "<domain type='qemu'><name>theirs</name><memory unit='MiB'>16</memory>"
        "<os><type arch='x86_64'>hvm</type></os></domain>"
    )
    shown = {
        ("link", their_name), ("domain", "theirs"), ("table", f"ip {TABLE}"), ("chain", f"bridge {TABLE} mine"),
        ("file", "volumes/notes.txt"), ("file", "volumes/vol-1.vmdk"), ("file", "images/README"),
        ("file", "lost+found.txt"), ("file", "network/mine.conf"), ("file", "libvirt/log/qemu/their-vm.log"),
    }  # fmt: skip
    work = place / "theirs"
    work.mkdir()
    processes = [
        subprocess.Popen(
            ["qemu-system-x86_64", "-name", "guest=theirs.e1", "-nodefaults", "-S", "-display", "none"],
            stdin=subprocess.DEVNULL,
        ),
        subprocess.Popen(["/bin/sleep", "601"], cwd=node.place, stdin=subprocess.DEVNULL),
    ]  # fmt: skip
    return files, shown, processes


def seen_foreign(node: Node) -> set[tuple[str, str]]:
    named = {
        *(("domain", n) for n in node.hypervisor.observe().foreign),
        *(("link", n) for n in node.network.observe().foreign),
        *(("file", n) for n in node.storage.observe().foreign),
    }
    scans = (node.hypervisor.scan(), node.network.scan(), node.storage.scan())
    return named | {f for scan in scans for f in scan.foreign}


def test_each_of_twenty_leftovers_is_found_and_none_of_twenty_foreign_things_is_touched(
    node: Node, place: Path
) -> None:
    living = Living(node)
    assert node.look() == set()
    planted, qemu = leftovers(node, living)
    files, shown, processes = foreign(node, place)
    try:
        found = wait_for(lambda: (f := node.look()) and any(k == "process" for k, _ in f) and f)
        assert {t for t in found if t[0] != "process"} == planted
        (process,) = [name for kind, name in found if kind == "process"]
        assert process.split(".")[0] == str(qemu.pid)
        assert len(found) == 21
        assert {kind for kind, _ in found} == set(garbage.ORDER) - CONTAINERS  # of every kind that there is
        assert shown <= seen_foreign(node)
        for _ in range(4):  # a network goes once its ports are gone
            node.sweep()
        assert node.look() == set()
        assert qemu.wait(10) == -signal.SIGKILL
        assert len(files) + len(THEIRS) + len(processes) == 20
        assert all(f.read_text() == "theirs" for f in files)
        assert shown <= seen_foreign(node)
        assert all(p.poll() is None for p in processes)
        rules = tables()
        assert f"table ip {TABLE}" in rules
        assert "table inet other" in rules
        assert "chain mine" in rules
        assert socket.if_nametoindex("br-other")
        ours = node.hypervisor.observe()
        assert [(d.vm_id, d.running) for d in ours.domains] == [(an_id("vm", 1), True)]
        assert [p.up for p in node.network.observe().ports] == [True]
        assert node.network.observe().groups == (an_id("security_group", 1),)
    finally:
        for p in (qemu, *processes):
            p.kill()
            p.wait()
        node.hypervisor.session.open().lookupByName("theirs").undefine()
        os.sync()


def test_what_a_wish_still_has_is_nobodys_garbage(node: Node) -> None:
    """Mutant: without asking the wishes, a leftover of a living VM, as its console, would go."""
    Living(node)
    scans = node.hypervisor.scan().leftovers
    assert {(left.kind, left.owner) for left in scans} == {("console", an_id("vm", 1)), ("log", an_id("vm", 1))}
    assert node.look() == set()
    node.known["domain"].clear()
    node.known["directory"].clear()
    assert ("console", f"{an_id('vm', 1)}.log") in node.look()


def test_nothing_young_is_removed(node: Node) -> None:
    """Mutant: without the grace, a file that is being made would be taken away."""
    node.storage.observe()
    half = node.place / "disks" / "tmp" / "tmphalf"
    half.write_bytes(b"half")
    node._observe()
    start = time.monotonic()
    node.sweeper.sweep(node.known, start)
    node.sweeper.sweep(node.known, start + garbage.GRACE_S["temporary"] - 1)
    assert half.exists()
    with half.open("rb"):  # somebody works on it
        assert node.storage.scan().leftovers == ()
