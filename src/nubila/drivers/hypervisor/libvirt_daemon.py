"""A libvirtd (and virtlogd) of our own, in a mount namespace of its own: the host's libvirt is never spoken to.

libvirt's paths are compiled in. So directories below the node's are mounted over them, seen by these two daemons and
the QEMU processes they start, and by nothing else. Two installations, and a libvirt of the host, live side by side. The
daemons outlive the agent; domains outlive the daemons. Only root can open the sockets.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import socket
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from nubila.drivers import DriverError
from nubila.drivers.detached import Detached
from nubila.drivers.hypervisor import lxc_hook

_READY_WITHIN_S = 20.0
_LOG_MAX_BYTES = 8 << 20

# what the daemons see there -> what it is, below the node's directory
_MOUNTS: dict[str, str] = {
    "/etc/libvirt": "etc",
    "/var/lib/libvirt": "lib",
    "/var/log/libvirt": "log",
    "/var/cache/libvirt": "cache",
}
_RUN = "/run/libvirt"
_MARK = "trusted.nubila.mount-point"  # on a directory that exists for this purpose only, whichever installation made it
# Files that the daemons see in place of the host's: libvirt will not start without a user libvirt-qemu, which no domain
# uses and which therefore need not exist on the host; and it looks up the host's own name, which may not be known.
_FILES: dict[str, str] = {"/etc/passwd": "passwd", "/etc/group": "group", "/etc/hosts": "hosts"}
_USERS = "root:x:0:0:root:/root:/bin/sh\nlibvirt-qemu:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
_GROUPS = "root:x:0:\nlibvirt-qemu:x:65534:\n"

# $1 directory for a private /dev/kvm, then pairs (source, target) up to '--', then the program.
# /dev/kvm: QEMU runs under a uid that no group of the host knows, so it gets a node that it may open. Changes of the
# host's other mounts still arrive here (slave), so that this namespace keeps no unmounted file system alive.
# Where cgroups of both versions are mounted, libvirt's containers do not start: it gets to see the first alone.
_SCRIPT = """
set -e
dev=$1; shift
if [ -c /dev/kvm ]; then
  mount -t tmpfs -o mode=0755,size=16k nubila "$dev"
  mknod -m 0666 "$dev/kvm" c 10 232
  mount --bind "$dev/kvm" /dev/kvm
