"""The NoCloud seed of one vm: an ISO labelled `cidata` that cloud-init and its relatives read. `build` is PURE.

Called by the hands before each start, so that a torn or old file never matters. User data passes unchanged; every other
value is written as JSON, which YAML contains, so no value can become syntax.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import shutil

from nubila.agent import iso9660
from nubila.agent.known import by_dhcp
from nubila.model.vm import CONTAINERS
from nubila.protocol import Nic, SubnetView, Vm

LABEL = "cidata"
NAME = "seed.iso"
DIRECTORY = "seed"
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9.-]*")
_YAML_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"})


def build(vm: Vm) -> bytes:
    """The image's bytes."""
    return iso9660.image(LABEL, files(vm))


def files(vm: Vm) -> dict[str, bytes]:
    return {
        "meta-data": meta_data(vm).encode(),
        "user-data": user_data(vm).encode("utf-8", "surrogateescape"),
        "network-config": network_config(vm).encode(),
    }


def name_for(virt_method: str) -> str:
    """What it is called in the vm's directory: a container has no drive, it gets the files."""
    return DIRECTORY if virt_method in CONTAINERS else NAME


def write(vm: Vm, directory: str, uid: int) -> str:
    """Write it where the vm's uid alone may read it. The directory is that user's, so what lies there is never opened."""
    path = f"{directory}/{name_for(vm.virt_method)}"
    if vm.virt_method not in CONTAINERS:
        _write(path, build(vm), iso9660.SYSTEM_AREA_BYTES, uid)  # a hole before: it is zero anyway
        return path
    shutil.rmtree(path, ignore_errors=True)
    os.mkdir(path, 0o500)
    for name, data in files(vm).items():
        _write(f"{path}/{name}", data, 0, uid)
    if os.geteuid() == 0:
        os.chown(path, uid, uid, follow_symlinks=False)
    return path


def _write(path: str, data: bytes, hole: int, uid: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o400)
    except FileExistsError:
        os.unlink(path)
        fd = os.open(path, flags, 0o400)
    try:
        view = memoryview(data)[hole:]
        os.lseek(fd, hole, os.SEEK_SET)
        while view:
            view = view[os.write(fd, view) :]
        if os.geteuid() == 0:
            os.fchown(fd, uid, uid)
    finally:
        os.close(fd)


def meta_data(vm: Vm) -> str:
    """One `key: value` per line: also for guests that read it with sed."""
    lines = {"instance-id": vm.vm_id, "local-hostname": vm.hostname or vm.name}
    text = "".join(f"{k}: {_plain(v)}\n" for k, v in lines.items())
    text += f"public-keys: {json.dumps(list(vm.keys))}\n"
    if vm.boot_string:
        text += f"boot-string: {json.dumps(vm.boot_string)}\n"
    return text


def user_data(vm: Vm) -> str:
    if vm.user_data is not None:
        return vm.user_data
    return "#cloud-config\n" + json.dumps({"ssh_authorized_keys": list(vm.keys)}) + "\n"


def network_config(vm: Vm) -> str:
    """Version 2: IPv4 by DHCP; IPv6 addresses, and what was assigned later, as given."""
    nics = {f"nic{n.index}": _ethernet(n, first=i == 0) for i, n in enumerate(vm.wired)}
    return json.dumps({"version": 2, "ethernets": nics}, indent=1) + "\n"


def _ethernet(nic: Nic, *, first: bool) -> dict[str, object]:
    leased = by_dhcp(nic)
    given = [a for a in nic.addresses if a not in leased]
    found: dict[str, object] = {"match": {"macaddress": nic.mac}, "mtu": nic.network.mtu, "accept-ra": False}
    found["dhcp4"] = bool(leased)
    subnets = [(a, s) for a in given if (s := _subnet(nic, a)) is not None]
    if subnets:
        found["addresses"] = [f"{a}/{ipaddress.ip_network(s.cidr).prefixlen}" for a, s in subnets]
        six = [s.gateway for a, s in subnets if ":" in a]
        if first and six:
            found["routes"] = [{"to": "::/0", "via": six[0]}]
        servers = [d for _, s in subnets for d in s.dns]
        if servers:
            found["nameservers"] = {"addresses": servers}
    return found


def _subnet(nic: Nic, address: str) -> SubnetView | None:
    value = ipaddress.ip_address(address)
    return next((s for s in nic.network.subnets if value in ipaddress.ip_network(s.cidr)), None)


def _plain(value: str) -> str:
    """As it is when that is one plain YAML word, otherwise quoted."""
    return value if _WORD.fullmatch(value) and value.lower() not in _YAML_WORDS else json.dumps(value)
