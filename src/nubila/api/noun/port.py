"""Ports."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

from nubila import errors
from nubila.api.context import ApiCall, carried, found, matching, project_of, ref
from nubila.api.noun.operation import operation_shown
from nubila.api.noun.shown import one_shown
from nubila.api.noun.simple import showing
from nubila.api.noun.vm import viewed
from nubila.api.route import Answer
from nubila.intent import port as intent
from nubila.intent import port_wish
from nubila.intent.asking import Asking, Outcome
from nubila.intent.carry import Done
from nubila.model.draft import Row
from nubila.model.ids import text

CANDIDATES = 16  # random numbers, of which free addresses are made


async def change_port(call: ApiCall) -> Answer:
    """Change the security groups and the limits of a port, also while its VM runs."""
    project_id = project_of(call)
    assert project_id is not None

    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        row = await found(call, "port", call.params["port"], project_id=project_id)
        matching(call, row)
        view = await call.context.vms.one_view(project_id, UUID(row["vm_id"]), "")
        if view is None:
            raise errors.NotFound(f"There is no port '{call.params['port'][:80]}'.")
        known = await call.context.ports.groups(project_id)
        return intent.change(call.body, row, view, known["groups"], asking(view["now"]))

    return await carried(call, "port.change", attempt, showing("port"))


async def _shown(call: ApiCall, done: Done) -> dict[str, Any]:
    """What a verb answers: the port, and the operation that follows the wish."""
    out: dict[str, Any] = {}
    if (port_id := done.refers.get("port")) is not None:
        out["port"] = await one_shown(call, "port", port_id)
    if (op_id := done.refers.get("operation")) is not None:
        op = await call.context.resources.one("operation", object_id=op_id)
        out["operation"] = None if op is None else operation_shown(call, op)
    return out


async def create_port(call: ApiCall) -> Answer:
    """Give a VM one more port: its guest sees a new interface at once when it runs, otherwise at its next start."""

    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        view = await viewed(call)
        network_id, name = ref("network", call.body.network)
        place = await _place(call, view["vm"], (name or "", network_id))
        known = await call.context.ports.groups(UUID(view["vm"]["project_id"]))
        random = call.context.random_int(40)
        return port_wish.create(call.body, view, place, known["groups"], asking(view["now"]), random=random)

    return await carried(call, "port.create", attempt, _shown)


async def remove_port(call: ApiCall) -> Answer:
    """Remove a port: its guest lets go of the interface first. The last one of a VM goes with the VM only."""

    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        row, view = await _viewed(call)
        return port_wish.remove(row, view, asking(view["now"]))

    return await carried(call, "port.remove", attempt, _shown)


async def assign_address(call: ApiCall) -> Answer:
    """Give a port one more address of its network."""

    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        row, view = await _viewed(call)
        place = await _place(call, view["vm"], ("", UUID(row["network_id"])))
        random = call.context.random_int(62)
        return port_wish.assign(call.body, row, view, place, asking(view["now"]), random=random)

    return await carried(call, "port.assign", attempt, _shown)


async def unassign_address(call: ApiCall) -> Answer:
    """Take an address from a port; others may have it once the node lets none of it through."""

    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        row, view = await _viewed(call)
        return port_wish.unassign(call.params["address"], row, view, asking(view["now"]))

    return await carried(call, "port.unassign", attempt, _shown)


async def _viewed(call: ApiCall) -> tuple[Row, dict[str, Any]]:
    """The port and its vm with all that the verbs decide on. Raises NotFound and PreconditionFailed."""
    row = await found(call, "port", call.params["port"], project_id=project_of(call))
    matching(call, row)
    view = await call.context.vms.one_view(project_of(call), UUID(row["vm_id"]), "")
    if view is None:
        raise errors.NotFound(f"There is no port '{text('port', UUID(row['id']))}'.", fix="See 'nubila port list'.")
    return row, view


async def _place(call: ApiCall, machine: Row, network: tuple[str, UUID | None]) -> dict[str, Any]:
    c = call.context
    random = c.random_ints(62, CANDIDATES)
    return await c.ports.place(UUID(machine["project_id"]), network, UUID(machine["node_id"]), random)
