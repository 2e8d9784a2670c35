"""What an interrupted past left of containers beside libvirt: its processes that libvirtd does not know, logs, places.

A process is ours when it is libvirt's, names a domain of ours, and sees our directories where libvirt's are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from nubila.drivers import Leftover, Scan
from nubila.drivers.hypervisor.libvirt_daemon import Daemons
from nubila.drivers.hypervisor.libvirt_leftovers import command_lines, end, files, process, vm_of
from nubila.drivers.hypervisor.libvirt_xml import parse_name
from nubila.drivers.hypervisor.lxc_guest import Places


class Leftovers:
    def __init__(self, daemons: Daemons, places: Places):
        self._run, self._containers = daemons.run, places
        self._places = {"container": places.directory, "container-log": daemons.directory / "log" / "lxc"}

    def scan(self, defined: set[str], running: set[int]) -> Scan:
        """Names of the domains that libvirt knows, and their processes. Whoever asks has just asked libvirt."""
        found = [left for left, pid in self._processes() if pid not in running]
        foreign: list[tuple[str, str]] = []
        for kind, path in files(self._places):
            vm_id = _owner(kind, path.name)
            if vm_id is None:
                foreign.append(("file", f"libvirt/{kind}/{path.name}"))
            elif kind != "container" or path.name not in defined:
                found.append(Leftover(kind=kind, name=path.name, owner=vm_id))
        return Scan(leftovers=tuple(found), foreign=tuple(foreign))

    def remove(self, left: Leftover) -> None:
        if left.kind == "container-process":
            end(left, self._processes())
        elif left.kind in self._places and _owner(left.kind, left.name) == left.owner:
            if left.kind == "container":
                self._containers.remove(left.name)
            else:
                (self._places[left.kind] / left.name).unlink(missing_ok=True)

    def _processes(self) -> Iterator[tuple[Leftover, int]]:
        """Every libvirt_lxc of ours."""
        ours = os.stat(self._run)
        for pid, argv in command_lines():
            vm_id = _guest_of(argv)
            try:
                seen = os.stat(f"/proc/{pid}/root/run/libvirt") if vm_id else None
            except OSError:
                continue
            if vm_id and seen is not None and (seen.st_dev, seen.st_ino) == (ours.st_dev, ours.st_ino):
                yield from process("container-process", pid, vm_id)


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
