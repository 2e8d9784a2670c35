"""The contract of a hypervisor driver: it defines, starts, stops and observes domains on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import Protocol

import msgspec

from nubila.drivers import Leftover, Scan


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What this driver can do here. The API refuses, with this as the reason, what is False."""

    virt_methods: tuple[str, ...]  # usable on this machine, best first: found by booting, not by looking
    reason: str = ""  # why there are none, or fewer than there could be
    clean_stop: bool = True  # by guest agent or ACPI
    guest_agent: bool = True
    console_log: bool = True
    max_cores: int = 64
    reset: bool = True
    suspend: bool = True  # stop its vCPUs and keep its memory
    crash: bool = True  # an end that the guest did not want is told from one that it did
    panic: bool = True  # a panic of the guest is seen, and its remains can be kept
    live_resize: bool = True  # cores and memory change while a domain runs
    media: bool = True  # a drive for ISOs, and booting from it
    more_disks: bool = True  # beside the root
    disk_hotplug: bool = True  # disks come, go and grow while a domain runs
    disk_limits: bool = True  # per second, and cache modes
    nic_hotplug: bool = True  # interfaces come and go while a domain runs
    live_snapshots: bool = True  # of qcow2 disks that a running domain writes
    live_copies: bool = True
    persistent: bool = True  # domains outlive the agent and the driver's own daemon


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Set by the operator."""

    console_log_max_bytes: int = 1 << 20
    call_deadline_s: float = 30.0


class DomainDisk(msgspec.Struct, frozen=True, kw_only=True):
    volume_id: str
    path: str
    format: str  # qcow2 | raw, always given, never probed
    cache: str = "default"
    read_iops: int = 0
    write_iops: int = 0
    read_bytes: int = 0
    write_bytes: int = 0
    read_iops_burst: int = 0
    write_iops_burst: int = 0
    read_bytes_burst: int = 0
    write_bytes_burst: int = 0
    burst_s: int = 1
    epoch: int = 1  # of the attachment that licenses the domain to write it
    index: int | None = None  # which disk it is; None: by its place in the list


class DomainNic(msgspec.Struct, frozen=True, kw_only=True):
    tap: str  # made beforehand by the network driver, owned by the domain's uid; or made by the domain, where it is a veth
    mac: str
    mtu: int
    bridge: str = ""  # that a veth is to be on


class Domain(msgspec.Struct, frozen=True, kw_only=True):
    """One domain to run. `directory` is its own (owner: its uid, 0700) and holds seed and sockets.

    The console log is the driver's and lies outside of it: root appends to it, and in a directory that QEMU's uid may
    change, a link could lead root's writes anywhere.
    """

    vm_id: str  # typed text
    uuid: str  # plain uuid: the guest sees it as its SMBIOS uuid
    epoch: int
    virt_method: str
    cores: int
    memory_mib: int
    directory: str
    uid: int
    gid: int
    disks: tuple[DomainDisk, ...]
    nics: tuple[DomainNic, ...]
    seed: str | None = None  # path of the NoCloud ISO; for a container, of a directory with its files
    serial_number: str = ""
    media: str | None = None  # path of the ISO in its drive, which is there in any case
    boot: tuple[str, ...] = ("disk",)  # disk | cdrom, in this order
    cores_max: int = 0  # up to so many can be plugged while it runs
    on_crash: str = "destroy"  # of its guest's kernel: destroy | preserve


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A disk that a running domain has open. `limits`: in the order of DomainDisk's fields, and the burst's length."""

    epoch: int
    limits: tuple[int, ...] = (0, 0, 0, 0, 0, 0, 0, 0, 1)
    cache: str = "default"


# what a tuple of limits holds, in its order
LIMITS = (
    "read_iops", "write_iops", "read_bytes", "write_bytes",
    "read_iops_burst", "write_iops_burst", "read_bytes_burst", "write_bytes_burst", "burst_s",
)  # fmt: skip


def limits_text(limits: tuple[int, ...]) -> str:
    """For people; '' where nothing is limited. How long a burst may last says nothing where there is none."""
    shown = zip(LIMITS, limits if any(limits[4:8]) else limits[:4], strict=False)
    return " ".join(f"{name}={value}" for name, value in shown if value)


