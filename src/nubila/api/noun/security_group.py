"""Security groups."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

from nubila import errors
from nubila.api.context import ApiCall, carried, matching, project_of, ref
from nubila.api.noun.simple import showing
from nubila.api.route import Answer
from nubila.intent import security_group as intent
from nubila.intent.asking import Asking, Outcome
from nubila.intent.catalog import new_in
from nubila.model.draft import Row

KIND = "security_group"


async def create_group(call: ApiCall) -> Answer:
    """Create a security group."""
    project_id = project_of(call)
    assert project_id is not None

    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        project = await call.context.resources.whole("project", object_id=project_id)
        if project is None:
            raise errors.NotFound("Your project does not exist any more.")
        view = await call.context.ports.groups(project_id)
        return new_in(project, intent.create(call.body, view["groups"], asking(view["now"])))

    return await carried(call, "security_group.create", attempt, showing(KIND))


async def change_group(call: ApiCall) -> Answer:
    """Change a security group; its rules are replaced as a whole, and hold on running ports within a second."""
    return await _changing(call, "security_group.change", lambda row, known, a: intent.change(call.body, row, known, a))


async def remove_group(call: ApiCall) -> Answer:
    """Remove a security group; refused while a port is in it or another group's rule names it."""
    return await _changing(call, "security_group.remove", lambda row, known, a: intent.remove(row, row["users"], a))


async def _changing(call: ApiCall, permission: str, make: Callable[[Row, list[Row], Asking], Outcome]) -> Answer:
    project_id = project_of(call)
    assert project_id is not None
    group_id, name = ref(KIND, call.params[KIND])

    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        view: dict[str, Any] = await call.context.ports.groups(project_id)
        row = next((g for g in view["groups"] if g["name"] == name or UUID(g["id"]) == group_id), None)
        if row is None:
            raise errors.NotFound(f"There is no security group '{call.params[KIND][:80]}'.", fix=intent.SEE)
        matching(call, row)
        return make(row, view["groups"], asking(view["now"]))

    return await carried(call, permission, attempt, showing(KIND))
