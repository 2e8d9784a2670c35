"""Networks with their subnets."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from uuid import UUID

import msgspec

from nubila import errors
from nubila.api.context import ApiCall, carried, drafting_in_project, found, matching, project_of
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

    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        seen = await found(call, "network", call.params["network"], project_id=project_of(call))
        row = await call.context.accounts.network(UUID(seen["project_id"]), UUID(seen["id"]), "")
        if row is None:
            raise errors.NotFound(f"There is no network '{call.params['network'][:80]}'.")
        whole = msgspec.json.decode(row["network"])
        matching(call, whole)
        subnets, gateways = (msgspec.json.decode(row[k] or "[]") for k in ("subnets", "gateways"))
        return intent.remove(whole, subnets, gateways, asking(await call.context.accounts.now()))

    return await carried(call, "network.remove", attempt, showing("network"))
