"""Hypervisor drivers by name. The table holds names only, so that reading it imports no driver."""

DRIVERS: dict[str, str] = {
    "libvirt": "nubila.drivers.hypervisor.libvirt:LibvirtHypervisor",
    "lxc": "nubila.drivers.hypervisor.lxc:LxcHypervisor",
    "fake": "nubila.drivers.hypervisor.fake:FakeHypervisor",
}
