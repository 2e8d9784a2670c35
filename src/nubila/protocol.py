"""The internal API's messages between the control plane and a node's agent, versioned.

Both sides ignore fields they do not know, so that agents one version older or newer are served. Objects are always sent
whole. `epoch` stands in world names; `generation` never does.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from nubila.model import node
from nubila.model.fields import Name

VERSION = 1

Count = Annotated[int, Meta(ge=0, le=1 << 53)]  # what only ever grows


class Wire(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all messages: unknown fields are ignored."""


class Enrol(Wire, frozen=True):
    token: str
    csr_pem: str
    fqdn: str


class Enrolled(Wire, frozen=True):
    node_id: str
    region: str  # installation id
    certificate_pem: str
    ca_pem: str


class Renew(Wire, frozen=True):
    csr_pem: str


class Hello(Wire, frozen=True):
    """Opens a session: one start of one agent. A newer session shuts out the older one."""

    protocol: int
    agent_version: str
    fqdn: str
    boot_id: str
    kernel: str
    cores: Annotated[int, Meta(ge=0, le=1 << 20)]
    memory_mib: Annotated[int, Meta(ge=0, le=1 << 40)]
    disk_gib: Annotated[int, Meta(ge=0, le=1 << 40)]
    virt_methods: Annotated[tuple[Name, ...], Meta(max_length=64)]
    drivers: dict[str, dict[str, dict[str, Any]]]
    ranges: Annotated[tuple[str, ...], Meta(max_length=4096)] = ()  # that the machine itself has addresses or routes in
    machine_id: Annotated[str, Meta(max_length=64)] = ""  # the same at each start on one machine, and on no other
    address: Annotated[str, Meta(max_length=50)] = ""  # by which it reaches the control plane
    links: Annotated[tuple[node.Link, ...], Meta(max_length=1024)] = ()
    disks: Annotated[tuple[node.Disk, ...], Meta(max_length=4096)] = ()


class Welcome(Wire, frozen=True):
    session: int
    fabric_epoch: int
    region: str
    zone: str = "default"


class Disk(Wire, frozen=True):
    """A volume as its node sees it, with the attachment that licenses the vm to write it."""

    volume_id: str
    attachment_id: str
    epoch: int
    index: int  # 0 is the boot disk
    driver: str
    format: str
    size_gib: int
    cache: str = "default"
    read_iops: int = 0
    write_iops: int = 0
    read_bytes: int = 0
    write_bytes: int = 0
    image_id: str | None = None
    image_sha256: str | None = None
    image_format: str | None = None
    read_iops_burst: int = 0
    write_iops_burst: int = 0
    read_bytes_burst: int = 0
    write_bytes_burst: int = 0
    burst_s: int = 1
    generation: int = 0  # of the volume's wish
    made: bool = False  # it was there before: when it is missing, it is not made anew
    stays: bool = False  # it outlives its vm


class SubnetView(Wire, frozen=True):
    subnet_id: str
    cidr: str
    gateway: str
    dns: tuple[str, ...] = ()


class NetworkView(Wire, frozen=True):
    network_id: str
    name: str
    driver: str
    mtu: int
    nat: bool
    subnets: tuple[SubnetView, ...]


class GroupRule(Wire, frozen=True):
    """What a security group lets in or out; `cidr` or `group` says to or from whom, else it is anywhere."""

    direction: Literal["in", "out"]
    protocol: Literal["any", "tcp", "udp", "icmp"] = "any"
    port_min: int | None = None
    port_max: int | None = None
    cidr: str | None = None
    group: str | None = None
    family: Literal[4, 6] | None = None


class Group(Wire, frozen=True):
    """A security group that a port of the node is in, with the addresses of the groups that its rules name."""

    group_id: str
    rules: tuple[GroupRule, ...] = ()
    members: dict[str, tuple[str, ...]] = {}


