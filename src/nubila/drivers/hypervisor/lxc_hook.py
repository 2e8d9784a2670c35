"""What our libvirtd runs before a container starts and when it has: gives it its root file system. Standard library only.

It runs inside of libvirtd's mount namespace, also when a container reboots by itself. Before a start the root's file is
bound to a loop device and mounted where the definition says, with user and group ids shifted by the mount into those
of the container, so that on disk they are as in the image. Once it runs the mount is taken away again: the container
alone holds it, and with the container the device goes. The file is locked as QEMU locks an image for as long as the
device is bound: whoever asks for QEMU's locks sees a writer, and a disk never has two.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import struct
import subprocess
import sys
import xml.etree.ElementTree as ElementTree  # of our own libvirtd, which parsed it before
from pathlib import Path

_NS = "{urn:nubila}"
_FSOPEN, _FSCONFIG, _FSMOUNT, _MOVE_MOUNT, _MOUNT_SETATTR = 430, 431, 432, 429, 442
_SET_STRING, _CMD_CREATE = 1, 6
_CLOEXEC, _EMPTY_PATH, _MOVE_EMPTY_PATH, _AT_FDCWD = 1, 0x1000, 4, -100
_ATTR_NODEV, _ATTR_IDMAP = 0x4, 0x00100000
_MS_BIND, _MS_SHARED, _MNT_DETACH, _NEWUSER = 4096, 1 << 20, 2, 0x10000000
_LOOP_GET_FREE, _LOOP_CONFIGURE, _LOOP_AUTOCLEAR = 0x4C82, 0x4C0A, 4
_OFD_SETLK, _OFD_GETLK = 37, 36
_SUPERBLOCK = 1024
# QEMU's locks, block/file-posix.c: what is done (read, write, grow) from 100 on, what others must not do from 200 on
_DONE, _FORBIDDEN = (100, 101, 103), (201, 203)
_IDS = 65536
_PROCESSES = 8192  # of one container
_DELEGATED = frozenset({"cgroup.procs", "cgroup.threads", "cgroup.subtree_control", "tasks"})

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def main(argv: list[str]) -> int:
    """libvirt's arguments: name, operation, part, and '-'. The definition is on standard input."""
    if len(argv) < 3:
        return 2
    operation = argv[2]
    if operation not in ("prepare", "started", "release"):
        return 0
    root = ElementTree.fromstring(sys.stdin.read())  # noqa: S314
    ours = root.find(f"metadata/{_NS}vm")
    disk = None if ours is None else ours.find(f"{_NS}root")
    if disk is None:
        return 0
    target = str(disk.get("at"))
    try:
        if operation == "prepare":
            _mount(str(disk.get("path")), target, int(str(disk.get("first"))))
        else:
            unmount(target)
        if operation == "started":
            _fence(int(root.get("id", "0")), int(str(disk.get("first"))))
    except OSError as e:
        print(f"the container's root file system: {e.strerror or e}", file=sys.stderr)
        return 1
    return 0


