"""Debian packages: which are needed and why, installed so that nothing of them starts a service.

Called by `make up`. Invariant: clusters, daemons and settings that were there before are untouched, and each package
that apt adds is in the journal before it is added. Standard library only (the preflight reads the table).
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from nubila.bootstrap.journal import Entry, Journal

# package -> why
NEEDED: dict[str, str] = {
    "postgresql-15": "the database server's programs (no cluster of the distribution's is made)",
    "libvirt-daemon": "runs virtual machines; the agent starts one of its own, never the host's",
    "libvirt-daemon-driver-qemu": "libvirt's driver for QEMU",
    "qemu-system-x86": "the emulator and hypervisor",
    "qemu-utils": "qemu-img: disks and images",
    "dnsmasq-base": "answers DHCP for each network",
    "nftables": "NAT, and the rules that bind a VM to its addresses",
    "iproute2": "shows links, addresses and routes",
    "openssh-client": "the ssh command that `make up` prints",
    "kmod": "guest image: the order in which modules load",
    "cpio": "guest image: initrd",
    "fdisk": "guest image: partition table",
    "dosfstools": "guest image: boot partition",
    "mtools": "guest image: files on the boot partition",
    "syslinux": "guest image: boot loader",
    "syslinux-common": "guest image: boot loader",
    "e2fsprogs": "guest image: data partition",
    "binutils": "guest image: which libraries a program needs",
}
CONTROL_ALONE = frozenset({"postgresql-15"})  # of these, a machine that is only a node needs none

APT = ("apt-get", "-q", "-o", "DPkg::Lock::Timeout=600", "-o", "Dpkg::Options::=--force-confold")
ENVIRONMENT = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
MARK = "# Written by nubila while it installs packages; remove it if no such command runs.\n"
# file -> its text and mode, there only while packages are installed
GUARDS: dict[Path, tuple[str, int]] = {
    Path("/etc/postgresql-common/createcluster.d/nubila.conf"): (MARK + "create_main_cluster = false\n", 0o644),
    Path("/usr/sbin/policy-rc.d"): ("#!/bin/sh\n" + MARK + "exit 101\n", 0o755),
}


class PackageFailure(Exception):
    """apt could not do it; the text says why."""


def needed(parts: frozenset[str]) -> dict[str, str]:
    """For a machine with these parts of Nubila."""
    return {n: why for n, why in NEEDED.items() if "control" in parts or n not in CONTROL_ALONE}


def missing(names: Mapping[str, str] = NEEDED) -> list[str]:
    """Those that are not installed. Any PostgreSQL from 15 will do."""
    run = subprocess.run(
        ("dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *names),
        capture_output=True, text=True, check=False, env=os.environ | ENVIRONMENT,
    )  # fmt: skip
    have = {line.split()[0] for line in run.stdout.splitlines() if line.endswith(" installed")}
    return [n for n in names if n not in have and not (n.startswith("postgresql-") and postgresql_bin())]


def postgresql_bin() -> Path | None:
    """The directory of the newest PostgreSQL's programs, 15 or newer."""
    programs = Path("/usr/lib/postgresql").glob("[0-9]*/bin/postgres")
    found = {int(p.parts[4]): p.parent for p in programs if p.parts[4].isdigit()}
    return found[max(found)] if found and max(found) >= 15 else None


def ensure(journal: Journal, names: Mapping[str, str] = NEEDED) -> str:
    """Install what is missing of these; says what was done, '' for nothing. Raises PackageFailure."""
    lacking = missing(names)
    if not lacking:
        return ""
    adds = _simulate(lacking)
    journal.add(*(Entry("package", name) for name in adds))
    with _quiet(journal):
        _apt("install", "-y", "--no-install-recommends", *lacking)
    return f"{len(adds)} packages installed"


def remove(names: list[str]) -> None:
    """Purge exactly these; refuses when apt would take others along."""
    here = [n for n in names if n not in missing({n: "" for n in names})]
    if not here:
        return
    run = _run("-s", "purge", *here)
    others = sorted(set(re.findall(r"^(?:Purg|Remv) (\S+)", run.stdout, re.M)) - set(here))
    if others:
        raise PackageFailure(f"other packages need them by now: {', '.join(others)}; nothing was removed")
    _apt("purge", "-y", *here)


def _simulate(names: list[str]) -> list[str]:
    """Every package that installing these would add. Fetches apt's lists when they are missing or too old for it."""
    run = _run("-s", "install", "--no-install-recommends", *names)
    if run.returncode != 0:
        _apt("update")
        run = _run("-s", "install", "--no-install-recommends", *names)
    if run.returncode != 0:
        raise PackageFailure(f"apt cannot install {' '.join(names)}: {run.stderr.strip()[-600:]}")
    present = re.findall(r"^Inst (\S+) \[", run.stdout, re.M)  # these would only be upgraded
    return [n for n in re.findall(r"^Inst (\S+)", run.stdout, re.M) if n not in present]


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (*APT, *arguments), capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL, env=os.environ | ENVIRONMENT,
    )  # fmt: skip


def _apt(*arguments: str) -> None:
    run = _run(*arguments)
    if run.returncode != 0:
        raise PackageFailure(f"apt-get {arguments[0]} failed: {(run.stderr or run.stdout).strip()[-800:]}")


@contextmanager
def _quiet(journal: Journal) -> Iterator[None]:
    """While it lasts no package may start a service or make a database cluster. Files that were there stay."""
    directories = [d for f in GUARDS for d in (f.parent.parent, f.parent) if not d.exists()]
    ours = [f for f in GUARDS if not f.exists()]
    journal.add(*(Entry("file", str(f)) for f in ours))
    for d in directories:
        d.mkdir(exist_ok=True)
    for f in ours:
        text, mode = GUARDS[f]
        f.write_text(text)
        f.chmod(mode)
    try:
        yield
    finally:
        remove_guards()
        for d in reversed(directories):
            if d.exists() and not any(d.iterdir()):
                d.rmdir()


def remove_guards() -> None:
    """Those that carry our mark, also of a run that was killed."""
    for f in GUARDS:
        if f.is_file() and MARK in f.read_text(errors="replace"):
            f.unlink()
