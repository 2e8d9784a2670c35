"""What an installation has on this host outside of its files: processes, interfaces, nft tables, mounts, settings.

Called by `destroy`. Each finder demands a proof that a thing is this installation's, so that what others have, of the
same program or a like name, is never touched; nothing here asks the agent or the database.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from nubila.bootstrap import owner, processes
from nubila.bootstrap.facts import program
from nubila.bootstrap.processes import Process
from nubila.config import Settings

STATES = Path("/var/lib")  # where installations have their state directories
# Programs that an installation runs. A person's editor or pager on one of its files is none of them.
PROGRAMS = (
    "qemu-system-",
    "libvirtd",
    "libvirt_lxc",
    "virtlogd",
    "dnsmasq",
    "postgres",
    "python",
    "unshare",
    "qemu-img",
)


def running(settings: Settings) -> list[Process]:
    """Every process of the installation: of its programs, and with its name or one of its directories to prove it."""
    roots = (f"{settings.var_dir}/", f"{settings.run_dir}/")
    found = []
    for p in processes.all_of():
        if p.pid == os.getpid() or not p.program.startswith(PROGRAMS):
            continue
        named = p.variable(processes.NAME_VARIABLE) == settings.name
        if (
            named
            or any(root in word for word in p.argv for root in roots)
            or _lives_in(p.pid, settings)
            or _is_beside(p, settings)
        ):
            found.append(p)
    return [*found, *_contained(found)]


def _is_beside(process: Process, settings: Settings) -> bool:
    """libvirt's process beside a container has nothing of ours in its words, but sees our directory as libvirt's."""
    if process.program != "libvirt_lxc":
        return False
    try:
        seen, ours = os.stat(f"/proc/{process.pid}/root/run/libvirt"), os.stat(settings.node_run_dir / "libvirt")
    except OSError:
        return False
    return (seen.st_dev, seen.st_ino) == (ours.st_dev, ours.st_ino)


def _contained(found: list[Process]) -> list[Process]:
    """The first process of each of our containers, whatever it calls itself: the others end with it."""
    beside = [p.pid for p in found if p.program == "libvirt_lxc"]
    first: list[Process] = []
    for pid in beside:
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            first += [p for c in children if (p := processes.read(int(c))) is not None]
    return first


def link_rows(settings: Settings) -> list[dict[str, Any]]:
    """Interfaces whose alias says that they are ours, as `ip` shows them."""
    run = _tool("ip", "-j", "-d", "link", "show")
    rows = json.loads(run) if run else []
    return [r for r in rows if str(r.get("ifalias", "")).startswith(f"{settings.name}:")]


def links(settings: Settings) -> list[str]:
    """The names of our interfaces; ports before bridges."""
    mine = link_rows(settings)
    mine.sort(key=lambda r: r.get("linkinfo", {}).get("info_kind") == "bridge")
    return [str(r["ifname"]) for r in mine]


def remove_link(name: str) -> None:
    _tool("ip", "link", "delete", "dev", name)


def tables(settings: Settings) -> list[tuple[str, str]]:
    """nft tables of our name: family and name."""
    run = _tool("nft", "-j", "list", "tables")
    rows = json.loads(run)["nftables"] if run else []
    return [(t["family"], t["name"]) for r in rows if (t := r.get("table")) and t["name"] == settings.name]


def remove_table(family: str, name: str) -> None:
    _tool("nft", "delete", "table", family, name)


def mounts(settings: Settings) -> list[str]:
    """Mount points at or below our directories, the innermost first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split()[4].encode().decode("unicode_escape")
        if any(Path(point).is_relative_to(root) for root in (settings.var_dir, settings.run_dir)):
            found.append(point)
    return sorted(found, key=len, reverse=True)


def unmount(point: str) -> None:
    _tool("umount", "--lazy", point)


def mount_points(settings: Settings) -> list[Path]:
    """Directories of libvirt's that the agent had to make, as its record says; inner ones first."""
    return [Path(p) for p in reversed(_made(settings.var_dir)) if Path(p).is_absolute()]


def changed_settings(settings: Settings) -> dict[Path, str]:
    """Kernel settings that the agent changed, as its record says, and the value to give back; forwarding first."""
    before = _settings_before(_settings_record(settings.var_dir))
    order = sorted(before, key=lambda n: "forward" not in n)
    return {path: before[n] for n in order if (path := Path("/proc/sys") / n).exists()}


def hand_over_settings(settings: Settings) -> Path | None:
    """Another installation on this very machine uses the changed kernel settings too: it becomes the one that gives them
    back. None: there is no other, so it is done now."""
    held = owner.read(settings.var_dir)
    heir = next((o for o in _others(settings) if _machine(o) == (held.machine if held else "")), None)
    if heir is not None:
        before = _settings_before(_settings_record(heir)) | _settings_before(_settings_record(settings.var_dir))
        _replace(_settings_record(heir), before)
    return heir


def hand_over_mounts(settings: Settings) -> Path | None:
    """Another installation, also one of a lab's, uses libvirt's mount points too; removing those would unmount its
    directories. It becomes the one that removes them."""
    heir = next(iter(_others(settings)), None)
    if heir is not None:
        _replace(_mounts_record(heir), [*_made(heir), *(p for p in _made(settings.var_dir) if p not in _made(heir))])
    return heir


def _others(settings: Settings) -> list[Path]:
    """State directories of other installations that had a network."""
    found = [p.parent for p in STATES.glob(f"*/{owner.FILE}") if p.parent != settings.var_dir]
    return [p for p in found if _settings_record(p).parent.is_dir()]


def _machine(var_dir: Path) -> str:
    held = owner.read(var_dir)
    return held.machine if held else ""


def _replace(file: Path, value: object) -> None:
    if value and file.parent.is_dir():
        new = file.with_suffix(".new")
        new.write_text(json.dumps(value))
        new.rename(file)


def _settings_record(var_dir: Path) -> Path:
    return var_dir / "node" / "network" / "host-settings.json"


def _mounts_record(var_dir: Path) -> Path:
    return var_dir / "node" / "libvirt" / "mount-points.json"


def _made(var_dir: Path) -> list[str]:
    try:
        return [str(p) for p in json.loads(_mounts_record(var_dir).read_text())]
    except (OSError, ValueError):
        return []


def _settings_before(record: Path) -> dict[str, str]:
    try:
        return dict(json.loads(record.read_text()))
    except (OSError, ValueError):
        return {}


def _lives_in(pid: int, settings: Settings) -> bool:
    """It has a file of ours open for writing, or works in one of our directories."""
    try:
        paths = [os.readlink(f"/proc/{pid}/cwd"), *(os.readlink(f.path) for f in os.scandir(f"/proc/{pid}/fd"))]
    except OSError:
        return False
    return any(p.startswith((f"{settings.var_dir}/", f"{settings.run_dir}/")) for p in paths)


def _tool(name: str, *arguments: str) -> str:
    """Its output; '' when it is not installed or fails."""
    path = program(name)
    if path is None:
        return ""
    run = subprocess.run((path, *arguments), capture_output=True, text=True, check=False, timeout=30)
    return run.stdout if run.returncode == 0 else ""