def _mount(image: str, target: str, first: int) -> None:
    _share(str(Path(target).parent.parent))
    unmount(target)
    handle = os.open(image, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    _lock(handle)
    _grow(image, handle)
    loop, device = _bind(handle)
    try:
        context = _call(_FSOPEN, b"ext4", _CLOEXEC)
        _call(_FSCONFIG, context, _SET_STRING, b"source", device.encode(), 0)
        _call(_FSCONFIG, context, _CMD_CREATE, 0, 0, 0)
        mount = _call(_FSMOUNT, context, _CLOEXEC, _ATTR_NODEV)
        wish = ctypes.create_string_buffer(struct.pack("QQQQ", _ATTR_IDMAP, 0, 0, _users(first)), 32)
        _call(_MOUNT_SETATTR, mount, b"", _EMPTY_PATH, wish, 32)
        _call(_MOVE_MOUNT, mount, b"", _AT_FDCWD, target.encode(), _MOVE_EMPTY_PATH)
    finally:
        os.close(loop)
        os.close(handle)


def _fence(beside: int, first: int) -> None:
    """libvirt gives a container its control groups with all that is in them. It keeps what it needs to make groups below;
    its limits are the host's again, and what else there is it cannot list."""
    try:
        pid = Path(f"/proc/{beside}/task/{beside}/children").read_text().split()[0]
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return  # it has ended already
    for line in lines:
        _, names, path = line.split(":", 2)
        top = Path("/sys/fs/cgroup", names.removeprefix("name="))
        groups = [top / path.lstrip("/"), *(top / path.lstrip("/")).parents]
        own = [g for g in groups if g != top and top in g.parents and _is_of(g, first)]
        for group in own:
            _take_limits_back(group)
        outer = own[-1] if own else groups[0]  # some libvirt leaves to the host
        if "lxc" in outer.name and outer.is_dir() and outer.parent != top:
            outer.parent.chmod(0o711)


def _is_of(group: Path, first: int) -> bool:
    return group.is_dir() and first <= group.stat().st_uid < first + _IDS


def _take_limits_back(group: Path) -> None:
    group.chmod(0o750)
    for file in group.iterdir():
        if file.is_file() and file.name not in _DELEGATED:
            os.chown(file, 0, 0)
    if (group / "pids.max").is_file():
        (group / "pids.max").write_text(str(_PROCESSES))


def unmount(target: str) -> None:
    """Not there is a success."""
    while os.path.ismount(target):
        if _libc.umount2(target.encode(), _MNT_DETACH):
            raise OSError(ctypes.get_errno(), f"{target} cannot be unmounted")


def _share(directory: str) -> None:
    """What is unmounted below it goes from the namespaces that were copied meanwhile, too."""
    if not os.path.ismount(directory):
        for source, flags in ((directory.encode(), _MS_BIND), (b"none", _MS_SHARED)):
            if _libc.mount(source, directory.encode(), None, flags, None):
                raise OSError(ctypes.get_errno(), f"{directory} cannot be made a mount")


def _lock(handle: int) -> None:
    """As QEMU does it: show what is done and what is forbidden, then look whether others do or forbid that."""
    for at in _DONE + _FORBIDDEN:
        fcntl.fcntl(handle, _OFD_SETLK, _flock(fcntl.F_RDLCK, at))
    for at in (*(at - 100 for at in _FORBIDDEN), *(at + 100 for at in _DONE)):
        found = struct.unpack("hhqqi4x", fcntl.fcntl(handle, _OFD_GETLK, _flock(fcntl.F_WRLCK, at)))
        if found[0] != fcntl.F_UNLCK:
            raise OSError(errno.EBUSY, "the volume is open elsewhere")


def _flock(kind: int, at: int) -> bytes:
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, at, 1, 0)


def _bind(handle: int) -> tuple[int, str]:
    """A free loop device; the kernel lets go of it when nothing uses it any more. It keeps the very open file, with
    its locks."""
    info = struct.pack("QQQQQIIII64s64s32sQQ", 0, 0, 0, 0, 0, 0, 0, 0, _LOOP_AUTOCLEAR, b"", b"", b"", 0, 0)
    wish = struct.pack("II", handle, 0) + info + bytes(64)
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        while True:
            device = f"/dev/loop{fcntl.ioctl(control, _LOOP_GET_FREE)}"
            loop = os.open(device, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(loop, _LOOP_CONFIGURE, wish)
            except OSError as e:
                os.close(loop)
                if e.errno == errno.EBUSY:  # another one took it in between
                    continue
                raise
            return loop, device
    finally:
        os.close(control)


def _grow(image: str, handle: int) -> None:
    """The file system takes all of its file, which may have been enlarged; nobody has it mounted."""
    blocks, _, _, _, _, shift = struct.unpack("<6I", os.pread(handle, 24, _SUPERBLOCK + 4))
    if os.fstat(handle).st_size // (1024 << shift) <= blocks:
        return
    for argv in (["/sbin/e2fsck", "-f", "-p", image], ["/sbin/resize2fs", image]):
        done = subprocess.run(argv, capture_output=True, check=False)
        if done.returncode > 1:  # 1: something was repaired
            raise OSError(errno.EIO, f"{argv[0]} could not enlarge it")


def _users(first: int) -> int:
    """A user namespace that maps the container's ids: it lends its mapping to the mount."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        if _libc.unshare(_NEWUSER):
            os._exit(1)
        os.write(write, b"x")
        signal.pause()
    os.close(write)
    try:
        if not os.read(read, 1):
            raise OSError(errno.EPERM, "a user namespace cannot be made")
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{child}/{name}").write_text(f"0 {first} {_IDS}\n")
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(read)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _call(number: int, *arguments: object) -> int:
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    found = int(_libc.syscall(ctypes.c_long(number), *words))
    if found < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv))
