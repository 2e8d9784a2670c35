"""Networks with their subnets."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import msgspec

from nubila import errors
from nubila.api.context import ApiCall, carried, drafting_in_project, matching, project_of, ref
from nubila.api.noun.simple import showing
from nubila.api.route import Answer
from nubila.intent import network as intent
from nubila.intent.asking import Asking, Outcome


async def create_network(call: ApiCall) -> Answer:
    """Create a network."""
    ranges = await call.context.nodes.ranges()
    draft = drafting_in_project(call, lambda a: intent.create(call.body, a, host_ranges=ranges))
    return await carried(call, "network.create", draft, showing("network"))


async def remove_network(call: ApiCall) -> Answer:
    """Remove a network; refused while a VM has a port on it."""
    network_id, name = ref("network", call.params["network"])
    project_id = project_of(call)
    assert project_id is not None

    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        row = await call.context.accounts.network(project_id, network_id, name or "")
        if row is None:
            raise errors.NotFound(f"There is no network '{call.params['network'][:80]}'.")
        if row["ports"]:
            raise errors.InUse(f"The network is used by {row['ports']} ports.", users={"ports": row["ports"]})
        whole = msgspec.json.decode(row["network"])
        matching(call, whole)
        subnets, gateways = (msgspec.json.decode(row[k] or "[]") for k in ("subnets", "gateways"))
        return intent.remove(whole, subnets, gateways, asking(await call.context.accounts.now()))

    return await carried(call, "network.remove", attempt, showing("network"))
