"""What the spec and the status of each kind are: a literal table, for whoever shows a row of any kind."""

from __future__ import annotations

from nubila.model import catalog, image, network, node, operation, vm, volume

# kind -> (spec, status); None: it has none that is described
SHAPES: dict[str, tuple[type | None, type | None]] = {
    "project": (catalog.ProjectSpec, None),
    "user": (catalog.AccountSpec, None),
    "operator": (catalog.AccountSpec, None),
    "token": (catalog.TokenSpec, None),
    "keypair": (catalog.KeypairSpec, None),
    "flavor": (catalog.FlavorSpec, None),
    "image": (image.Spec, image.Status),
    "node": (node.Spec, node.Status),
    "network": (network.NetworkSpec, None),
    "subnet": (network.SubnetSpec, None),
    "port": (network.PortSpec, network.PortStatus),
    "vm": (vm.Spec, vm.Status),
    "volume": (volume.Spec, volume.Status),
    "operation": (operation.Spec, operation.Status),
}

# What tenants see of the change log, and of what a plan would write there.
TENANT_KINDS = (
    "vm",
    "volume",
    "snapshot",
    "port",
    "security_group",
    "network",
    "subnet",
    "operation",
    "keypair",
    "project",
    "image",
)
