"""Storage in memory: volumes and images are rows, no byte is written. Scriptable, cheap, adoptable after a restart."""

from __future__ import annotations

import hashlib
import io
import tempfile
from pathlib import Path
from typing import BinaryIO

import msgspec

from nubila.drivers import CapabilityMissing, DriverError
from nubila.drivers.script import Leftovers, Scanned, Script, Table
from nubila.drivers.storage import qcow2
from nubila.drivers.storage.base import Capabilities, Fetch, Found, Observed, Volume


class FakeVolume(msgspec.Struct, kw_only=True):
    volume_id: str
    format: str
    size_gib: int
    image_sha256: str | None = None
    uid: int = 0
    snapshots: tuple[str, ...] = ()
    content: str = ""  # what a test wrote there
    kept: dict[str, str] = {}  # snapshot -> content then


class FakeImage(msgspec.Struct, kw_only=True):
    sha256: str


class FakeExport(msgspec.Struct, kw_only=True):
    export_id: str
    format: str
    size_gib: int
    content: str


class StorageWorld:
    """The disks that the fake stands for."""

    def __init__(self, path: Path | None = None, size_gib: int = 1 << 20, root: str = "/nonexistent/fake"):
        beside = path.with_name(path.name + ".images") if path is not None else None
        self.volumes = Table(FakeVolume, path)
        self.images = Table(FakeImage, beside)
        self.exports = Table(FakeExport, None if path is None else path.with_name(path.name + ".exports"))
        self.script = Script()
        self.capabilities = Capabilities(
            formats=("qcow2", "raw"),
            cache_modes=("default", "none", "writeback"),
            snapshot_formats=("qcow2",),
            resize=True,
        )
        self.size_gib = size_gib
        self.used_gib = sum([v.size_gib for v in self.volumes.all()])
        self.root = root
        self.foreign: tuple[str, ...] = ()
        self.leftovers = Leftovers()
        self.open: set[str] = set()  # volumes that somebody writes
        self.copying: dict[str, tuple[str, int]] = {}  # place -> content, size in GiB
        self.fetches = True  # False: `ensure_image` calls no `fetch` (benchmarks)

    # What a hypervisor does to a volume that it has open.

    def grow(self, volume_id: str, size_gib: int) -> None:
        volume = self.volumes.get(volume_id)
        if volume is not None and size_gib > volume.size_gib:
            self.used_gib += size_gib - volume.size_gib
            self.put(volume, size_gib=size_gib)

    def keep(self, volume_id: str, snapshot_id: str) -> None:
        volume = self.volumes.get(volume_id)
        if volume is not None and snapshot_id not in volume.snapshots:
            kept = {**volume.kept, snapshot_id: volume.content}
            self.put(volume, snapshots=(*volume.snapshots, snapshot_id), kept=kept)

    def drop(self, volume_id: str, snapshot_id: str) -> None:
        volume = self.volumes.get(volume_id)
        if volume is not None:
            self.put(volume, snapshots=tuple([s for s in volume.snapshots if s != snapshot_id]))

    def copied(self, volume_id: str, target: str) -> None:
        volume = self.volumes.get(volume_id)
        self.copying[target] = ("", 1) if volume is None else (volume.content, volume.size_gib)

    def put(self, volume: FakeVolume, **changes: object) -> None:
        self.volumes.put(volume.volume_id, msgspec.structs.replace(volume, **changes))

    def where(self, volume: FakeVolume) -> str:
        return f"{self.root}/{volume.volume_id}.{volume.format}"


