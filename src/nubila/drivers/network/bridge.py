"""The network driver of a single node: a Linux bridge per network, a tap per port, nftables, dnsmasq.

Rules come first: a tap is down and on no bridge until the rules that bind it to its MAC and addresses are loaded. What
was asked for is kept in small files, so that rules and DHCP can be made anew as a whole after a restart or when someone
flushed them; the world itself (aliases of interfaces) says what is there. Other tables, bridges and processes are never
touched.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from nubila.drivers import DriverError, Leftover, Scan
from nubila.drivers.network import bridge_groups
from nubila.drivers.network import bridge_nft as rules
from nubila.drivers.network.base import (
    Capabilities,
    FoundNetwork,
    FoundPort,
    Group,
    Interface,
    Network,
    Observed,
    Options,
    Port,
    taken_range,
)
from nubila.drivers.network.bridge_dhcp import Dhcp, given
from nubila.drivers.network.bridge_host import HostSettings
from nubila.drivers.network.bridge_leftovers import Leftovers
from nubila.drivers.network.bridge_links import Link, Links, have_bridge
from nubila.drivers.network.bridge_records import Records
from nubila.drivers.network.bridge_rule import Json, bridge_name, prefix, tap_name
from nubila.drivers.network.bridge_wish import check_group, check_id, check_network, check_port, check_table, overlap
from nubila.drivers.network.nft import Loader, sound
from nubila.drivers.places import require_searchable


class BridgeNetwork:
    """The driver. Its methods may be called from several threads at once."""

    def __init__(self, options: Options):
        self._options = options
        self._table = check_table(options.table)
        self._directory = Path(options.directory)
        self._links = Links()
        self._nft = Loader()
        self._lock = threading.RLock()  # records, networks, DHCP
        self._records: Records | None = None
        self._leftovers = Leftovers(self._table, self._directory, self._nft, self._open)
        self._base_loaded = False
        self._loaded: dict[str, Port] = {}  # port -> the wish whose rules are loaded, as far as this process knows
        self._groups: dict[str, Group] = {}  # likewise
        self._ready: dict[str, Network] = {}  # networks that this process made so
        self._dhcp: dict[str, Dhcp] = {}

    def capabilities(self) -> Capabilities:
        return Capabilities(ipv6=Path("/proc/sys/net/ipv6").is_dir())

    def host_settings(self) -> tuple[tuple[str, str, str], ...]:
        """(name, wanted, now) of what this driver changes on the whole machine, once a network needs it."""
        return self._host.listing()

    def observe(self) -> Observed:
        links = self._name_veths(self._links.beginning(prefix(self._table)))
        open_taps = self._taps_with_rules() if links else frozenset()
        networks: list[FoundNetwork] = []
        ports: list[FoundPort] = []
        foreign: list[str] = []
        id_of = {link.index: self._owned(link, "network") for link in links}
        for link in links:
            network_id, port_id = id_of[link.index], self._owned(link, "port")
            if network_id is not None:
                networks.append(
                    FoundNetwork(network_id=network_id, bridge=link.name, serving=self._serving(network_id))
                )
            elif port_id is not None:
                on = id_of.get(link.master)
                up = link.up and on is not None and link.name in open_taps
                ports.append(FoundPort(port_id=port_id, epoch=_epoch(link.alias), tap=link.name, network_id=on, up=up))
            else:
                foreign.append(link.name)
        leases = [lease for n in networks for lease in self._dhcp_of(n.network_id).leases()]
        return Observed(
            networks=tuple(networks),
            ports=tuple(ports),
            leases=tuple(leases),
            groups=tuple(self._groups),
            foreign=tuple(foreign),
        )

    def ranges(self) -> tuple[str, ...]:
        ours = {link.index for link in self._links.beginning(prefix(self._table)) if self._owned(link, "network")}
        return tuple(sorted(self._links.ranges(ours)))

    def interfaces(self) -> tuple[Interface, ...]:
        return self._links.interfaces(prefix(self._table))

    def scan(self) -> Scan:
        with self._lock:
            links = [link.name for link in self._links.beginning(prefix(self._table))]
            return self._leftovers.scan(links)

    def remove_leftover(self, leftover: Leftover) -> None:
        with self._lock:
            self._leftovers.remove(leftover)

    def ensure_network(self, network: Network) -> str:
        network = check_network(network)
        name = bridge_name(self._table, network.network_id)
        with self._lock:
            records = self._open()
            ready = self._ready.get(network.network_id) == network and self._base_loaded
            if ready and self._serving(network.network_id) and _there(name):
                return name
            for other in records.networks.all():
                if overlap(network, [other]) is not None and not records.ports_of(other.network_id):
                    self.remove_network(other.network_id)  # nothing is on it: it waits for its removal only
            refusal = overlap(network, records.networks.all()) or taken_range(network, self.ranges())
            if refusal is not None:
                raise DriverError(refusal, again=False)
            if records.networks.put(network.network_id, network) or not self._base_loaded:
                self._load_base(records)
            self._host.ensure_bridge_filter()
            for version in _nat_versions(network):
                self._host.ensure_forwarding(version)
            have_bridge(self._links, network, name, f"{self._table}:network:{network.network_id}")
            dhcp = self._dhcp_of(network.network_id)
            dhcp.set_hosts(records.ports_of(network.network_id), network.subnets)
            dhcp.ensure(network, name, self._options.lease_s)
            self._ready[network.network_id] = network
        return name

    def ensure_port(self, port: Port) -> str:
        port = check_port(port)
        name = tap_name(self._table, port.port_id)
        with self._lock:
            records = self._open()
            bridge = self._links.find(bridge_name(self._table, port.network_id))
            if bridge is None:
                raise DriverError("the port's network is not on this node")
            was = records.ports.get(port.port_id)
            if records.put_port(port):
                self._tell_dhcp(records, port, was)
        link = self._links.find(name) if port.link == "veth" else self._tap(port, name, was)
        if self._loaded.get(port.port_id) != port:
            self._load_port(port)
        if link is None:
            return name
        if port.link == "veth":
            link = self._named(link, port)
        if link.master != bridge.index or not link.up or link.mtu != bridge.mtu:
            self._links.change(link.index, mtu=bridge.mtu, master=bridge.index, state="up")
        return name

    def ensure_group(self, group: Group) -> None:
        group = check_group(group)
        with self._lock:
            records = self._open()
            records.groups.put(group.group_id, group)
        if self._groups.get(group.group_id) == group:
            return
        self._load(lambda: self._group_commands(group))
        self._groups[group.group_id] = group

    def remove_group(self, group_id: str) -> None:
        check_id("group_id", group_id)
        with self._lock:
            records = self._open()
            if any(group_id in (p.groups or ()) for p in records.ports.all()):
                raise DriverError("ports are still in this group")
            was = records.groups.get(group_id) or Group(group_id=group_id)
            records.groups.drop(group_id)
        self._load(lambda: bridge_groups.remove_group(self._table, self._groups.get(group_id, was)))
        self._groups.pop(group_id, None)

    def remove_port(self, port_id: str) -> None:
        check_id("port_id", port_id)
        self._remove_link(tap_name(self._table, port_id), "port", port_id)
        self._load(lambda: rules.remove_port(self._table, port_id, self._loaded.get(port_id)))
        with self._lock:
            self._loaded.pop(port_id, None)
            records = self._open()
            was = records.drop_port(port_id)
            if was is not None:
                self._tell_dhcp(records, None, was)

    def remove_network(self, network_id: str) -> None:
        check_id("network_id", network_id)
        with self._lock:
            records = self._open()
            if records.ports_of(network_id):
                raise DriverError("ports are still on this network")
            self._ready.pop(network_id, None)
            self._dhcp_of(network_id).remove()
            self._dhcp.pop(network_id, None)
            self._remove_link(bridge_name(self._table, network_id), "network", network_id)
            if records.networks.drop(network_id) is not None:
                self._load_base(records)

    def remove_all(self) -> None:
        """Everything of this installation gone, the machine's settings as before: a node is being destroyed."""
        found, records = self.observe(), self._open()
        ports = {p.port_id for p in found.ports} | {p.port_id for p in records.ports.all()}
        for port_id in ports:
            self._remove_link(tap_name(self._table, port_id), "port", port_id)
        self._nft.load(rules.remove_tables(self._table))  # at once: one port after another costs each the whole table
        with self._lock:
            self._forget_loaded()
            for port_id in ports:
                records.drop_port(port_id)
            for group in records.groups.all():
                records.groups.drop(group.group_id)
        for network_id in {n.network_id for n in found.networks} | {n.network_id for n in records.networks.all()}:
            self.remove_network(network_id)
        self._nft.load(rules.remove_tables(self._table))
        self._base_loaded = False
        self._host.undo()

    def close(self) -> None:
        self._links.close()

    @property
    def _host(self) -> HostSettings:
        return HostSettings(self._directory / "host-settings.json")

    def _open(self) -> Records:
        """The records, read at first use; what has lost its interface is forgotten then. The caller holds the lock."""
        if self._records is None:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o755)
            require_searchable(self._directory)
            records = Records(self._directory)
            gone = records.forget_missing(
                lambda n: _there(bridge_name(self._table, n)), lambda p: _there(tap_name(self._table, p))
            )
            for network in gone:
                self._dhcp_of(network.network_id).remove()
            self._records = records
        return self._records

    def _tell_dhcp(self, records: Records, port: Port | None, was: Port | None) -> None:
        """What the MAC of a port gets now. The lease of what it gets no more ends: another may get that at once."""
        network_id = (port or was).network_id  # type: ignore[union-attr]
        network = records.networks.get(network_id)
        if network is None:
            return
        dhcp = self._dhcp_of(network_id)
        dhcp.set_hosts(records.ports_of(network_id), network.subnets)
        before = set() if was is None else {(was.mac, a) for a in given(was, network.subnets)}
        after = set() if port is None else {(port.mac, a) for a in given(port, network.subnets)}
        for mac in {mac for mac, _ in before - after}:
            dhcp.forget_lease(mac)

    def _dhcp_of(self, network_id: str) -> Dhcp:
        if network_id not in self._dhcp:
            self._dhcp[network_id] = Dhcp(self._directory, network_id)
        return self._dhcp[network_id]

    def _serving(self, network_id: str) -> bool:
        """Its DHCP runs, and the machine routes for it where it is to lead outside."""
        with self._lock:
            network = self._open().networks.get(network_id)
        routes = network is None or all([self._host.forwards(v) for v in _nat_versions(network)])
        return routes and (self._dhcp_of(network_id).serving() or (network is not None and not network.subnets))

    def _taps_with_rules(self) -> frozenset[str]:
        """The taps that are let through. Someone may have flushed our tables: then nothing counts as loaded."""
        taps = self._nft.names_in_map(self._table, "ports", "forward")
        if taps is None:
            self._forget_loaded()
            return frozenset()
        if any(tap_name(self._table, p) not in taps for p in self._loaded):
            self._forget_loaded()
        return taps

    def _forget_loaded(self) -> None:
        """The next load makes everything anew."""
        with self._lock:
            self._base_loaded = False
            self._loaded.clear()
            self._groups.clear()

    def _load_base(self, records: Records) -> None:
        """What belongs to no one port; the first time everything, so that nothing is left of what was before."""
        networks, port = records.networks.all(), self._options.metadata_port
        if self._base_loaded:
            self._nft.load(rules.base(self._table, networks, port))
            return
        groups, ports = records.groups.all(), records.ports.all()
        try:
            self._nft.load(rules.whole(self._table, networks, groups, ports, port))
        except DriverError:  # some of them are bad: all but those, so that nobody else's rules are lost
            groups = sound(groups, lambda some: self._nft.takes(rules.whole(self._table, networks, some, [], port)))
            ports = sound(ports, lambda some: self._nft.takes(rules.whole(self._table, networks, groups, some, port)))
            self._nft.load(rules.whole(self._table, networks, groups, ports, port))
        self._groups = {g.group_id: g for g in groups}
        self._loaded = {p.port_id: p for p in ports}
        self._base_loaded = True

    def _load_port(self, port: Port) -> None:
        self._load(lambda: self._port_commands(port))
        self._loaded[port.port_id] = port

    def _load(self, commands: Callable[[], list[Json]]) -> None:
        """`commands` is asked once more when the tables were flushed since: what is loaded is another then."""
        with self._lock:
            if not self._base_loaded:
                self._load_base(self._open())
        try:
            self._nft.load(commands())
        except DriverError:
            with self._lock:
                self._forget_loaded()
                self._load_base(self._open())
            self._nft.load(commands())

    def _port_commands(self, port: Port) -> list[Json]:
        was = self._loaded.get(port.port_id)
        if was == port:
            return []
        return [*(bridge_groups.forget(self._table, was, port) if was else []), *rules.port(self._table, port)]

    def _group_commands(self, group: Group) -> list[Json]:
        was = self._groups.get(group.group_id)
        if was == group:
            return []
        return [
            *bridge_groups.group(self._table, group),
            *(bridge_groups.drop_sets(self._table, was, group) if was else []),
        ]

    def _tap(self, port: Port, name: str, was: Port | None) -> Link:
        """The tap with its owner and alias, down when it is new."""
        if was is not None and (was.uid, was.link) != (port.uid, "tap"):
            self._remove_link(name, "port", port.port_id)
        link = self._links.find(name)
        return self._links.make_tap(name, self._alias(port), port.uid) if link is None else self._named(link, port)

    def _named(self, link: Link, port: Port) -> Link:
        """An interface of this port, with its alias."""
        self._require_owned(link, "port", port.port_id)
        if link.alias != self._alias(port):
            self._links.change(link.index, ifalias=self._alias(port))
        return link

    def _alias(self, port: Port) -> str:
        return f"{self._table}:port:{port.port_id}:e{port.epoch}"

    def _name_veths(self, links: list[Link]) -> list[Link]:
        """A domain made them under the names that it was told: they get the alias that proves them ours."""
        if all(link.alias for link in links):
            return links
        with self._lock:
            awaited = {tap_name(self._table, p.port_id): p for p in self._open().ports.all() if p.link == "veth"}
        found = []
        for link in links:
            port = awaited.get(link.name)
            if port is not None and not link.alias:
                self._named(link, port)
                link = msgspec.structs.replace(link, alias=self._alias(port))
            found.append(link)
        return found

    def _remove_link(self, name: str, kind: str, its_id: str) -> None:
        link = self._links.find(name)
        if link is not None:
            self._require_owned(link, kind, its_id)
            self._links.remove(link.index)

    def _owned(self, link: Link, kind: str) -> str | None:
        """The id in the alias of one of our interfaces of that kind: 'table:kind:id[:epoch]'."""
        parts = link.alias.split(":")
        return parts[2] if len(parts) >= 3 and parts[:2] == [self._table, kind] else None

    def _require_owned(self, link: Link, kind: str, its_id: str) -> None:
        """An interface without an alias was left by a process that was killed right after making it."""
        if link.alias and self._owned(link, kind) != its_id:
            raise DriverError(f"the interface {link.name} exists and belongs to something else", again=False)


def _nat_versions(network: Network) -> set[int]:
    return {6 if ":" in s.cidr else 4 for s in network.subnets if network.nat}


def _epoch(alias: str) -> int:
    last = alias.rsplit(":", 1)[-1]
    return int(last[1:]) if last[:1] == "e" and last[1:].isdigit() else 0


def _there(name: str) -> bool:
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True