fi
if grep -q '^[^ ]* /sys/fs/cgroup/unified ' /proc/self/mounts; then umount -l /sys/fs/cgroup/unified; fi
while [ "$1" != -- ]; do mount --bind "$1" "$2"; shift 2; done
shift
exec "$@"
"""

_QEMU_CONF = """\
# Written anew at each start. Each domain names its own uid and gid; this user runs nothing but QEMU's self-description.
user = "libvirt-qemu"
group = "libvirt-qemu"
security_driver = "none"
dynamic_ownership = 0
remember_owner = 0
namespaces = []
cgroup_controllers = []
seccomp_sandbox = 1
stdio_handler = "logd"
max_core = 0
"""
_LIBVIRTD_CONF = """\
# Written anew at each start.
host_uuid = "{host_uuid}"
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_ro_perms = "0700"
unix_sock_rw_perms = "0700"
unix_sock_admin_perms = "0700"
listen_tls = 0
listen_tcp = 0
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
"""
_LXC_CONF = """\
# Written anew at each start.
log_with_libvirtd = 0
security_driver = "none"
"""
_HOOK = """\
#!/bin/sh
exec {python} -I -S {hook} "$@"
"""
_VIRTLOGD_CONF = """\
# Written anew at each start. A log and its one backup stay below the console log's limit together.
log_outputs = "3:file:/var/log/libvirt/virtlogd.log"
max_clients = 8192
max_size = {max_size}
max_backups = 1
"""


class Daemons:
    """The pair of one node. `directory` and `run` are below the node's directories and belong to root."""

    def __init__(self, node_dir: Path, run_dir: Path, console_log_max_bytes: int):
        self.directory = node_dir / "libvirt"
        self.run = run_dir / "libvirt"
        self._dev = run_dir / "libvirt-dev"
        self._lock = run_dir / "libvirt.lock"
        self._made = self.directory / "mount-points.json"
        self._log_max_bytes = max(4096, console_log_max_bytes // 2)
        self._libvirtd = Detached(run_dir / "libvirtd.process")
        self._virtlogd = Detached(run_dir / "virtlogd.process")

    @property
    def uri(self) -> str:
        return self.uri_of("qemu")

    def uri_of(self, scheme: str) -> str:
        return f"{scheme}+unix:///system?socket={self.run / 'libvirt-sock'}"

    @property
    def console_dir(self) -> Path:
        return self.directory / "log" / "console"

    def running(self) -> tuple[int, int] | None:
        """The pids of both daemons, or None when one of them does not run."""
        libvirtd, virtlogd = self._libvirtd.pid(), self._virtlogd.pid()
        return None if libvirtd is None or virtlogd is None else (libvirtd, virtlogd)

    def ensure(self) -> None:
        """Have both daemons running and answering. Cheap when they do."""
        if self.running() is not None and (self.run / "libvirt-sock").exists():
            return
        with self._locked():
            self._directories()
            self._configure()
            self._have(self._virtlogd, ["/usr/sbin/virtlogd", "-p", f"{_RUN}/virtlogd.pid"], "virtlogd-sock")
            self._have(self._libvirtd, ["/usr/sbin/libvirtd", "-p", f"{_RUN}/libvirtd.pid"], "libvirt-sock")

    def stop(self) -> None:
        """End the daemons; domains run on, and a later `ensure` finds them."""
        self._libvirtd.stop()
        self._virtlogd.stop()

    def remove(self) -> None:
        """Stop, and remove the mount points that are only here for us: a node is being destroyed.

        One that another installation has mounted on stays, for that one to remove: removing a directory takes away what
        is mounted on it in every other namespace.
        """
        self.stop()
        if self._made.exists():
            for path in reversed(msgspec.json.decode(self._made.read_bytes(), type=list[str])):
                if os.path.isdir(path) and not os.listdir(path) and not mounted_somewhere(path):
                    os.rmdir(path)
            self._made.unlink()

    def _have(self, daemon: Detached, argv: list[str], sock: str) -> None:
        path = self.run / sock
        if daemon.pid() is None:
            output = self.directory / "log" / "output.log"
            for log in (self.directory / "log").glob("*.log"):
                if log.stat().st_size > _LOG_MAX_BYTES:  # the daemons append, so cutting is safe
                    os.truncate(log, 0)
            path.unlink(missing_ok=True)
            daemon.start([*self._enter(), *argv], output)
        limit = time.monotonic() + _READY_WITHIN_S
        while not _answers(path):
            code = daemon.failed()
            if code is not None:
                raise DriverError(f"{argv[0]} ended with exit code {code}; see {self.directory / 'log'}")
            if time.monotonic() > limit:
                raise DriverError(f"{argv[0]} does not answer; see {self.directory / 'log'}")
            time.sleep(0.01)

    def _enter(self) -> list[str]:
        pairs = [(str(self.directory / name), target) for target, name in (_MOUNTS | _FILES).items()]
        pairs.append((str(self.run), _RUN))
        flat = [part for pair in pairs for part in pair]
        unshare = ["unshare", "--mount", "--propagation", "slave"]
        return [*unshare, "/bin/sh", "-c", _SCRIPT, "sh", str(self._dev), *flat, "--"]

    def _directories(self) -> None:
        for name in _MOUNTS.values():
            (self.directory / name).mkdir(parents=True, exist_ok=True, mode=0o755)
        self.console_dir.mkdir(exist_ok=True, mode=0o700)
        for directory in (self.run, self._dev):
            directory.mkdir(parents=True, exist_ok=True, mode=0o755)
        made = msgspec.json.decode(self._made.read_bytes(), type=list[str]) if self._made.exists() else []
        for_us = [p for p in (*_MOUNTS, _RUN) if not os.path.isdir(p) or _is_marked(p)]
        if not set(for_us) <= set(made):  # remembered first: made and forgotten would stay for ever
            self._made.write_bytes(msgspec.json.encode([*made, *(p for p in for_us if p not in made)]))
        for path in for_us:
            if not os.path.isdir(path):
                os.makedirs(path, mode=0o755, exist_ok=True)
                with contextlib.suppress(OSError):  # a file system without attributes: then the first to go removes it
                    os.setxattr(path, _MARK, b"1")

    def _configure(self) -> None:
        etc = self.directory / "etc"
        uuid_file = self.directory / "host-uuid"
        if not uuid_file.exists():
            uuid_file.write_text(str(uuid.uuid4()))
        (etc / "qemu.conf").write_text(_QEMU_CONF)
        (etc / "libvirtd.conf").write_text(_LIBVIRTD_CONF.format(host_uuid=uuid_file.read_text().strip()))
        (etc / "lxc.conf").write_text(_LXC_CONF)
        hook = etc / "hooks" / "lxc"  # libvirtd looks once whether there is one
        hook.parent.mkdir(exist_ok=True, mode=0o700)
        words = {"python": shlex.quote(sys.executable), "hook": shlex.quote(lxc_hook.__file__)}
        hook.write_text(_HOOK.format(**words))
        hook.chmod(0o700)
        (etc / "virtlogd.conf").write_text(_VIRTLOGD_CONF.format(max_size=self._log_max_bytes))
        (self.directory / "passwd").write_text(_USERS)
        (self.directory / "group").write_text(_GROUPS)
        hosts = Path("/etc/hosts").read_text() if Path("/etc/hosts").exists() else ""
        (self.directory / "hosts").write_text(f"{hosts.rstrip()}\n127.0.0.1 localhost {socket.gethostname()}\n")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        with self._lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def mounted_somewhere(path: str) -> bool:
    """Whether any process's namespace has something mounted on this directory."""
    seen: set[str] = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            namespace = os.readlink(process / "ns" / "mnt")
            if namespace not in seen:
                seen.add(namespace)
                lines = (process / "mountinfo").read_text().splitlines()
                if any(line.split(" ", 5)[4] == path for line in lines):
                    return True
        except OSError:  # the process has ended
            continue
    return False


def _is_marked(path: str) -> bool:
    try:
        return os.getxattr(path, _MARK) == b"1"
    except OSError:
        return False


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
