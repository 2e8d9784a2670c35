"""Archives of root file systems: what our own reader lets pass, and that nothing in one leads the host anywhere (A31)."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nubila.drivers import DriverError
from nubila.drivers.image_store import tar
from nubila.drivers.image_store.header import HEAD_BYTES, BadImage, inspect
from nubila.drivers.storage import tree

SIZE_BYTES = 64 << 20
KINDS = {"file": tarfile.REGTYPE, "directory": tarfile.DIRTYPE, "link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE}
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def put(archive: tarfile.TarFile, name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **more: Any) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.size, member.mode = kind, len(data), 0o755
    member.uid, member.gid = os.getuid(), os.getgid()
    for field, value in more.items():
        setattr(member, field, value)
    archive.addfile(member, io.BytesIO(data))


def archive(*more: tuple[str, dict[str, Any]], format_: str = "pax") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=FORMATS[format_]) as made:
        put(made, "./", tarfile.DIRTYPE)
        put(made, "./sbin/init", data=b"#!/bin/sh\n")
        for name, fields in more:
            put(made, name, **fields)
    return packed.getvalue()


def fill(place: Path, packed: bytes, size: int = SIZE_BYTES) -> Path:
    (place / "root.tar").write_bytes(packed)
    disk = place / "disk.raw"
    disk.write_bytes(b"")
    tree.fill(place / "root.tar", disk, size, place / "tree")
    return disk


def inside(disk: Path, request: str) -> str:
    """What e2fsprogs says of the file system, which nobody mounted."""
    return subprocess.run(
        ["/sbin/debugfs", "-R", request, str(disk)], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize("format_", FORMATS)
def test_files_links_modes_and_long_names_arrive(tmp_path: Path, format_: str) -> None:
    long = "usr/share/" + "/".join(["d" * 60] * (2 if format_ == "ustar" else 4)) + "/" + "f" * 90
    more: list[tuple[str, dict[str, Any]]] = [
        (long, {"data": b"far"}), ("bin/su", {"data": b"abc", "mode": 0o4755}), ("etc", {"kind": tarfile.DIRTYPE}),
        ("etc/mtab", {"kind": tarfile.SYMTYPE, "linkname": "/proc/mounts"}),
        ("bin/up", {"kind": tarfile.SYMTYPE, "linkname": "../sbin/init"}),
        ("bin/same", {"kind": tarfile.LNKTYPE, "linkname": "./sbin/init"}), ("bin/su", {"data": b"abcd", "mode": 0o4755}),
    ]  # fmt: skip
    disk = fill(tmp_path, archive(*more, format_=format_))
    assert inside(disk, f"cat /{long}") == "far"
    assert inside(disk, "cat /bin/same") == inside(disk, "cat /sbin/init") == "#!/bin/sh\n"
    assert "Mode:  04755" in inside(disk, "stat /bin/su")
    assert "Size: 4" in inside(disk, "stat /bin/su")  # the later of two
    assert '"/proc/mounts"' in inside(disk, "stat /etc/mtab")
    assert subprocess.run(["/sbin/e2fsck", "-fn", str(disk)], capture_output=True, check=False).returncode == 0
    assert not (tmp_path / "tree").exists()


EVIL: dict[str, tuple[str, dict[str, Any], str]] = {
    "absolute": ("/etc/evil", {}, "absolute"),
    "dots": ("a/../../evil", {}, "out of the root"),
    "dots alone": ("..", {"kind": tarfile.DIRTYPE}, "out of the root"),
    "character device": ("dev/null", {"kind": tarfile.CHRTYPE}, "character device"),
    "block device": ("dev/sda", {"kind": tarfile.BLKTYPE}, "block device"),
    "pipe": ("run/pipe", {"kind": tarfile.FIFOTYPE}, "named pipe"),
    "link out": ("a/b", {"kind": tarfile.SYMTYPE, "linkname": "../../etc"}, "out of the root"),
    "empty link": ("a", {"kind": tarfile.SYMTYPE, "linkname": ""}, "nowhere"),
    "hard link out": ("h", {"kind": tarfile.LNKTYPE, "linkname": "/etc/passwd"}, "absolute"),
    "hard link up": ("h", {"kind": tarfile.LNKTYPE, "linkname": "../../etc/passwd"}, "out of the root"),
    "hard link to nothing": ("h", {"kind": tarfile.LNKTYPE, "linkname": "missing"}, "no file"),
    "foreign user": ("f", {"uid": 70_000}, "user 70000"),
    "too deep": ("/".join("a" * 120), {}, "absolute|too long"),
    "long name": ("n" * 300, {}, "too long"),
    "unknown kind": ("x", {"kind": b"Z"}, "not known"),
    "file and directory": ("sbin", {}, "directory and something else"),
    "file as a way": ("sbin/init/x", {}, "through a link or a file"),
    "larger than the volume": ("big", {"data": bytes(SIZE_BYTES + 1)}, "more than"),
}


@pytest.mark.parametrize("what", EVIL)
def test_evil_archives_are_refused_in_words(tmp_path: Path, what: str) -> None:
    name, fields, words = EVIL[what]
    with pytest.raises(DriverError, match=words) as error:
        fill(tmp_path, archive((name, fields)))
    assert not error.value.again
    assert not (tmp_path / "tree").exists()
    fill(tmp_path, archive(("fine", {})))  # the same without it passes


def test_an_archive_without_an_init_is_told(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as made:
        put(made, "bin/sh", data=b"x")
    with pytest.raises(DriverError, match="/sbin/init"):
        fill(tmp_path, packed.getvalue())


def test_damaged_and_lying_archives_are_refused(tmp_path: Path) -> None:
    good = archive(("f", {"data": b"x" * 5000}))
    assert tar.begins(good)
    lying = bytearray(archive(("f" * 200, {}), format_="gnu"))
    at = lying.index(b"././@LongLink")
    lying[at + 124 : at + 136] = b"77777777777\0"
    lying[at + 148 : at + 156] = b"%06o\0 " % (sum(lying[at : at + 148]) + 256 + sum(lying[at + 156 : at + 512]))
    for bad in (
        b"",
        b"x" * 2048,
        good[: len(good) - 10240 + 700],
        good[:1100],
        good.replace(b"sbin", b"abin", 1),
        bytes(lying),
    ):
        with pytest.raises(DriverError):
            fill(tmp_path, bad)


def through(module: Any, name: str, change: Callable[[Any], Any]) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.setattr(module, name, change(getattr(module, name)))


# what is tried -> the guards that are taken away for the mutant
OUTSIDE: dict[str, tuple[Callable[[Path], list[tuple[str, dict[str, Any]]]], list[Any]]] = {
    "dots": (
        lambda p: [("../victim/new", {})],
        [through(tar, "_path", lambda _: lambda name: name.removeprefix("./").rstrip("/"))],
    ),
    "link": (
        lambda p: [("way", {"kind": tarfile.SYMTYPE, "linkname": str(p / "victim")}), ("way/new", {})],
        [through(tree, "_DIRECTORY", lambda flags: flags & ~os.O_NOFOLLOW)],
    ),
}


@pytest.mark.parametrize("what", OUTSIDE)
def test_a31_nothing_is_written_beside_the_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    entries, guards = OUTSIDE[what]
    victim = tmp_path / "victim"
    victim.mkdir()
    packed = archive(*entries(tmp_path))
    with pytest.raises(DriverError):
        fill(tmp_path, packed)
    assert list(victim.iterdir()) == []
    for guard in guards:
        guard(monkeypatch)
    fill(tmp_path, packed)
    assert [p.name for p in victim.iterdir()] == ["new"], "the mutant shows that the guard is what holds"


def test_an_upload_is_judged_by_its_first_member() -> None:
    good = archive()
    header = inspect(good[:HEAD_BYTES], "tar", len(good))
    assert (header.format, header.virtual_bytes > len(good)) == ("tar", True)
    for bad in (b"\x1f\x8b" + bytes(1022), b"QFI\xfb" + bytes(1022), bytes(10240), good[:400]):
        with pytest.raises(BadImage, match="not a tar archive"):
            inspect(bad, "tar", len(bad))
    with pytest.raises(BadImage):
        inspect(good[:HEAD_BYTES], "qcow2", len(good))
