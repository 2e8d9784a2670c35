"""What an interrupted past left of containers beside libvirt: its processes that libvirtd does not know, logs, places.

A process is ours when it is libvirt's, names a domain of ours, and sees our directories where libvirt's are.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

from nubila.drivers import Leftover, Scan
from nubila.drivers.detached import start_time
from nubila.drivers.hypervisor.libvirt_daemon import Daemons
from nubila.drivers.hypervisor.libvirt_leftovers import vm_of
from nubila.drivers.hypervisor.libvirt_xml import parse_name
from nubila.drivers.hypervisor.lxc_guest import Places


class Leftovers:
    def __init__(self, daemons: Daemons, places: Places):
        self._daemons, self._places = daemons, places

    def scan(self, defined: set[str], running: set[int]) -> Scan:
        """Names of the domains that libvirt knows, and their processes. Whoever asks has just asked libvirt."""
        found = [left for left, pid in self._processes() if pid not in running]
        foreign: list[tuple[str, str]] = []
        for kind, path in self._files():
            vm_id = _owner(kind, path.name)
            if vm_id is None:
                foreign.append(("file", f"libvirt/{kind}/{path.name}"))
            elif kind != "container" or path.name not in defined:
                found.append(Leftover(kind=kind, name=path.name, owner=vm_id))
        return Scan(leftovers=tuple(found), foreign=tuple(foreign))

    def remove(self, left: Leftover) -> None:
        if left.kind == "container-process":
            for known, pid in self._processes():  # looked for again: a pid may be another's by now
                if known == left:
                    os.kill(pid, signal.SIGKILL)
        elif left.kind in ("container", "container-log") and _owner(left.kind, left.name) == left.owner:
            if left.kind == "container":
                self._places.remove(left.name)
            else:
                (self._log / left.name).unlink(missing_ok=True)

    @property
    def _log(self) -> Path:
        return self._daemons.directory / "log" / "lxc"

    def _files(self) -> Iterator[tuple[str, Path]]:
        for kind, directory in (("container", self._places.directory), ("container-log", self._log)):
            if directory.is_dir():
                yield from ((kind, p) for p in directory.iterdir())

    def _processes(self) -> Iterator[tuple[Leftover, int]]:
        """Every libvirt_lxc of ours; its name is pid and start time."""
        ours = os.stat(self._daemons.run)
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            try:
                argv = Path(f"/proc/{entry}/cmdline").read_bytes().decode(errors="replace").split("\0")
                vm_id = _guest_of(argv)
                seen = os.stat(f"/proc/{entry}/root/run/libvirt") if vm_id else None
            except OSError:
                continue
            started = start_time(int(entry)) if seen is not None else None
            if vm_id and seen is not None and started and (seen.st_dev, seen.st_ino) == (ours.st_dev, ours.st_ino):
                yield Leftover(kind="container-process", name=f"{entry}.{started}", owner=vm_id), int(entry)


def _guest_of(argv: list[str]) -> str | None:
    if os.path.basename(argv[0]) != "libvirt_lxc" or "--name" not in argv[:-1]:
        return None
    named = parse_name(argv[argv.index("--name") + 1])
    return named[0] if named else None


def _owner(kind: str, name: str) -> str | None:
    if kind == "container":
        named = parse_name(name)
        return named[0] if named else None
    return vm_of(name, "log")
