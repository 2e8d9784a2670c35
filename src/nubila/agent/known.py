"""What the agent knows of one vm: what is durable (Record), what the world shows (Facts), what this process did
(Trail).

`plan` and `account` decide on these alone. Times called `_s` are of the monotonic clock, and mean nothing after a
restart.
"""

from __future__ import annotations

import ipaddress

import msgspec

from nubila.drivers.hypervisor import base as hypervisor
from nubila.protocol import Disk, Nic


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Kept on disk. The counters are written before they are acted upon."""

    starts: int = 0  # newest start that was begun
    reboots: int = 0  # newest reboot that was begun
    rebooted: int = 0  # newest reboot that is known to have happened
    repairs: int = 0  # newest repair that was made
    resets: int = 0  # newest reset that was begun
    reset_done: int = 0  # newest reset that is known to have happened
    asked: bool = False  # its guest was told to end, and may do so still, also when that was withdrawn
    halted: int = 0  # the start after which it ended and stays down; 0: none
    media: str | None = None  # id of the image that was put into its drive
    halted_by: str = ""  # why: a key of `account.HALTED`
    last_crash: str | None = None
    made: tuple[str, ...] = ()  # volumes that were here when it was last started
    power: str = "off"
    since: str | None = None  # when that power state was first seen
    addressed_at: str | None = None
    metadata_at: str | None = None
    gone: bool = False  # all of it was removed


class Facts(msgspec.Struct, kw_only=True):
    """What was observed, or made by this process and not seen missing since."""

    seen: bool = False  # the hypervisor has been asked at least once, so that no domain means none
    domain: hypervisor.Found | None = None
    volumes: dict[str, str] = {}  # of the whole node: volume id -> path
    images: set[str] = set()  # of the whole node: sha256
    bridges: dict[str, str] = {}  # of the whole node: network id -> bridge, ensured by this process
    unwired: bool = False  # a tap was made or found since the running domain was last seen to hold all of its own
    taps: dict[str, str] = {}  # port and epoch -> tap, ensured by this process
    nics: dict[str, Nic] = {}  # of the whole node: port and epoch -> the wish that its tap was last made by
    released: set[str] = set()  # of `Vm.leaving`, by volume and epoch
    dropped: set[str] = set()  # of `Vm.unwired`, by port and epoch: no device and no tap is left of it

    @property
    def running(self) -> bool:
        return self.domain is not None and self.domain.running


class Ask(msgspec.Struct, frozen=True):
    """The guest was asked something. `ok` None: the call has not come back."""

    how: str
    at_s: float
    ok: bool | None = None


class Trail(msgspec.Struct, kw_only=True):
    """What this process did and saw of the vm."""

    asks: tuple[Ask, ...] = ()  # to stop, since the wish is to be off
    heeds_until_s: float | None = None  # till then a guest that goes down may do so for an ask that was withdrawn
    reboot: Ask | None = None  # one under way
    reset: Ask | None = None  # one under way
    disks: dict[str, Ask] = {}  # volume id -> the newest try to plug, unplug or limit it; `how` is a reason
    ports: dict[str, Ask] = {}  # port id -> likewise
    resumed_s: float | None = None  # when it was last let go on after a disk had failed it
    crashes: int = 0  # in a row
    started_s: float | None = None  # when this process started or first saw it running
    ended_s: float | None = None  # when it was seen to have ended by itself


def by_dhcp(nic: Nic) -> frozenset[str]:
    """The addresses that DHCP gives: of each IPv4 subnet the first. The guest sets the others itself."""
    found: dict[str, str] = {}
    for address in nic.addresses:
        value = ipaddress.ip_address(address)
        for subnet in nic.network.subnets:
            if value.version == 4 and value in ipaddress.ip_network(subnet.cidr):
                found.setdefault(subnet.cidr, address)
    return frozenset(found.values())


def port_key(nic: Nic) -> str:
    return f"{nic.port_id}.e{nic.epoch}"


def disk_key(disk: Disk) -> str:
    return f"{disk.volume_id}.e{disk.epoch}"


def boot_disk(disks: tuple[Disk, ...]) -> Disk | None:
    return min(disks, key=lambda d: d.index, default=None)
