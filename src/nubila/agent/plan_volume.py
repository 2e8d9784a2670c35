"""What to do next for one volume. PURE: called by its lane with what is known, decides, and touches nothing.

All of it on a fresh answer only. Whether a running vm has the volume open is not asked here: the hands find that out
under the volume's lock, and go through that vm then.
"""

from __future__ import annotations

import msgspec

from nubila.drivers.storage.base import Found
from nubila.protocol import Volume


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Kept on disk, so that what was lost is never silently made anew."""

    made: bool = False
    snapshots: tuple[str, ...] = ()  # that were taken
    rollbacks: int = 0  # newest that was done
    gone: bool = False


class Step(msgspec.Struct, frozen=True):
    """Base of all steps."""


class FetchImage(Step, frozen=True):
    image_id: str
    sha256: str


class Make(Step, frozen=True):
    pass


class Copy(Step, frozen=True):
    source_volume_id: str


class RollBack(Step, frozen=True):
    snapshot_id: str
    number: int


class Grow(Step, frozen=True):
    size_gib: int


class TakeSnapshot(Step, frozen=True):
    snapshot_id: str


class DropSnapshot(Step, frozen=True):
    snapshot_id: str


class Remove(Step, frozen=True):
    pass


class Look(Step, frozen=True):
    """It was made, perhaps by its vm's lane, and nobody has looked since whether it is here."""


class Blocked(Step, frozen=True):
    """What is wished cannot be done, and repeating does not help."""

    reason: str


def plan(
    wanted: Volume, found: Found | None, record: Record, images: set[str], *, fresh: bool, looked: bool = True
) -> Step | None:
    """The next step; None when the volume is as wished, or may not be touched now. `looked`: a look that began after the
    volume became this lane's business is over."""
    if not fresh:
        return None
    if wanted.gone:
        return None if record.gone else Remove()
    if found is None:
        return _make(wanted, record, images, looked)
    if record.rollbacks < wanted.rollbacks and wanted.rollback_to is not None:
        return RollBack(wanted.rollback_to, wanted.rollbacks)
    if found.size_gib < wanted.disk.size_gib:
        return Grow(wanted.disk.size_gib)
    for s in wanted.snapshots:
        here = s.snapshot_id in found.snapshots
        if s.gone and here:
            return DropSnapshot(s.snapshot_id)
        if not s.gone and not here:
            if s.snapshot_id in record.snapshots:
                return Blocked(
                    f"{s.snapshot_id} was here and is missing; it is not taken anew: it would be another one"
                )
            return TakeSnapshot(s.snapshot_id)
    return None


def _make(wanted: Volume, record: Record, images: set[str], looked: bool) -> Step:
    disk = wanted.disk
    if (record.made or disk.made) and not looked:
        return Look()
    if record.made or disk.made:
        return Blocked(
            f"{wanted.volume_id} was here and is missing on this node; it is not made anew, so that no loss is hidden"
        )
    if wanted.source_volume_id is not None:
        return Copy(wanted.source_volume_id)
    if disk.image_sha256 and disk.image_sha256 not in images:
        return FetchImage(disk.image_id or "", disk.image_sha256)
    return Make()


def learn(record: Record, step: Step) -> Record:
    """What is kept once a step was done."""
    match step:
        case Make() | Copy():
            return msgspec.structs.replace(record, made=True)
        case TakeSnapshot(snapshot_id) if snapshot_id not in record.snapshots:
            return msgspec.structs.replace(record, snapshots=(*record.snapshots, snapshot_id))
        case DropSnapshot(snapshot_id):
            return msgspec.structs.replace(record, snapshots=tuple(s for s in record.snapshots if s != snapshot_id))
        case RollBack(_, number):
            return msgspec.structs.replace(record, rollbacks=number)
        case Remove():
            return msgspec.structs.replace(record, gone=True)
        case _:
            return record


def pending(wanted: Volume, record: Record) -> str | None:
    """Why a vm must not open the volume now, or None."""
    if not wanted.gone and record.rollbacks < wanted.rollbacks:
        return f"{wanted.volume_id} is about to be rolled back"
    return None


# What a person sees while it is done.
DOING: dict[type[Step], str] = {
    FetchImage: "fetching the image",
    Make: "making the volume",
    Copy: "copying the volume",
    RollBack: "rolling the volume back",
    Grow: "enlarging the volume",
    TakeSnapshot: "taking the snapshot",
    DropSnapshot: "removing the snapshot",
    Remove: "removing the volume",
}
DEADLINE_S: dict[type[Step], float] = {Copy: 7200.0, Make: 3600.0, RollBack: 600.0, DropSnapshot: 600.0}
