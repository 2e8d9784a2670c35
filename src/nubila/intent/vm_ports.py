"""The ports of a new vm: MAC, addresses and groups. Called by `vm_create.py`; pure: which MAC and which of the free
addresses comes from the entropy given.
"""

from __future__ import annotations

from uuid import UUID

from nubila import errors
from nubila.intent.asking import Asking, builtins
from nubila.model import network
from nubila.model.draft import Draft, Effect, Row
from nubila.model.ids import text


def ports(
    draft: Draft, asking: Asking, made: Row, networks: list[Row], groups: list[Row], entropy: list[int]
) -> list[Effect] | errors.NubilaError:
    effects = []
    _join(draft, made, groups)
    for index, net in enumerate(networks):
        mac = network.mac(entropy[index])
        port_id = asking.mint()
        addresses = []
        for subnet in net["subnets"]:
            if ":" in subnet["cidr"]:
                address = network.eui64(subnet["cidr"], mac)
            elif not subnet["free"]:
                return errors.NoCapacity(
                    f"Network '{net['name']}' has no free address left in {subnet['cidr']}.",
                    fix="Remove VMs, or create a larger network.",
                )
            else:
                address = subnet["free"][entropy[index] % len(subnet["free"])]  # any: parallel creates want others
            addresses.append(address)
            draft.inserts(
                "address",
                network_id=net["id"],
                address=address,
                subnet_id=subnet["id"],
                port_id=port_id,
                origin="allocated",
            )
        draft.inserts(
            "port",
            id=port_id,
            project_id=asking.project_id,
            name=f"{made['name']}-{index}-{text('port', port_id)[-6:]}",
            spec=builtins(network.PortSpec(mac=mac, index=index)),
            generation=1,
            state="pending",
            network_id=net["id"],
            vm_id=made["id"],
            node_id=made["node_id"],
            epoch=1,
            mac=mac,
            group_ids=[g["id"] for g in groups],
        )
        effects.append(
            Effect(
                action="create",
                kind="port",
                id=text("port", port_id),
                name=draft.insert["port"][-1]["name"],
                details={
                    "network": net["name"],
                    "mac": mac,
                    "addresses": addresses,
                    "groups": [g["name"] for g in groups],
                },
            )
        )
    return effects


def _join(draft: Draft, made: Row, groups: list[Row]) -> None:
    """The node needs the rules of these groups; nodes whose groups name them need the new addresses."""
    for g in groups:
        draft.rests_on("security_group", g, compare=False)
        draft.wakes(made["node_id"], UUID(g["id"]), "security_group")
    draft.changes_groups(members=[g["id"] for g in groups])