class Nic(Wire, frozen=True):
    port_id: str
    epoch: int
    index: int
    mac: str
    network: NetworkView
    addresses: tuple[str, ...]  # without prefix length
    groups: tuple[str, ...] | None = None  # None: the control plane does not know of groups
    in_kbit: int = 0  # 0: no limit
    out_kbit: int = 0
    burst_kib: int = 0
    leaving: tuple[str, ...] = ()  # addresses that it shall not have any more: the report of this wish is the proof
    gone: bool = False  # wished removed: the node's word that it is gone is the proof


class Media(Wire, frozen=True):
    """An ISO in a vm's drive."""

    image_id: str
    sha256: str


class Vm(Wire, frozen=True):
    """All that a node needs to run one vm. `gone` wishes it and its disks removed."""

    vm_id: str
    name: str
    epoch: int
    generation: int
    project_id: str
    gone: bool = False
    power: str = "on"
    stop_mode: str = "clean"
    stop_timeout_s: float = 60.0
    starts: int = 1
    reboots: int = 0
    reboot_timeout_s: float = 60.0
    repairs: int = 0
    resets: int = 0
    suspended: bool = False
    on_crash: str = "restart"
    virt_method: str = "qemu"
    cores: int = 1
    memory_mib: int = 256
    cores_max: int = 0
    media: Media | None = None
    boot: tuple[str, ...] = ("disk",)
    hostname: str = ""
    image_id: str = ""
    flavor: str = ""
    boot_string: str = ""
    user_data: str | None = None
    keys: tuple[str, ...] = ()
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()
    leaving: tuple[Disk, ...] = ()  # to be let go of: the node's word that it has is the proof

    @property
    def wired(self) -> tuple[Nic, ...]:
        """The interfaces that it shall have, in order."""
        return tuple(sorted([n for n in self.nics if not n.gone], key=lambda n: n.index))

    @property
    def unwired(self) -> tuple[Nic, ...]:
        """Those that it shall lose."""
        return tuple(n for n in self.nics if n.gone)


class Snapshot(Wire, frozen=True):
    snapshot_id: str
    gone: bool = False


class Export(Wire, frozen=True):
    """The volume's bytes are to become an image: sent to the image store, in that format."""

    image_id: str
    format: str


class Volume(Wire, frozen=True):
    """A volume's own life on its node, whoever holds it. `gone` wishes it removed."""

    volume_id: str
    project_id: str
    generation: int
    epoch: int  # of its newest attachment
    disk: Disk
    vm_id: str | None = None  # its holder, when that is a vm
    source_volume_id: str | None = None  # made as a copy of that one
    source_format: str = "qcow2"
    snapshots: tuple[Snapshot, ...] = ()
    rollbacks: int = 0
    rollback_to: str | None = None
    exports: tuple[Export, ...] = ()
    gone: bool = False


class Question(Wire, frozen=True):
    """Something a person waits for that only the node can answer; it may be lost, then it is asked again."""

    question_id: str
    about: str  # 'console'
    vm_id: str
    max_bytes: int = 65536


class Seal(Wire, frozen=True, order=True):
    """The newest seal of the change log: who has seen it can tell later whether it is still there."""

    fabric_epoch: int = 0
    block: int = 0
    hash: str = ""

    def __str__(self) -> str:
        return f"{self.fabric_epoch}.{self.block}.{self.hash}"

    def after(self, seen: Seal | None) -> Seal:
        """The one to keep: the newer, and of two for one block the one that was seen first."""
        newer = seen is not None and (seen.fabric_epoch, seen.block) > (self.fabric_epoch, self.block)
        return seen if newer and seen is not None else self


class Wanted(Wire, frozen=True):
    """Answer to `GET /internal/v1/wanted?since=`: what changed for this node after `since`, whole per object."""

    region: str
    fabric_epoch: int
    timeline: int
    session: int
    revision: int
    vms: tuple[Vm, ...] = ()
    volumes: tuple[Volume, ...] = ()
    groups: tuple[Group, ...] = ()
    questions: tuple[Question, ...] = ()
    seal: Seal | None = None
    full: bool = False  # every object of the node is in this answer: what is not, is not wanted