def held(disk: DomainDisk) -> Held:
    bursts = (disk.read_iops_burst, disk.write_iops_burst, disk.read_bytes_burst, disk.write_bytes_burst)
    plain = (disk.read_iops, disk.write_iops, disk.read_bytes, disk.write_bytes)
    return Held(epoch=disk.epoch, limits=(*plain, *bursts, disk.burst_s if any(bursts) else 1), cache=disk.cache)


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A domain of ours as it is now."""

    vm_id: str
    epoch: int
    running: bool
    pid: int | None = None
    # of the last stop: 'guest-shutdown' | 'panicked' | 'crashed' | 'destroyed' | None when unknown
    reason: str | None = None
    paused: str | None = None  # running, but its vCPUs stand still: 'suspended' | 'panicked' | 'io-error' | 'other'
    # what it has now, while it runs; 0: not known
    cores: int = 0
    cores_max: int = 0
    memory_mib: int = 0
    memory_max_mib: int = 0  # what it was started with
    guest_agent: bool = False  # it can be asked by itself: its agent's channel is connected
    disks: dict[str, Held] | None = None  # by volume id, while it runs; None: not known
    nics: tuple[str, ...] | None = None  # MACs of its interfaces, while it runs; None: not known


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """What can be compared of a domain: as it is wished, as it is defined, as it runs. Lists are sorted."""

    cores: int
    memory_mib: int
    disks: tuple[str, ...]  # paths of what the guest may write
    nics: tuple[str, ...]  # MACs
    title: str = ""
    description: str = ""
    autostart: bool = False  # a domain is started by its agent alone
    media: str = ""  # path of the ISO in its drive
    boot: tuple[str, ...] = ("disk",)  # what it tries to boot from, in this order
    limits: tuple[tuple[str, str], ...] = ()  # (volume id, `limits_text`) of each disk that is limited


class Shaped(msgspec.Struct, frozen=True, kw_only=True):
    """A domain of ours as it stands in its definition, and as it runs."""

    vm_id: str
    epoch: int
    defined: Shape
    live: Shape | None = None


def shape_of(domain: Domain) -> Shape:
    """What a domain that is started from this has."""
    return Shape(
        cores=domain.cores,
        memory_mib=domain.memory_mib,
        disks=tuple(sorted(d.path for d in domain.disks)),
        nics=tuple(sorted(n.mac.lower() for n in domain.nics)),
        media=domain.media or "",
        boot=bootable(domain.boot, domain.disks),
        limits=limited({d.volume_id: held(d).limits for d in domain.disks}),
    )


def bootable(boot: tuple[str, ...], disks: Sized) -> tuple[str, ...]:
    """Of what it shall boot from, what there is: its drive is there in any case."""
    return tuple(b for b in boot if b != "disk" or disks)


def limited(limits: Mapping[str, tuple[int, ...]]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((volume_id, said) for volume_id, of in limits.items() if (said := limits_text(of))))


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    domains: tuple[Found, ...] = ()
    foreign: tuple[str, ...] = ()


class Hypervisor(Protocol):
    def capabilities(self) -> Capabilities: ...

    def scan(self) -> Scan:
        """What may be left of objects that are no more, and what is foreign beside them. Slower than `observe`."""

    def remove_leftover(self, leftover: Leftover) -> None:
        """Not there is a success."""

    def observe(self) -> Observed:
        """All domains of this installation, and the names of others', in bulk."""

    def shapes(self) -> tuple[Shaped, ...]:
        """The shapes of all domains of this installation; cheap while nothing changed."""

    def repair(self, domain: Domain) -> None:
        """Define it as wished; while it runs, take away what is not wished, plug cores and move its balloon within what
        it was started with, and change the medium in its drive. It is not stopped; what its guest
        does not give back stays until the next start."""

    def rewire(self, domain: Domain) -> None:
        """Have it hold the taps of its nics: an interface whose tap was removed and made anew is unplugged and plugged
        in again. Nothing to do for one that is off, or whose wires are whole."""

    def start(self, domain: Domain) -> None:
        """Define and run it. A domain of this vm with another epoch or definition is replaced; one that runs stays."""

    def ask_stop(self, vm_id: str, how: str) -> bool:
        """Ask the guest to power off, by 'agent' or 'acpi'. False: it could not even be asked that way."""

    def ask_reboot(self, vm_id: str, how: str) -> bool:
        """Have the guest reboot, by 'agent'; or force it, by 'reset'. True: it goes down. False: not that way."""

    def suspend(self, vm_id: str) -> None:
        """Stop its vCPUs; memory and devices stay. One that does not run, or stands still already, stays as it is."""

    def resume(self, vm_id: str) -> None:
        """Let its vCPUs go on after a suspend, or after a disk failed it: that request is done again. One that does not
        run, or runs already, stays as it is."""

    def destroy(self, vm_id: str) -> None:
        """Power off at once. The definition stays."""

    def remove(self, vm_id: str) -> None:
        """Power off at once and forget the definition. Not there is a success."""

    def read_console(self, vm_id: str, max_bytes: int) -> bytes:
        """The newest bytes that the guest wrote to its serial console; nothing yet is b''."""

    def attach_nic(self, vm_id: str, nic: DomainNic) -> None:
        """The running domain has the interface from now on, and its definition too. It has it already: a success.
        DriverError when it does not run."""

    def detach_nic(self, vm_id: str, mac: str) -> bool:
        """Out of the definition; and ask the guest to let go of it. True: it is gone from what runs, and what was never
        there or does not run is gone."""

    # On disks of a domain that runs; DriverError when it does not run or does not have that disk.

    def attach_disk(self, vm_id: str, disk: DomainDisk) -> None:
        """The running domain has it from now on. It has it already: a success."""

    def detach_disk(self, vm_id: str, volume_id: str) -> bool:
        """Ask the guest to let go of it. True: it is gone from the domain, and was never there is gone."""

    def tune_disk(self, vm_id: str, disk: DomainDisk) -> None:
        """Its limits hold from now on."""

    def resize_disk(self, vm_id: str, volume_id: str, size_gib: int) -> None:
        """The guest sees it that large; never smaller."""

    def snapshot_disk(self, vm_id: str, volume_id: str, snapshot_id: str) -> None:
        """Keep the bytes of one moment under that id. One that is there stays as it is."""

    def drop_disk_snapshot(self, vm_id: str, volume_id: str, snapshot_id: str) -> None: ...

    def copy_disk(self, vm_id: str, volume_id: str, target: str, format_: str) -> None:
        """Write the bytes of one moment into that file, which its user may write; comes back when all is there."""

    def close(self) -> None:
        """Let go of connections; domains run on."""