class FakeStorage(Scanned):
    """The driver over a StorageWorld. Full is full: volumes count with their whole size, as on a thick pool."""

    def __init__(self, world: StorageWorld | None = None):
        self.world = world or StorageWorld()
        self.script = self.world.script
        self.leftovers = self.world.leftovers

    def capabilities(self) -> Capabilities:
        return self.world.capabilities

    def observe(self) -> Observed:
        self.script.enter("observe")
        world = self.world
        volumes = tuple([_found(world, v) for v in world.volumes.all()])
        self.script.leave("observe")
        return Observed(
            volumes=volumes, images=tuple(world.images), exports=tuple(world.exports), foreign=world.foreign
        )

    def ensure_image(self, sha256: str, fetch: Fetch) -> None:
        self.script.enter("ensure_image")
        if sha256 not in self.world.images:
            if self.world.fetches:
                _fetch_and_verify(sha256, fetch)
            self.world.images.put(sha256, FakeImage(sha256=sha256))
        self.script.leave("ensure_image")

    def image_path(self, sha256: str) -> str:
        return f"/images/{sha256}"

    def ensure_volume(self, volume: Volume) -> str:
        self.script.enter("ensure_volume")
        world = self.world
        found = world.volumes.get(volume.volume_id)
        if found is None:
            if volume.format not in world.capabilities.formats:
                raise DriverError(f"this pool has no format {volume.format!r}", again=False)
            if volume.image_sha256 is not None and volume.image_sha256 not in world.images:
                raise DriverError("the volume's image is not on this node")
            if volume.size_gib > self.free_gib():
                raise DriverError("the pool is full")
            found = FakeVolume(
                volume_id=volume.volume_id,
                format=volume.format,
                size_gib=volume.size_gib,
                image_sha256=volume.image_sha256,
                uid=volume.uid,
            )
            world.volumes.put(volume.volume_id, found)
            world.used_gib += found.size_gib
        self.script.leave("ensure_volume")
        return world.where(found)

    def find(self, volume_id: str) -> Found | None:
        volume = self.world.volumes.get(volume_id)
        return None if volume is None else _found(self.world, volume)

    def grow_volume(self, volume_id: str, size_gib: int) -> None:
        self.script.enter("grow_volume")
        volume = self._writable(volume_id)
        more = size_gib - volume.size_gib
        if more > self.free_gib():
            raise DriverError("the pool is full")
        self.world.grow(volume_id, size_gib)
        self.script.leave("grow_volume")

    def make_snapshot(self, volume_id: str, snapshot_id: str) -> None:
        self.script.enter("make_snapshot")
        volume = self._writable(volume_id)
        if volume.format not in self.world.capabilities.snapshot_formats:
            raise CapabilityMissing(f"a {volume.format} volume cannot keep snapshots")
        if snapshot_id not in volume.snapshots:
            self.world.keep(volume_id, snapshot_id)
        self.script.leave("make_snapshot")

    def remove_snapshot(self, volume_id: str, snapshot_id: str) -> None:
        self.script.enter("remove_snapshot")
        self._writable(volume_id)
        self.world.drop(volume_id, snapshot_id)
        self.script.leave("remove_snapshot")

    def roll_back(self, volume_id: str, snapshot_id: str) -> None:
        self.script.enter("roll_back")
        volume = self._writable(volume_id)
        if snapshot_id not in volume.snapshots:
            raise DriverError("the volume has no such snapshot", again=False)
        self.world.put(volume, content=volume.kept.get(snapshot_id, ""))
        self.script.leave("roll_back")

    def copy_volume(self, source_id: str, volume: Volume) -> str:
        source = self._writable(source_id)
        if volume.volume_id not in self.world.volumes:
            self.ensure_volume(volume)
            self.world.put(self._writable(volume.volume_id), content=source.content)
        return self.world.where(self._writable(volume.volume_id))

    def begin_copy(self, volume: Volume) -> str:
        return f"{self.world.root}/copying/{volume.volume_id}"

    def end_copy(self, volume: Volume) -> str:
        path = self.ensure_volume(volume)
        content, _ = self.world.copying.pop(self.begin_copy(volume), ("", 0))
        self.world.put(self._writable(volume.volume_id), content=content)
        return path

    def export_volume(self, source_id: str, export_id: str, format_: str) -> None:
        self.script.enter("export_volume")
        if export_id not in self.world.exports:
            source = self._writable(source_id)
            self._keep_export(export_id, format_, source.content, source.size_gib)
        self.script.leave("export_volume")

    def end_export(self, export_id: str, format_: str) -> None:
        self.script.enter("end_export")
        place = f"{self.world.root}/copying/{export_id}"
        if export_id not in self.world.exports:
            if place not in self.world.copying:
                raise DriverError("nothing was copied there")
            self._keep_export(export_id, format_, *self.world.copying.pop(place))
        self.script.leave("end_export")

    def open_export(self, export_id: str) -> BinaryIO | None:
        found = self.world.exports.get(export_id)
        if found is None:
            return None
        head = qcow2.empty(found.size_gib << 30) if found.format == "qcow2" else b""
        return io.BytesIO(head + (found.content or "nothing was written").encode())

    def remove_export(self, export_id: str) -> None:
        self.script.enter("remove_export")
        self.world.exports.drop(export_id)
        self.world.copying.pop(f"{self.world.root}/copying/{export_id}", None)
        self.script.leave("remove_export")

    def _keep_export(self, export_id: str, format_: str, content: str, size_gib: int) -> None:
        if format_ not in self.world.capabilities.formats:
            raise DriverError(f"this pool has no format {format_!r}", again=False)
        self.world.exports.put(
            export_id, FakeExport(export_id=export_id, format=format_, size_gib=size_gib, content=content)
        )

    def is_free(self, volume_id: str) -> bool:
        return volume_id not in self.world.open

    def disown_volume(self, volume_id: str) -> None:
        volume = self.world.volumes.get(volume_id)
        if volume is not None:
            self.world.put(volume, uid=0)

    def _writable(self, volume_id: str) -> FakeVolume:
        volume = self.world.volumes.get(volume_id)
        if volume is None:
            raise DriverError("the volume is not here")
        if volume_id in self.world.open:
            raise DriverError("the volume is open elsewhere")
        return volume

    def remove_volume(self, volume_id: str) -> None:
        self.script.enter("remove_volume")
        found = self.world.volumes.get(volume_id)
        if found is not None:
            self.world.volumes.drop(volume_id)
            self.world.used_gib -= found.size_gib
        self.script.leave("remove_volume")

    def remove_image(self, sha256: str) -> None:
        self.script.enter("remove_image")
        if any(v.image_sha256 == sha256 for v in self.world.volumes.all()):
            raise DriverError("volumes are based on this image")
        self.world.images.drop(sha256)
        self.script.leave("remove_image")

    def free_gib(self) -> int:
        return self.world.size_gib - self.world.used_gib


def _fetch_and_verify(sha256: str, fetch: Fetch) -> None:
    with tempfile.TemporaryDirectory(prefix="fake-image-") as directory:
        path = Path(directory, "image")
        fetch(path)
        with path.open("rb") as file:
            got = hashlib.file_digest(file, "sha256").hexdigest()
    if got != sha256:
        raise DriverError(f"the image's bytes have the hash {got}, not {sha256}")


def _found(world: StorageWorld, v: FakeVolume) -> Found:
    return Found(
        volume_id=v.volume_id,
        path=world.where(v),
        format=v.format,
        allocated_bytes=0,
        size_gib=v.size_gib,
        snapshots=v.snapshots,
    )