class DiskReport(Wire, frozen=True):
    """A disk as its vm has it."""

    volume_id: str
    epoch: Count
    held: bool = False  # its vm writes it under that epoch, or would when started
    generation: Count = 0  # newest wish for the volume whose limits it runs with
    cache: str | None = None  # as it runs now
    reason: str | None = None  # what keeps it from being plugged in or out


class PortReport(Wire, frozen=True):
    """A port as its vm has it."""

    port_id: str
    epoch: Count
    held: bool = False  # its rules are as wished and its vm has it, or would when started; no more than was wished
    reason: str | None = None  # what keeps it from being plugged in or out


class VmReport(Wire, frozen=True):
    vm_id: str
    epoch: Count
    generation: Count  # of the wish that this reports on
    power: Literal["on", "off"]
    starts: Count = 0
    reboots: Count = 0
    repairs: Count = 0
    resets: Count = 0
    paused: str | None = None
    gone: bool = False
    since: str | None = None
    doing: str | None = None
    progress: float | None = None
    reason: str | None = None
    failing: bool = False
    last_crash: str | None = None
    cores: Count | None = None
    cores_max: Count | None = None
    memory_mib: Count | None = None
    memory_max_mib: Count | None = None
    media: str | None = None
    at_next_start: tuple[str, ...] = ()
    addressed_at: str | None = None
    metadata_at: str | None = None
    guest_agent: bool = False
    disks_ready: tuple[str, ...] = ()  # volume ids present on this node
    ports_active: tuple[str, ...] = ()
    ports: tuple[PortReport, ...] = ()
    ports_gone: tuple[PortReport, ...] = ()  # of those wished removed: gone from the vm, and their taps are no more
    disks: tuple[DiskReport, ...] = ()
    released: tuple[DiskReport, ...] = ()  # of `Vm.leaving`: gone from the vm, and nobody has the file open


class ExportReport(Wire, frozen=True):
    """How far an image's content is; that it is whole, the image store knows by itself."""

    image_id: str
    doing: str | None = None
    progress: float | None = None
    reason: str | None = None
    hopeless: bool = False  # trying again does not help


class VolumeReport(Wire, frozen=True):
    volume_id: str
    epoch: Count
    generation: Count
    ready: bool = False
    gone: bool = False
    size_gib: Count | None = None
    snapshots: tuple[str, ...] = ()  # those that are there
    rollbacks: Count = 0
    settled: bool = False  # nothing of this wish is left to do
    doing: str | None = None
    progress: float | None = None
    reason: str | None = None
    failing: bool = False
    exports: tuple[ExportReport, ...] = ()


Shown = Annotated[str, Meta(max_length=1000)]


class Drift(Wire, frozen=True):
    """A field in which the node differs from what it is wished to be; see `model/drift.py` for the causes."""

    kind: Annotated[str, Meta(max_length=40)]
    thing: Shown
    field: Annotated[str, Meta(max_length=300)]
    wished: Shown
    observed: Shown
    cause: Literal["changed-outside", "next-start", "missing", "foreign", "orphan"]
    vm_id: str | None = None


class Reports(Wire, frozen=True):
    session: int
    fabric_epoch: int
    revision: int  # newest `Wanted.revision` that this node has
    vms: tuple[VmReport, ...] = ()
    volumes: tuple[VolumeReport, ...] = ()
    foreign: tuple[str, ...] = ()  # what was found and is not ours, for showing only
    drifts: Annotated[tuple[Drift, ...], Meta(max_length=1024)] | None = None  # all of them; None: as last time


class Reported(Wire, frozen=True):
    """Which reports were taken, and which were refused as older than what is known."""

    taken: int
    refused: tuple[str, ...] = ()


class Received(Wire, frozen=True):
    """What has come of an image's content."""

    received_bytes: Count


class Answer(Wire, frozen=True):
    session: int
    text: str = ""
    error: str | None = None
