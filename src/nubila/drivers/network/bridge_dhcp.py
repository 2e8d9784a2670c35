"""DHCP, names and router advertisements of one network by one dnsmasq, which outlives the agent.

Static leases only: what an address belongs to is decided elsewhere. Values are validated before they come here
(`bridge_wish`); this module only writes them down. Hosts change by rewriting the hosts file and SIGHUP.
"""

from __future__ import annotations

import ipaddress
import os
import pwd
import signal
import socket
import time
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import msgspec

from nubila.drivers import DriverError
from nubila.drivers.detached import Detached
from nubila.drivers.network.base import Lease, Network, Port, Subnet
from nubila.drivers.network.bridge_nft import METADATA

_RA_LIFETIME_S = 3600
_LOG_MAX_BYTES = 1 << 20
_READY_WITHIN_S = 5.0
_USERS = ("dnsmasq", "nobody")


class Dhcp:
    """The dnsmasq of one network and its files: `<network id>.conf` and so on."""

    def __init__(self, directory: Path, network_id: str):
        self._network_id = network_id
        self._base = directory / network_id
        self._process = Detached(self._file("process"))

    def serving(self) -> bool:
        return self._process.pid() is not None

    def ensure(self, network: Network, bridge: str, lease_s: int) -> None:
        """Have it running with this configuration; started anew only when that differs or it is dead."""
        if not network.subnets:
            self._process.stop()
            return
        names = (self._process.pid() is not None and self._names()) or _may_name(network)
        config = _config(network, bridge, lease_s, self._base, names=names)
        changed = _write(self._file("conf"), config)
        self._file("hosts").touch()
        log = self._file("log")
        if log.exists() and log.stat().st_size > _LOG_MAX_BYTES:  # written by appending, so cutting is safe
            os.truncate(log, 0)
        if changed:
            self._process.stop()
        if self._process.pid() is None:
            self._start()

    def set_hosts(self, ports: Iterable[Port], subnets: Sequence[Subnet]) -> None:
        """What each MAC gets. Nothing happens when it is so already."""
        lines = [line for port in ports for line in _host_lines(port, subnets)]
        if _write(self._file("hosts"), "".join(sorted(lines))):
            self._process.signal(signal.SIGHUP)

    def forget_lease(self, mac: str) -> None:
        """End the lease of a MAC that is no more, so that its address can be given to another at once.

        dnsmasq keeps leases in memory: it is stopped for that moment, which its clients answer by asking again.
        """
        path = self._file("leases")
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        kept = [line for line in lines if line.split(" ")[1:2] != [mac]]
        if kept == lines:
            return
        running = self._process.pid() is not None
        self._process.stop()
        path.write_text("".join(kept))
        if running:
            self._start()

    def leases(self) -> list[Lease]:
        """Those that hold now, from dnsmasq's file: 'expiry mac address name client-id'."""
        try:
            lines = self._file("leases").read_text().splitlines()
        except FileNotFoundError:
            return []
        found, now = [], time.time()
        for line in lines:
            parts = line.split(" ")
            if len(parts) == 5 and parts[0].isdigit() and int(parts[0]) > now:
                lease = Lease(
                    network_id=self._network_id, mac=parts[1], address=parts[2], expires_at=float(parts[0])
                )  # fmt: skip
                found.append(lease)
        return found

    def remove(self) -> None:
        self._process.stop()
        for kind in ("conf", "hosts", "leases", "log", "ready"):
            self._file(kind).unlink(missing_ok=True)

    def _start(self) -> None:
        """Return when it listens: it writes its pid file after that."""
        ready = self._file("ready")
        ready.unlink(missing_ok=True)
        argv = ["/usr/sbin/dnsmasq", "--keep-in-foreground", f"--conf-file={self._file('conf')}"]
        self._process.start(argv, self._file("log"))
        limit = time.monotonic() + _READY_WITHIN_S
        while not ready.exists():
            if self._process.failed() is not None or time.monotonic() > limit:
                words = self._file("log").read_text(errors="replace").strip().splitlines()
                raise DriverError(f"DHCP does not start: {words[-1] if words else 'dnsmasq says nothing'}")
            time.sleep(0.001)

    def _names(self) -> bool:
        """Whether the one that runs answers names: it holds the port that a new one would find taken."""
        conf = self._file("conf")
        return conf.exists() and "port=53\n" in conf.read_text()

    def _file(self, kind: str) -> Path:
        return self._base.with_name(f"{self._base.name}.{kind}")


def _may_name(network: Network) -> bool:
    """Whether port 53 of the gateways is free: a name server of the host that listens everywhere has it otherwise."""
    for subnet in network.subnets:
        family = socket.AF_INET6 if ":" in subnet.gateway else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as s:
            try:
                s.bind((subnet.gateway, 53))
            except OSError:
                return False
    return True


