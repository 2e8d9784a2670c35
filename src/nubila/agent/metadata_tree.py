"""The EC2 metadata tree of one vm, and OpenStack's and Nubila's own beside it. PURE: called by `metadata`, decides what
a path answers.

Invariant: only what belongs to this vm's guest is in its tree.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping

from nubila.agent import metadata_openstack as openstack
from nubila.protocol import Nic, Vm

Tree = Mapping[str, "Tree | str"]

VERSIONS = (
    "1.0", "2007-01-19", "2007-03-01", "2007-08-29", "2007-10-10", "2007-12-15", "2008-02-01", "2008-09-01",
    "2009-04-04", "2011-01-01", "2011-05-01", "2012-01-12", "2014-02-25", "2014-11-05", "2015-10-20", "2016-04-19",
    "2016-06-30", "2016-09-02", "2018-03-28", "2018-08-17", "2018-09-24", "2019-10-01", "2020-10-27", "2021-01-03",
    "2021-03-23", "2021-07-15", "2022-09-24", "latest",
)  # fmt: skip
_ROOT = re.compile(r"\d\d\d\d-\d\d-\d\d|1\.0|latest")


def look_up(vm: Vm, path: str, *, region: str, zone: str) -> str | None:
    """The text at a path, None when there is nothing."""
    parts = [p for p in path.split("?")[0].split("/") if p]
    if not parts:
        return "\n".join((*VERSIONS, "nubila", "openstack"))
    tree: Tree | str
    if _ROOT.fullmatch(parts[0]):
        tree = _versioned(vm, region, zone)
    elif parts[0] == "nubila":
        tree = {"v1": _own(vm, region, zone)}
    elif parts[0] == "openstack":
        return _openstack(vm, parts[1:], zone)
    else:
        return None
    for part in parts[1:]:
        if isinstance(tree, str) or part not in tree:
            return None
        tree = tree[part]
    if isinstance(tree, str):
        return tree
    if parts[1:] == ["meta-data", "public-keys"]:
        return "\n".join(f"{k}=key-{k}" for k in tree)  # EC2's own form for these
    return "\n".join(k if isinstance(v, str) else k + "/" for k, v in tree.items())


def _openstack(vm: Vm, parts: list[str], zone: str) -> str | None:
    """OpenStack lists directories without a slash at their ends."""
    if not parts:
        return "\n".join(openstack.VERSIONS)
    if parts[0] not in openstack.VERSIONS or len(parts) > 2:
        return None
    files = openstack.files(vm, parts[0], zone=zone)
    return files.get(parts[1]) if len(parts) == 2 else "\n".join(files)


def _versioned(vm: Vm, region: str, zone: str) -> Tree:
    tree: dict[str, Tree | str] = {
        "dynamic": {"instance-identity": {"document": _document(vm, region, zone)}},
        "meta-data": _meta_data(vm, region, zone),
    }
    if vm.user_data is not None:
        tree["user-data"] = vm.user_data
    return tree


def _meta_data(vm: Vm, region: str, zone: str) -> Tree:
    nics = vm.wired
    name = vm.hostname or vm.name
    tree: dict[str, Tree | str] = {
        "ami-id": vm.image_id,
        "ami-launch-index": "0",
        "hostname": name,
        "instance-id": vm.vm_id,
        "instance-type": vm.flavor,
        "local-hostname": name,
    }
    if nics:
        four = _of(nics[0], 4)
        if four:
            tree["local-ipv4"] = four[0]
        tree["mac"] = nics[0].mac
        tree["network"] = {"interfaces": {"macs": {n.mac: _interface(n, i, name) for i, n in enumerate(nics)}}}
    tree["placement"] = {"availability-zone": zone, "region": region}
    if vm.keys:
        tree["public-keys"] = {str(i): {"openssh-key": key} for i, key in enumerate(vm.keys)}
    return tree


def _interface(nic: Nic, index: int, name: str) -> Tree:
    tree: dict[str, Tree | str] = {
        "device-number": str(index),
        "interface-id": nic.port_id,
        "local-hostname": name,
        "mac": nic.mac,
        "subnet-id": "\n".join(s.subnet_id for s in nic.network.subnets),
    }
    for key, version in (("local-ipv4s", 4), ("ipv6s", 6)):
        found = _of(nic, version)
        if found:
            tree[key] = "\n".join(found)
    for key, version in (("subnet-ipv4-cidr-block", 4), ("subnet-ipv6-cidr-blocks", 6)):
        cidrs = [s.cidr for s in nic.network.subnets if ipaddress.ip_network(s.cidr).version == version]
        if cidrs:
            tree[key] = "\n".join(cidrs)
    tree["vpc-id"] = nic.network.network_id
    return tree


def _document(vm: Vm, region: str, zone: str) -> str:
    nic = vm.wired[0] if vm.wired else None
    four = _of(nic, 4) if nic is not None else []
    return json.dumps(
        {
            "accountId": vm.project_id,
            "architecture": "x86_64",
            "availabilityZone": zone,
            "imageId": vm.image_id,
            "instanceId": vm.vm_id,
            "instanceType": vm.flavor,
            "privateIp": four[0] if four else None,
            "region": region,
            "version": "2017-09-30",
        },
        indent=2,
    )


def _own(vm: Vm, region: str, zone: str) -> Tree:
    return {
        "boot-string": vm.boot_string,
        "epoch": str(vm.epoch),
        "name": vm.name,
        "project-id": vm.project_id,
        "region": region,
        "vm-id": vm.vm_id,
        "zone": zone,
    }


def _of(nic: Nic, version: int) -> list[str]:
    return [a for a in nic.addresses if (":" in a) == (version == 6)]
