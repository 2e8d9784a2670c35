"""Bridges and taps by netlink. What is ours is proved by the interface's alias, never by its name alone."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import ipaddress
import os
import socket
import struct
import threading
from pathlib import Path
from typing import Any

import msgspec
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from nubila.drivers import DriverError
from nubila.drivers.network.base import Interface, Network
from nubila.drivers.network.bridge_nft import METADATA

_TUN = "/dev/net/tun"
_TUNSETIFF, _TUNSETPERSIST, _TUNSETOWNER = 0x400454CA, 0x400454CB, 0x400454CC
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_IFF_UP = 1
# Every bridge has that address; under this label dnsmasq does not take it for one of the interface that it serves.
_METADATA_LABEL = "metadata"
_RTN_UNICAST, _RTN_LOCAL = 1, 2
_IFA_TEMPORARY = 0x01


Address = tuple[str, int, str]  # address, prefix length, label


class Link(msgspec.Struct, frozen=True):
    """An interface as the kernel shows it."""

    name: str
    index: int
    alias: str
    master: int
    up: bool
    mtu: int


class Links:
    """One netlink socket, used by one thread at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: IPRoute | None = None

    def find(self, name: str) -> Link | None:
        try:
            index = socket.if_nametoindex(name)
        except OSError:
            return None
        try:
            return _link(self._call("link", "get", index=index)[0])
        except (DriverError, IndexError):  # removed in between
            return None

    def beginning(self, prefix: str) -> list[Link]:
        names = [n for _, n in socket.if_nameindex() if n.startswith(prefix)]
        return [link for link in (self.find(n) for n in names) if link is not None]

    def make_bridge(self, name: str, alias: str) -> Link:
        """With a MAC of its own, the same on every node; else a bridge takes the lowest of its ports' as they come."""
        mac = "5a" + hashlib.sha256(alias.encode()).hexdigest()[:10]
        address = ":".join(mac[i : i + 2] for i in range(0, 12, 2))
        self._call("link", "add", ifname=name, kind="bridge", address=address, br_stp_state=0, br_forward_delay=0,
                   br_mcast_snooping=0)  # fmt: skip
        index = socket.if_nametoindex(name)
        self._call("link", "set", index=index, ifalias=alias)
        return _link(self._call("link", "get", index=index)[0])

    def show_to_ip_hooks(self, index: int) -> None:
        """Connections are tracked there only. It is said of this bridge; the machine's others are left as they are."""
        self._call("link", "set", index=index, kind="bridge", br_nf_call_iptables=1, br_nf_call_ip6tables=1)

    def make_tap(self, name: str, alias: str, uid: int) -> Link:
        """A persistent tap that only that uid (and root) may open. It is down, so no frame passes yet."""
        try:
            handle = os.open(_TUN, os.O_RDWR | os.O_CLOEXEC)
        except OSError as e:
            raise DriverError(f"{_TUN} cannot be opened: {e.strerror}", again=False) from e
        try:
            request = struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR)
            fcntl.ioctl(handle, _TUNSETIFF, request)
            fcntl.ioctl(handle, _TUNSETOWNER, uid)
            fcntl.ioctl(handle, _TUNSETPERSIST, 1)
        except OSError as e:
            raise DriverError(f"the tap {name} cannot be made: {e.strerror}") from e
        finally:
            os.close(handle)
        index = socket.if_nametoindex(name)
        self._call("link", "set", index=index, ifalias=alias)
        return Link(name=name, index=index, alias=alias, master=0, up=False, mtu=1500)

    def change(self, index: int, **wish: Any) -> None:
        self._call("link", "set", index=index, **wish)

    def remove(self, index: int) -> None:
        """Not there is a success."""
        try:
            self._call("link", "del", index=index)
        except DriverError:
            if _exists(index):
                raise

    def addresses(self, index: int) -> set[Address]:
        """Those of an interface, link-local IPv6 aside."""
        found = set()
        for message in self._call("get_addr", index=index):
            address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            if not address.startswith("fe80:"):
                label = message.get_attr("IFA_LABEL")
                found.add((address, message["prefixlen"], label if label == _METADATA_LABEL else ""))
        return found

    def ranges(self, ours: set[int]) -> set[str]:
        """Destinations that other interfaces than `ours` have addresses in or routes to, default routes aside."""
        found = set()
        for family in (socket.AF_INET, socket.AF_INET6):
            for route in self._call("get_routes", family=family):
                to, device = route.get_attr("RTA_DST"), route.get_attr("RTA_OIF")
                unicast = route["type"] in (_RTN_UNICAST, _RTN_LOCAL)
                if to is not None and unicast and device is not None and device not in ours:
                    found.add(f"{to}/{route['dst_len']}")
        private = {
            r for r in found if not ipaddress.ip_network(r).is_link_local and not r.startswith(("ff", "127.", "::1/"))
        }
        return private

    def interfaces(self, ours: str) -> tuple[Interface, ...]:
        """Of those whose names do not begin so: what has an address that lasts, or is no virtual device."""
        found = []
        for index, name in sorted(socket.if_nameindex(), key=lambda i: i[1]):
            try:
                link = self._call("link", "get", index=index)[0]
                lasting = tuple(sorted(self._lasting(index)))
            except (DriverError, IndexError):  # removed in between
                continue
            wired = link.get_attr("IFLA_LINKINFO") is None
            if name != "lo" and not name.startswith(ours) and (lasting or wired):
                mac, mtu = link.get_attr("IFLA_ADDRESS") or "", link.get_attr("IFLA_MTU") or 0
                found.append(Interface(name=name, mac=mac, mtu=mtu, addresses=lasting))
        return tuple(found)

    def _lasting(self, index: int) -> set[str]:
        return {
            f"{m.get_attr('IFA_LOCAL') or m.get_attr('IFA_ADDRESS')}/{m['prefixlen']}"
            for m in self._call("get_addr", index=index)
            if m["scope"] == 0 and not (m["family"] == socket.AF_INET6 and m["flags"] & _IFA_TEMPORARY)
        }

    def set_addresses(self, index: int, wanted: set[Address]) -> None:
        """Have exactly these addresses. No duplicate detection: the gateway is ours on every node."""
        now = self.addresses(index)
        for address, length, _ in now - wanted:
            self._call("addr", "del", index=index, address=address, prefixlen=length)
        for address, length, label in wanted - now:
            more: dict[str, Any] = {"flags": 0x02} if ":" in address else {}  # nodad
            if label:
                more["label"] = label
            self._call("addr", "add", index=index, address=address, prefixlen=length, **more)

    def close(self) -> None:
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            if self._socket is None:
                self._socket = IPRoute()
            try:
                answer = getattr(self._socket, name)(*args, **kwargs)
                return list(answer) if answer is not None else []
            except NetlinkError as e:
                raise DriverError(f"netlink {name} {' '.join(map(str, args))}: {e.args[-1]}") from e