def _config(network: Network, bridge: str, lease_s: int, base: Path, *, names: bool) -> str:
    lines = [
        f"interface={bridge}",
        "except-interface=lo",
        "bind-interfaces",
        *_names(network, names),
        "no-hosts",
        f"user={_user()}",
        "group=nogroup",
        f"pid-file={base}.ready",
        "dhcp-authoritative",
        "no-ping",
        "dhcp-lease-max=100000",
        f"dhcp-hostsfile={base}.hosts",
        f"dhcp-leasefile={base}.leases",
        "log-facility=-",
        "quiet-dhcp",
        "quiet-dhcp6",
        "quiet-ra",
        f"dhcp-option=26,{network.mtu}",
    ]
    for number, subnet in enumerate(network.subnets):
        write = _config4 if ipaddress.ip_network(subnet.cidr).version == 4 else _config6
        given = subnet if subnet.dns or not names else msgspec.structs.replace(subnet, dns=(subnet.gateway,))
        lines += write(network, given, f"s{number}", bridge, lease_s)
    return "".join([line + "\n" for line in lines])


def _names(network: Network, names: bool) -> list[str]:
    """Guests find each other by host name, and the world through the host's own name servers where a way leads out."""
    if not names:
        return ["port=0", "no-resolv"]
    upstream = "resolv-file=/etc/resolv.conf" if network.nat else "no-resolv"
    return ["port=53", upstream, "domain-needed", "bogus-priv", "cache-size=1000", "dns-forward-max=500"]


def _config4(network: Network, subnet: Subnet, tag: str, _bridge: str, lease_s: int) -> list[str]:
    """A classless route leads to metadata also where there is no way out. Clients that know it ignore option 3."""
    cidr = ipaddress.ip_network(subnet.cidr)
    routes = f"{METADATA}/32,{subnet.gateway}" + (f",0.0.0.0/0,{subnet.gateway}" if network.nat else "")
    dns = [a for a in subnet.dns if ":" not in a]
    return [
        f"dhcp-range=set:{tag},{cidr.network_address},static,{cidr.netmask},{lease_s}",
        f"dhcp-option=tag:{tag},121,{routes}",
        f"dhcp-option=tag:{tag},3" + (f",{subnet.gateway}" if network.nat else ""),
        f"dhcp-option=tag:{tag},6" + "".join(f",{a}" for a in dns),
    ]


def _config6(network: Network, subnet: Subnet, _tag: str, bridge: str, _lease_s: int) -> list[str]:
    """Guests form their addresses themselves; the router is announced as a default one only where it leads out."""
    cidr = ipaddress.ip_network(subnet.cidr)
    router_s = _RA_LIFETIME_S if network.nat else 0
    dns = [a for a in subnet.dns if ":" in a]
    return [
        "enable-ra",
        f"dhcp-range={cidr.network_address},ra-only,{cidr.prefixlen},{_RA_LIFETIME_S}",
        f"ra-param={bridge},mtu:{network.mtu},60,{router_s}",
        *([f"dhcp-option=option6:dns-server,{','.join(f'[{a}]' for a in dns)}"] if dns else []),
    ]


def given(port: Port, subnets: Iterable[Subnet]) -> tuple[str, ...]:
    """The addresses that DHCP gives a port: a client has one of a subnet, and sets further ones itself."""
    return _first_of_each(port.addresses, tuple(subnets))


@lru_cache(maxsize=1 << 14)  # asked of every port of a network whenever one of them changes
def _first_of_each(addresses: tuple[str, ...], subnets: tuple[Subnet, ...]) -> tuple[str, ...]:
    first: dict[str, str] = {}
    for address in addresses:
        value = ipaddress.ip_address(address)
        for subnet in subnets:
            if value.version == 4 and value in ipaddress.ip_network(subnet.cidr):
                first.setdefault(subnet.cidr, address)
    return tuple(first.values())


def _host_lines(port: Port, subnets: Iterable[Subnet]) -> list[str]:
    name = f",{port.hostname}" if port.hostname else ""
    return [f"{port.mac},{address}{name}\n" for address in given(port, subnets)]


def _user() -> str:
    for name in _USERS:
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return name
    raise DriverError(f"none of the users {', '.join(_USERS)} exists to run dnsmasq", again=False)


def _write(path: Path, text: str) -> bool:
    """Replace a file as a whole, when it differs. Readable for dnsmasq's user: nothing in it is secret."""
    try:
        if path.read_text() == text:
            return False
    except FileNotFoundError:
        pass
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    new.chmod(0o644)
    os.replace(new, path)
    return True
