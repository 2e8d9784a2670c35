"""Ports."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from nubila import errors
from nubila.api.context import ApiCall, carried, found, matching, project_of
from nubila.api.noun.simple import showing
from nubila.api.route import Answer
from nubila.intent import port as intent
from nubila.intent.asking import Asking, Outcome


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