def have_bridge(links: Links, network: Network, name: str, alias: str) -> None:
    """The bridge of a network, up, with its gateways and the metadata address, and with nothing that it might learn."""
    link = links.find(name)
    if link is None:
        link = links.make_bridge(name, alias)
    elif link.alias not in ("", alias):
        raise DriverError(f"the interface {name} exists and belongs to something else", again=False)
    elif not link.alias:
        links.change(link.index, ifalias=alias)
    subnets = [(s, ipaddress.ip_network(s.cidr)) for s in network.subnets]
    wanted: set[Address] = {(s.gateway, cidr.prefixlen, "") for s, cidr in subnets}
    if any(cidr.version == 4 for _, cidr in subnets):
        wanted.add((METADATA, 32, _METADATA_LABEL))
    has_ipv6 = any(cidr.version == 6 for _, cidr in subnets)
    for key, value in (("disable_ipv6", "0" if has_ipv6 else "1"), ("accept_ra", "0"), ("accept_dad", "0")):
        sysctl(name, "ipv6", key, value)
    sysctl(name, "ipv4", "arp_ignore", "1")  # the machine's other addresses are no one's business here
    sysctl(name, "ipv4", "rp_filter", "1")
    links.show_to_ip_hooks(link.index)
    links.change(link.index, mtu=network.mtu, state="up")
    links.set_addresses(link.index, wanted)


def sysctl(interface: str, family: str, name: str, value: str) -> None:
    """Of one interface of ours; a kernel without it is left so."""
    path = Path(f"/proc/sys/net/{family}/conf/{interface}/{name}")
    try:
        path.write_text(value)
    except OSError as e:
        if e.errno != errno.ENOENT:
            raise DriverError(f"{path} cannot be set: {e.strerror}") from e


def _exists(index: int) -> bool:
    try:
        socket.if_indextoname(index)
    except OSError:
        return False
    return True


def _link(message: Any) -> Link:
    return Link(
        name=message.get_attr("IFLA_IFNAME"),
        index=message["index"],
        alias=message.get_attr("IFLA_IFALIAS") or "",
        master=message.get_attr("IFLA_MASTER") or 0,
        up=bool(message["flags"] & _IFF_UP),
        mtu=message.get_attr("IFLA_MTU") or 0,
    )
