"""The contract of a storage driver: it makes and removes volumes of one pool on this machine, and keeps images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol

import msgspec

from nubila.drivers import Leftover, Scan


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    formats: tuple[str, ...]
    cache_modes: tuple[str, ...]
    io_limits: bool = True
    copy_on_write: bool = True  # volumes from images without copying
    shared: bool = False  # other nodes reach the same bytes; False: VMs on it are `ha: none`
    snapshot_formats: tuple[str, ...] = ()  # formats that can keep snapshots inside
    resize: bool = False


class Options(msgspec.Struct, frozen=True, kw_only=True):
    directory: str
    reserve_gib: int = 1  # below this, new volumes are refused
    helper_uid: int | None = None  # as whom programs run that read what strangers made; None: as the agent


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    """A volume to have. World names carry the volume's id and the attachment's epoch where the backend can."""

    volume_id: str
    format: str
    size_gib: int
    uid: int  # who may write it
    gid: int
    image_sha256: str | None = None
    image_format: str | None = None


class Found(msgspec.Struct, frozen=True, kw_only=True):
    volume_id: str
    path: str
    format: str
    allocated_bytes: int
    size_gib: int = 0  # as a guest sees it
    snapshots: tuple[str, ...] = ()  # kept inside, by their ids


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    volumes: tuple[Found, ...] = ()
    images: tuple[str, ...] = ()  # sha256
    exports: tuple[str, ...] = ()  # whole ones, by their ids
    foreign: tuple[str, ...] = ()


Fetch = Callable[[Path], None]  # writes the image's bytes to that path, or raises


class Storage(Protocol):
    def capabilities(self) -> Capabilities: ...

    def scan(self) -> Scan:
        """What may be left of objects that are no more, and what is foreign beside them. Slower than `observe`."""

    def remove_leftover(self, leftover: Leftover) -> None:
        """Not there is a success."""

    def observe(self) -> Observed: ...

    def ensure_image(self, sha256: str, fetch: Fetch) -> None:
        """Have the image's bytes here, hash verified while no one can see a partial copy."""

    def image_path(self, sha256: str) -> str:
        """Where the bytes of an image that is here lie, readable by every vm and writable by none."""

    def ensure_volume(self, volume: Volume) -> str:
        """Have the volume; returns its path. An existing volume's bytes are never touched."""

    def find(self, volume_id: str) -> Found | None:
        """The volume as it is now."""

    # Of the following none may be called while a hypervisor has the volume open: then it is the hypervisor's to do.

    def grow_volume(self, volume_id: str, size_gib: int) -> None:
        """Make it at least so large; never smaller. What is new reads as zeros."""

    def make_snapshot(self, volume_id: str, snapshot_id: str) -> None:
        """Keep the bytes of now under that id. One that is there stays as it is."""

    def remove_snapshot(self, volume_id: str, snapshot_id: str) -> None: ...

    def roll_back(self, volume_id: str, snapshot_id: str) -> None:
        """Bring a snapshot's bytes (and size) back; snapshots stay."""

    def copy_volume(self, source_id: str, volume: Volume) -> str:
        """Have the volume, with the bytes that the source has now; an existing one is never touched."""

    def begin_copy(self, volume: Volume) -> str:
        """A place, owned as the volume asks, into which a hypervisor writes a copy; it is no volume yet."""

    def end_copy(self, volume: Volume) -> str:
        """What was written into that place is the volume now."""

    def export_volume(self, source_id: str, export_id: str, format_: str) -> None:
        """Have the bytes that a volume has now as one file that stands alone; an export that is there is not touched."""

    def end_export(self, export_id: str, format_: str) -> None:
        """What a hypervisor wrote into the place of `begin_copy`, made for the export's id, is that export now."""

    def open_export(self, export_id: str) -> BinaryIO | None:
        """A whole export's bytes, which do not change any more; None when it is not there. The caller closes it."""

    def remove_export(self, export_id: str) -> None: ...

    def is_free(self, volume_id: str) -> bool:
        """Nobody has it open for writing, as far as its locks tell; one that is not there is free."""

    def disown_volume(self, volume_id: str) -> None:
        """No vm's user may open it any more."""

    def remove_volume(self, volume_id: str) -> None: ...

    def remove_image(self, sha256: str) -> None:
        """Only when no volume here is based on it; otherwise DriverError(again=True)."""

    def free_gib(self) -> int: ...
