"""What an interrupted past left of domains beside libvirt: QEMU processes that it does not know, logs of domains that
are no more. And what lies in our places and is not ours.

A process is ours when its executable, its name and the directories in its arguments say so, and its uid is that of the
vm's directory; a file is when its name is a domain's. The rest is foreign.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from nubila.drivers import Leftover, Scan
from nubila.drivers.detached import start_time
from nubila.drivers.hypervisor import libvirt_xml
from nubila.drivers.hypervisor.libvirt_daemon import Daemons


class Leftovers:
    def __init__(self, daemons: Daemons):
        self._daemons = daemons
        self._places = {"console": daemons.console_dir, "log": daemons.directory / "log" / "qemu"}

    def scan(self, running: set[int]) -> Scan:
        """`running`: the processes of domains that libvirt knows. Whoever asks has just asked libvirt."""
        found = [left for left, pid in self._processes() if pid not in running]
        foreign: list[tuple[str, str]] = []
        for kind, path in files(self._places):
            vm_id = vm_of(path.name, kind)
            if vm_id is None:
                foreign.append(("file", f"libvirt/{path.relative_to(self._daemons.directory)}"))
            else:
                found.append(Leftover(kind=kind, name=path.name, owner=vm_id))
        return Scan(leftovers=tuple(found), foreign=tuple(foreign))

    def remove(self, left: Leftover) -> None:
        if left.kind == "process":
            end(left, self._processes())
            return
        directory = self._places.get(left.kind)  # other kinds are other drivers'
        if directory is not None and vm_of(left.name, left.kind) == left.owner:
            (directory / left.name).unlink(missing_ok=True)

    def _processes(self) -> Iterator[tuple[Leftover, int]]:
        """Every QEMU of ours."""
        root = str(self._daemons.directory.parent / "vms")
        for pid, argv in command_lines():
            vm_id = _guest_of(argv)
            if vm_id and any(f"{root}/{vm_id}/" in word for word in argv) and _owner(f"{root}/{vm_id}", pid):
                yield from process("process", pid, vm_id)


def command_lines() -> Iterator[tuple[int, list[str]]]:
    """Every process of this machine, and its words."""
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            words = Path(f"/proc/{entry}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        yield int(entry), words


def process(kind: str, pid: int, vm_id: str) -> Iterator[tuple[Leftover, int]]:
    """One that still is; its name is pid and start time."""
    started = start_time(pid)
    if started:
        yield Leftover(kind=kind, name=f"{pid}.{started}", owner=vm_id), pid


def end(left: Leftover, processes: Iterable[tuple[Leftover, int]]) -> None:
    """`processes` are looked for again: a pid may be another's by now."""
    for known, pid in processes:
        if known == left:
            os.kill(pid, signal.SIGKILL)


def files(places: Mapping[str, Path]) -> Iterator[tuple[str, Path]]:
    for kind, directory in places.items():
        if directory.is_dir():
            yield from ((kind, p) for p in directory.iterdir())


def _owner(directory: str, pid: int) -> bool:
    """The vm's directory says whose uid it is; when that is gone, root's children are not taken for ours."""
    try:
        uid = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return False
    try:
        return os.stat(directory).st_uid == uid != 0
    except FileNotFoundError:
        return uid != 0


def _guest_of(argv: list[str]) -> str | None:
    if not os.path.basename(argv[0]).startswith("qemu-system-") or "-name" not in argv[:-1]:
        return None
    name = next((w for w in argv[argv.index("-name") + 1].split(",") if w.startswith("guest=")), "")
    named = libvirt_xml.parse_name(name.removeprefix("guest="))
    return named[0] if named else None


def vm_of(name: str, kind: str) -> str | None:
    """The vm in a file's name: 'VM.log' of consoles, 'VM.eN.log' of QEMU; a full one is moved aside as '.0'."""
    stem = name.removesuffix(".0")
    if not stem.endswith(".log"):
        return None
    stem = stem.removesuffix(".log")
    named = libvirt_xml.parse_name(stem if kind == "log" else f"{stem}.e1")
    return named[0] if named else None
