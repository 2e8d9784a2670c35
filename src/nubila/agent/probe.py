"""Which virt methods this machine really runs: found by starting one of each. Called by main before a session opens.

A container is started as every other one, from an archive with the host's own shell in it, and must show from inside
that it is root of a user namespace of its own. A good answer is kept with the boot's id, a bad one until the agent starts
anew.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import time
from pathlib import Path

import msgspec

from nubila.agent.host import boot_id
from nubila.drivers import DriverError
from nubila.drivers.detached import start_time
from nubila.drivers.hypervisor.base import Domain, DomainDisk, Hypervisor
from nubila.drivers.hypervisor.lxc_xml import IDS, METHOD, PROBE_ID, first_id
from nubila.drivers.storage import tree

_WITHIN_S = 20.0
_UID = 1_099_999_999  # no vm's
_SIZE_BYTES = 32 << 20
_INIT = "#!/bin/sh\nread -r inside outside count < /proc/self/uid_map\necho NUBILA-PROBE $inside $outside $count\nread -r _\n"
# of the host: a shell, and what it is linked with on Debian
_PARTS = ("/bin/dash", "/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/libc.so.6")


class Answer(msgspec.Struct):
    boot_id: str
    agent: str  # pid and start time of who asked
    usable: bool
    reason: str


def containers(driver: Hypervisor, lacks: str | None, directory: Path) -> tuple[bool, str]:
    """Whether containers are usable here, and why (not). `lacks`: what the driver misses in any case."""
    if lacks is not None:
        return False, lacks
    kept = directory / "answer"
    try:
        known = msgspec.json.decode(kept.read_bytes(), type=Answer)
    except (FileNotFoundError, msgspec.MsgspecError):
        known = None
    agent = f"{os.getpid()} {start_time(os.getpid())}"
    if known is not None and known.boot_id == boot_id() and (known.usable or known.agent == agent):
        return known.usable, known.reason
    try:
        usable, reason = _start(driver, directory)
    except (DriverError, OSError) as e:
        usable, reason = False, f"a container did not start: {e}"
    directory.mkdir(parents=True, exist_ok=True, mode=0o711)
    new = kept.with_name(kept.name + ".new")
    new.write_bytes(msgspec.json.encode(Answer(boot_id(), agent, usable, reason)))
    os.replace(new, kept)
    return usable, reason


def _start(driver: Hypervisor, directory: Path) -> tuple[bool, str]:
    work = directory / "probe"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, mode=0o700)
    driver.remove(PROBE_ID)
    try:
        disk = work / "root.raw"
        (work / "root.tar").write_bytes(_archive())
        disk.touch(mode=0o600)
        tree.fill(work / "root.tar", disk, _SIZE_BYTES, work / "tree")
        driver.start(_domain(work, disk))
        wanted = f"NUBILA-PROBE 0 {first_id(_UID)} {IDS}".encode()
        said, limit = b"", time.monotonic() + _WITHIN_S
        while wanted not in said and time.monotonic() < limit:
            time.sleep(0.05)
            said = driver.read_console(PROBE_ID, 4096)
        if wanted in said:
            return True, "a container ran in a user namespace of its own"
        last = said.strip().decode(errors="replace")[-200:]
        return False, f"a container was started and did not run as expected; its last words: {last or 'none'}"
    finally:
        driver.remove(PROBE_ID)
        shutil.rmtree(work, ignore_errors=True)


def _domain(work: Path, disk: Path) -> Domain:
    return Domain(
        vm_id=PROBE_ID,
        uuid="00000000-0000-4000-8000-000000000001",
        epoch=1,
        virt_method=METHOD,
        cores=1,
        memory_mib=32,
        directory=str(work),
        uid=_UID,
        gid=_UID,
        disks=(DomainDisk(volume_id="vol-probe", path=str(disk), format="raw"),),
        nics=(),
    )


def _archive() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        files = {p.lstrip("/"): Path(p).read_bytes() for p in _PARTS} | {"sbin/init": _INIT.encode()}
        files["bin/sh"] = files.pop("bin/dash")
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o755
            tar.addfile(member, io.BytesIO(data))
        for name in ("proc", "sys", "dev"):
            member = tarfile.TarInfo(name)
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(member)
    return packed.getvalue()
