"""Root file systems of containers: the guest image's shell and its libraries, and an init that does one thing."""

from __future__ import annotations

import functools
import io
import subprocess
import tarfile
import tempfile
from pathlib import Path

import driver_guests
from bench import guest

from nubila.drivers.storage import tree

SIZE_BYTES = 64 << 20

# The shell's own 'sleep' is a process of its own; waiting for it lets traps act at once.
_LOOP = "while :; do [ -e /tmp/die ] && poweroff -f; [ -e /tmp/crash ] && exit 3; sleep 0.1 & wait $!; done\n"
_INIT: dict[str, str] = {
    driver_guests.DEAF: "trap : TERM\n" + _LOOP,
    driver_guests.OBEDIENT: "trap 'poweroff -f' TERM\n" + _LOOP,
    driver_guests.TICKING: "trap : TERM\nwhile :; do echo -n .; sleep 0.1 & wait $!; done\n",
    driver_guests.FLOODING: "while :; do echo AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA; done\n",
}


def enter(pid: int, command: str) -> str:
    """As root of the container: the host's root is nobody in its files."""
    words = ["nsenter", "-t", str(pid), "-U", "-m", "-n", "-p", "-i", "-u", "--root", "--wd=/", "-S", "0", "-G", "0"]
    done = subprocess.run([*words, "/bin/sh", "-c", command], capture_output=True, text=True, timeout=20, check=False)
    return done.stdout + done.stderr


def init(kind: str) -> str:
    return "#!/bin/sh\nrm -f /tmp/die /tmp/crash\necho BOOT SECTOR RUNS\n" + _INIT[kind]


def write_disk(disk: Path, kind: str) -> None:
    with tempfile.TemporaryDirectory() as work:
        archive = Path(work) / "root.tar"
        archive.write_bytes(root(init(kind)))
        disk.touch()
        tree.fill(archive, disk, SIZE_BYTES, Path(work) / "tree")


def root(script: str, more: dict[str, str] | None = None) -> bytes:
    """An archive with this init, and other files."""
    packed = io.BytesIO(_common())
    with tarfile.open(fileobj=packed, mode="a") as tar:
        for name, text in {"sbin/init": script, **(more or {})}.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(text), 0o755
            tar.addfile(member, io.BytesIO(text.encode()))
    return packed.getvalue()


@functools.cache
def _common() -> bytes:
    """Busybox as the guest image has it, under the names of what it can."""
    image = guest.directory() / "initrd.gz"
    packed = io.BytesIO()
    with tempfile.TemporaryDirectory() as work, tarfile.open(fileobj=packed, mode="w") as tar:
        unpack = f"gzip -dc {image} | cpio -idm --quiet 'bin/*' 'lib/*' 'lib64/*'"
        subprocess.run(["sh", "-c", unpack], cwd=work, check=True, timeout=60)
        for name in ("lib", "lib64", "bin/busybox"):
            tar.add(f"{work}/{name}", name)
        names = subprocess.run([f"{work}/bin/busybox", "--list"], capture_output=True, text=True, check=True).stdout
        for name in names.split():
            if name not in ("init", "busybox"):
                member = tarfile.TarInfo(f"bin/{name}")
                member.type, member.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(member)
        for name in ("tmp", "proc", "sys", "dev", "run", "etc", "root"):
            member = tarfile.TarInfo(name)
            member.type, member.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(member)
    return packed.getvalue()
