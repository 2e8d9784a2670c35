"""Settings of the whole machine that routing for guests needs: changed here only, remembered first, undone at the end.

The remembered value is the one from before the first change, so that changing twice still leads back.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec

from nubila.drivers import DriverError

_SYS = Path("/proc/sys")
FORWARD4 = "net/ipv4/ip_forward"
FORWARD6 = "net/ipv6/conf/all/forwarding"
BRIDGED = tuple(f"net/bridge/bridge-nf-call-{kind}tables" for kind in ("ip", "ip6", "arp"))


class HostSettings:
    """`memory` is the file that holds what was there before."""

    def __init__(self, memory: Path):
        self._memory = memory

    def listing(self) -> tuple[tuple[str, str, str], ...]:
        """(name, wanted, now) of all that this driver may change on the machine, for the preflight."""
        filters = [(n, "0") for n in BRIDGED if _read(n) is None]  # they come with the module that is loaded
        wishes = [(FORWARD4, "1"), (FORWARD6, "1"), *_advertisements(), *filters]
        return tuple([(n.replace("/", "."), wanted, _read(n) or "") for n, wanted in wishes])

    def ensure_forwarding(self, version: int) -> None:
        """Route IPv4 or IPv6. A router of IPv6 takes no advertisements itself unless told so, as the uplink must."""
        if version == 4:
            self._set(FORWARD4, "1")
            return
        if _read(FORWARD6) == "1":
            return
        for name, value in _advertisements():
            self._set(name, value)
        self._set(FORWARD6, "1")

    def ensure_bridge_filter(self) -> None:
        """Bridges can show their frames to the IP hooks. Where loading that switches it on for all, it is put off."""
        if _read(BRIDGED[0]) is not None:
            return
        loaded = subprocess.run(["modprobe", "br_netfilter"], capture_output=True, check=False)
        if loaded.returncode != 0 or _read(BRIDGED[0]) is None:
            raise DriverError("the kernel module br_netfilter cannot be loaded; security groups need it", again=False)
        for name in BRIDGED:
            _write(name, "0")

    def forwards(self, version: int) -> bool:
        """Another installation that ends, or a person, may have switched it off again."""
        return _read(FORWARD4 if version == 4 else FORWARD6) != "0"

    def undo(self) -> None:
        """Put everything back. Forwarding first: it is what the others were changed for."""
        before = self._before()
        for name in sorted(before, key=lambda n: n not in (FORWARD4, FORWARD6)):
            if _read(name) is not None:
                _write(name, before[name])
        self._memory.unlink(missing_ok=True)

    def _before(self) -> dict[str, str]:
        if not self._memory.exists():
            return {}
        return msgspec.json.decode(self._memory.read_bytes(), type=dict[str, str])

    def _set(self, name: str, value: str) -> None:
        now = _read(name)
        if now == value:
            return
        if now is None:
            raise DriverError(f"this kernel has no {name.replace('/', '.')}", again=False)
        before = self._before()
        if name not in before:
            self._memory.write_bytes(msgspec.json.encode({**before, name: now}))
        _write(name, value)


def _advertisements() -> list[tuple[str, str]]:
    """Interfaces that take router advertisements now and would stop when the machine becomes a router."""
    found = []
    for path in sorted(_SYS.glob("net/ipv6/conf/*/accept_ra")):
        name = str(path.relative_to(_SYS))
        if path.parent.name not in ("all", "default", "lo") and _read(name) == "1" and _in_use(path.parent.name):
            found.append((name, "2"))
    return found


def _in_use(interface: str) -> bool:
    """It has a default route of IPv6 that an advertisement gave."""
    try:
        routes = Path("/proc/net/ipv6_route").read_text().splitlines()
    except FileNotFoundError:
        return False
    rtf_addrconf_default = 0x00050000
    for route in routes:
        fields = route.split()
        if fields[-1] == interface and fields[1] == "00" and int(fields[-2], 16) & rtf_addrconf_default:
            return True
    return False


def _read(name: str) -> str | None:
    try:
        return (_SYS / name).read_text().strip()
    except FileNotFoundError:
        return None


def _write(name: str, value: str) -> None:
    try:
        (_SYS / name).write_text(value)
    except OSError as e:
        raise DriverError(f"{name.replace('/', '.')} cannot be set: {e.strerror}", again=False) from e
