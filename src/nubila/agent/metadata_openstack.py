"""The OpenStack metadata tree of one vm, for guests that look for that one. PURE: called by `metadata_tree`.

The same facts as in EC2's tree, in OpenStack's form. What Nubila does not have (vendor data, passwords) is empty or not
there. `uuid` is the vm's own, the one that its SMBIOS shows.
"""

from __future__ import annotations

import ipaddress
import json
from typing import Any

from nubila.agent.known import by_dhcp
from nubila.model import ids
from nubila.protocol import Nic, Vm

VERSIONS = (
    "2012-08-10", "2013-04-04", "2013-10-17", "2015-10-15", "2016-06-30", "2016-10-06", "2017-02-22", "2018-08-27",
    "2020-10-14", "latest",
)  # fmt: skip

Json = dict[str, Any]


def files(vm: Vm, version: str, *, zone: str) -> dict[str, str]:
    """name -> text, of one version. Newer files are not in older versions."""
    found = {"meta_data.json": json.dumps(meta_data(vm, zone))}
    if vm.user_data is not None:
        found["user_data"] = vm.user_data
    if version >= "2013-10-17":
        found["vendor_data.json"] = "{}"
    if version >= "2015-10-15":
        found["network_data.json"] = json.dumps(network_data(vm))
    if version >= "2016-10-06":
        found["vendor_data2.json"] = "{}"
    return found


def meta_data(vm: Vm, zone: str) -> Json:
    uuid = ids.parse("vm", vm.vm_id)
    name = vm.hostname or vm.name
    found: Json = {
        "uuid": str(uuid) if uuid is not None else vm.vm_id,
        "name": vm.name,
        "hostname": name,
        "launch_index": 0,
        "availability_zone": zone,
        "project_id": vm.project_id,
        "meta": {"nubila-vm-id": vm.vm_id, "nubila-boot-string": vm.boot_string},
        "devices": [{"type": "nic", "bus": "none", "address": "none", "mac": n.mac, "tags": []} for n in vm.wired],
        "dedicated_cpus": [],
    }
    if vm.keys:
        found["public_keys"] = {f"key-{i}": key for i, key in enumerate(vm.keys)}
        found["keys"] = [{"name": f"key-{i}", "type": "ssh", "data": key} for i, key in enumerate(vm.keys)]
    return found


def network_data(vm: Vm) -> Json:
    """Links, networks and DNS servers. IPv4 by DHCP, which also brings its routes; IPv6 as given."""
    links: list[Json] = []
    networks: list[Json] = []
    services: list[str] = []
    for index, nic in enumerate(vm.wired):
        link = f"tap{nic.port_id[-11:]}"
        links.append(
            {
                "id": link, "vif_id": nic.port_id, "type": "phy", "mtu": nic.network.mtu,
                "ethernet_mac_address": nic.mac,
            }
        )  # fmt: skip
        leased = by_dhcp(nic)
        for address in nic.addresses:
            name = f"network{len(networks)}"
            networks.append(_network(nic, address, name, link, first=index == 0, leased=address in leased))
        services += [d for s in nic.network.subnets for d in s.dns]
    return {
        "links": links,
        "networks": networks,
        "services": [{"type": "dns", "address": d} for d in dict.fromkeys(services)],
    }


def _network(nic: Nic, address: str, name: str, link: str, *, first: bool, leased: bool) -> Json:
    found: Json = {"id": name, "link": link, "network_id": nic.network.network_id}
    value = ipaddress.ip_address(address)
    if leased:
        return {**found, "type": "ipv4_dhcp"}
    subnet = next((s for s in nic.network.subnets if value in ipaddress.ip_network(s.cidr)), None)
    if value.version == 4:
        mask = "255.255.255.255" if subnet is None else str(ipaddress.ip_network(subnet.cidr).netmask)
        return {**found, "type": "ipv4", "ip_address": address, "netmask": mask, "routes": []}
    prefix = 128 if subnet is None else ipaddress.ip_network(subnet.cidr).prefixlen
    routes = [] if subnet is None or not first else [{"network": "::", "netmask": "::", "gateway": subnet.gateway}]
    return {**found, "type": "ipv6", "ip_address": f"{address}/{prefix}", "routes": routes}
