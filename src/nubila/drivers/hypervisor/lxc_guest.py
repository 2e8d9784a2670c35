"""A container's processes as the host sees them: its first process, what that listens to, and who reads its console."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import libvirt
from lxml import etree

from nubila.drivers.detached import Detached
from nubila.drivers.hypervisor import lxc_console
from nubila.drivers.hypervisor.libvirt_xml import PARSER
from nubila.drivers.places import require_searchable

ENDED = "ended"  # how the container ended, in its place
_END_KNOWN_WITHIN_S = 5.0
_SYSTEMD = {"stop": signal.SIGRTMIN + 4, "reboot": signal.SIGRTMIN + 5}


class Places:
    """The directory of each container that was started: `root` (mounted there), `seed`, who reads its console."""

    def __init__(self, directory: Path, console_log_max_bytes: int):
        self.directory = directory
        self._log_max_bytes = max(4096, console_log_max_bytes // 2)

    def of(self, name: str) -> Path:
        return self.directory / name

    def make(self, name: str) -> Path:
        place = self.of(name)
        require_searchable(self.directory.parent)  # the container's root is nobody on the host
        for path in (self.directory, place, place / "root"):
            path.mkdir(exist_ok=True, mode=0o711)
        (place / ENDED).unlink(missing_ok=True)
        return place

    def remove(self, name: str) -> None:
        """The mount is in libvirtd's namespace, and gone with the container."""
        self._keeper(name).stop()
        shutil.rmtree(self.of(name), ignore_errors=True)

    def keep_console(self, domain: libvirt.virDomain, log: Path) -> None:
        """Have somebody read it. Cheap when somebody does."""
        name = domain.name()
        if not self.of(name).is_dir() or self._keeper(name).pid() is not None:
            return
        terminal = etree.fromstring(domain.XMLDesc(), PARSER).find("devices/console")
        pid = first_process(domain)
        if terminal is None or not terminal.get("tty") or pid is None:
            return
        program = [sys.executable, "-I", "-S", lxc_console.__file__]
        words = [str(terminal.get("tty")), str(log), str(self._log_max_bytes), str(pid), str(self.of(name) / ENDED)]
        self._keeper(name).start([*program, *words], self.of(name) / "console.output")

    def why_ended(self, name: str) -> str | None:
        """What the kernel said; it takes a moment after the end."""
        limit = time.monotonic() + _END_KNOWN_WITHIN_S
        while self._keeper(name).pid() is not None and time.monotonic() < limit:
            time.sleep(0.01)
        try:
            return (self.of(name) / ENDED).read_text() or None
        except FileNotFoundError:
            return None

    def note_end(self, name: str, reason: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self.of(name) / ENDED).write_text(reason)

    def _keeper(self, name: str) -> Detached:
        return Detached(self.of(name) / "console.process")


def first_process(domain: libvirt.virDomain) -> int | None:
    """libvirt knows its own process beside the container, whose child the container's first one is."""
    try:
        beside = domain.ID()
    except libvirt.libvirtError:
        return None
    if beside <= 0:
        return None
    with contextlib.suppress(OSError, ValueError):
        return int(Path(f"/proc/{beside}/task/{beside}/children").read_text().split()[0])
    return None


def signal_for(pid: int, wish: str) -> int | None:
    """What this first process takes for 'stop' or 'reboot', by who it is and what it listens to; None: for nothing."""
    program, caught = _program(pid), _caught(pid)
    if program == "systemd":
        return _SYSTEMD[wish]
    initd = signal.SIGUSR2 in caught and signal.SIGTERM in caught  # busybox init: power off, and reboot
    wanted = {
        "stop": (signal.SIGUSR2, signal.SIGPWR, signal.SIGTERM),
        "reboot": (signal.SIGTERM,) if initd else (signal.SIGINT,),
    }[wish]
    return next((s for s in wanted if s in caught), None)


def _program(pid: int) -> str:
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe"))
    except OSError:
        return ""


def _caught(pid: int) -> set[int]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return set()
    mask = int(next((x.split()[1] for x in lines if x.startswith("SigCgt:")), "0"), 16)
    return {n + 1 for n in range(64) if mask >> n & 1}
