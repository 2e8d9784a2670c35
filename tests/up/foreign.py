"""Things of others on the machine, which an installation must neither touch nor be disturbed by."""

from __future__ import annotations

import pwd
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from nubila.bootstrap.packages import postgresql_bin

BRIDGE, TABLE = "foreign0", "foreign"
NFT = f"""table inet {TABLE} {{
    chain watch {{
        type filter hook forward priority 10; policy accept;
        counter
    }}
}}
"""
# A libvirtd as another product would run one: in a mount namespace of its own, with the user that it insists on.
LIBVIRTD = """set -e
mount -t tmpfs foreign /run
for d in /etc/libvirt /var/lib/libvirt /var/cache/libvirt /var/log/libvirt; do
    if [ -d $d ]; then mount -t tmpfs foreign $d; fi
done
{ cat /etc/passwd; echo libvirt-qemu:x:65534:65534::/nonexistent:/usr/sbin/nologin; } > /run/passwd
{ cat /etc/group; echo libvirt-qemu:x:65534:; } > /run/group
mount --bind /run/passwd /etc/passwd
mount --bind /run/group /etc/group
exec /usr/sbin/libvirtd -p /run/libvirtd.pid
"""


@contextmanager
def present(work: Path) -> Iterator[dict[str, int]]:
    """A bridge, an nft table, a PostgreSQL and a libvirtd. Yields the pids of the last two."""
    with ExitStack() as stack:
        _ip("link", "add", BRIDGE, "type", "bridge")
        stack.callback(_ip, "link", "delete", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        subprocess.run(("nft", "-f", "-"), input=NFT, text=True, check=True)
        stack.callback(subprocess.run, ("nft", "delete", "table", "inet", TABLE), check=True)
        database = stack.enter_context(_running(_postgres(work)))
        libvirtd = stack.enter_context(_running(["unshare", "-m", "--propagation", "private", "sh", "-c", LIBVIRTD]))
        time.sleep(2)
        assert database.poll() is None
        assert libvirtd.poll() is None
        yield {"postgres": database.pid, "libvirtd": libvirtd.pid}


def _postgres(work: Path) -> list[str]:
    binaries, data = postgresql_bin(), work / "foreign-postgresql"
    assert binaries is not None
    data.mkdir()
    user = pwd.getpwnam("nobody")
    data.chmod(0o700)
    subprocess.run(("chown", f"{user.pw_uid}:{user.pw_gid}", data), check=True)
    drop = ["setpriv", "--reuid", str(user.pw_uid), "--regid", str(user.pw_gid), "--clear-groups"]
    subprocess.run([*drop, str(binaries / "initdb"), "-D", str(data), "-N"], check=True, capture_output=True, cwd="/")
    return [*drop, str(binaries / "postgres"), "-D", str(data), "-c", "listen_addresses=", "-k", str(data)]


@contextmanager
def _running(argv: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        argv, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


def _ip(*arguments: str) -> None:
    subprocess.run(("ip", *arguments), check=True)
