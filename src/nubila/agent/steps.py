"""What can be done for one vm: the steps that `plan` decides on and `hands` carries out. Data only."""

from __future__ import annotations

import msgspec

from nubila.agent.known import Record
from nubila.protocol import Disk, NetworkView, Nic


class Step(msgspec.Struct, frozen=True):
    """Base of all steps."""


class Note(Step, frozen=True, kw_only=True, omit_defaults=True):
    """Write into the durable record; None leaves a field. What follows in the plan waits until it is on disk."""

    starts: int | None = None
    reboots: int | None = None
    rebooted: int | None = None
    repairs: int | None = None
    resets: int | None = None
    reset_done: int | None = None
    asked: bool | None = None
    halted: int | None = None
    halted_by: str | None = None
    gone: bool | None = None


class Image(Step, frozen=True):
    image_id: str
    sha256: str


class Volume(Step, frozen=True):
    disk: Disk


class Plug(Step, frozen=True):
    """Give it to the running vm. Answers with the reason why it could not be done, or None."""

    disk: Disk


class Unplug(Step, frozen=True):
    """Ask the running vm's guest to let go of it. Answers whether it did, or with the reason why not."""

    disk: Disk


class Tune(Step, frozen=True):
    disk: Disk


class Release(Step, frozen=True):
    """Nobody has it open, and under this epoch nobody here will."""

    disk: Disk


class Network(Step, frozen=True):
    network: NetworkView


class Port(Step, frozen=True):
    nic: Nic


class PlugPort(Step, frozen=True):
    """Give the running vm the interface. Answers with the reason why it could not be done, or None."""

    nic: Nic


class DropPort(Step, frozen=True):
    """Take the interface from its vm, and then its wire away. Answers with the reason why it stays, or None."""

    nic: Nic


class Seed(Step, frozen=True):
    pass


class Start(Step, frozen=True):
    pass


class Rewire(Step, frozen=True):
    """Have the running domain hold its taps again: one that was removed is lost to it, though it was made anew."""


class Repair(Step, frozen=True):
    """Define the domain as wished, and take away what somebody added while it ran."""


class AskStop(Step, frozen=True):
    how: str  # agent | acpi


class AskReboot(Step, frozen=True):
    how: str  # agent | reset


class Rebooted(Step, frozen=True):
    """The reboot under way was seen to have happened; it is over."""


class Reset(Step, frozen=True):
    pass


class Suspend(Step, frozen=True):
    pass


class Resume(Step, frozen=True):
    pass


class Destroy(Step, frozen=True):
    pass


class RemoveDomain(Step, frozen=True):
    pass


class RemovePort(Step, frozen=True):
    nic: Nic


class RemoveVolume(Step, frozen=True):
    volume_id: str


class RemoveDirectory(Step, frozen=True):
    pass


class Wait(Step, frozen=True):
    """Nothing to do before that time, unless something changes."""

    until_s: float


class Blocked(Step, frozen=True):
    """What is wished cannot be done, and repeating does not help."""

    reason: str


def apply_note(record: Record, note: Note) -> Record:
    changes = {f: v for f in note.__struct_fields__ if (v := getattr(note, f)) is not None}
    return msgspec.structs.replace(record, **changes)


# How the steps of one plan may run side by side: tracks of one group are independent of each other.
TRACKS: dict[type[Step], str] = {Volume: "disk", Network: "wire", Port: "wire", Seed: "disk"}

# What a person sees while it is done.
DOING: dict[type[Step], str] = {
    Image: "fetching the image",
    Volume: "making the volume",
    Plug: "attaching the volume",
    Unplug: "detaching the volume",
    Tune: "limiting the volume",
    Release: "letting go of the volume",
    Network: "making the network",
    Port: "making the port",
    PlugPort: "plugging the port in",
    DropPort: "removing the port",
    Seed: "writing the seed",
    Start: "starting",
    Rewire: "plugging its interfaces in again",
    Repair: "making its definition as wished",
    AskStop: "asking the guest to stop",
    AskReboot: "rebooting",
    Reset: "resetting",
    Suspend: "suspending",
    Resume: "resuming",
    Destroy: "stopping",
    RemoveDomain: "removing the domain",
    RemovePort: "removing the port",
    RemoveVolume: "removing the volume",
    RemoveDirectory: "removing its files",
}
