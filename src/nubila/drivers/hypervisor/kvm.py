"""Whether this machine runs ordinary guests under KVM: found by booting one, since a /dev/kvm alone proves nothing.

The agent asks once per start; the answer is kept with the boot's id, so that a guest is booted once per boot.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import time
from pathlib import Path

import msgspec

from nubila.drivers.detached import boot_id
from nubila.drivers.hypervisor.libvirt_xml import EMULATOR

_WITHIN_S = 20.0
_REACHED = b"as init process"  # Linux, when all of the kernel has started
_DEVICE = Path("/dev/kvm")
_WORDS_BYTES = 200


class Answer(msgspec.Struct):
    boot_id: str
    probed: list[str | int]  # what was booted
    usable: bool
    reason: str


def probe_kvm(kernel: Path | None, initrd: Path | None, cache_file: Path) -> tuple[bool, str]:
    """Whether KVM is usable here, and why (not). Without a kernel to boot it is not taken as usable."""
    if not _DEVICE.exists():
        return False, "this machine has no /dev/kvm"
    if kernel is None or initrd is None or not kernel.exists() or not initrd.exists():
        return False, "there is no kernel and initrd to try KVM with"
    probed: list[str | int] = [str(kernel), kernel.stat().st_mtime_ns, str(initrd), initrd.stat().st_mtime_ns]
    known = _read(cache_file)
    if known is not None and known.boot_id == boot_id() and known.probed == probed:
        return known.usable, known.reason
    usable, reason = _boot(kernel, initrd)
    cache_file.parent.mkdir(parents=True, exist_ok=True)
    new = cache_file.with_name(cache_file.name + ".new")
    new.write_bytes(msgspec.json.encode(Answer(boot_id(), probed, usable, reason)))
    os.replace(new, cache_file)
    return usable, reason


def _read(cache_file: Path) -> Answer | None:
    try:
        return msgspec.json.decode(cache_file.read_bytes(), type=Answer)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def _boot(kernel: Path, initrd: Path) -> tuple[bool, str]:
    argv = [
        EMULATOR, "-machine", "q35", "-accel", "kvm", "-cpu", "host", "-m", "256", "-nodefaults", "-nographic",
        "-no-user-config", "-no-reboot", "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny",
        "-serial", "stdio", "-kernel", str(kernel), "-initrd", str(initrd), "-append", "console=ttyS0 panic=-1",
    ]  # fmt: skip
    try:
        guest = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
    except OSError as e:
        return False, f"QEMU cannot be started: {e.strerror}"
    try:
        said, reached = _listen(guest)
    finally:
        guest.kill()
        guest.wait()
    if reached:
        return True, "a guest booted under KVM"
    last = said.strip().rsplit(b"\n", 1)[-1].strip().decode(errors="replace")[-_WORDS_BYTES:]
    return False, f"a guest did not boot under KVM; its last words: {last or 'none'}"


def _listen(guest: subprocess.Popen[bytes]) -> tuple[bytes, bool]:
    """What the guest wrote until it had booted, ended or taken too long."""
    assert guest.stdout is not None
    said = b""
    limit = time.monotonic() + _WITHIN_S
    with selectors.DefaultSelector() as waiting:
        waiting.register(guest.stdout, selectors.EVENT_READ)
        while (left := limit - time.monotonic()) > 0:
            if not waiting.select(left):
                break
            block = os.read(guest.stdout.fileno(), 65536)
            if not block:
                break
            said = (said + block)[-65536:]
            if _REACHED in said:
                return said, True
    return said, False
