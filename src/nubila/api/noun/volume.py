"""Volumes and their snapshots: create, change, attach, detach, roll back, remove."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

from nubila import errors
from nubila.api.context import ApiCall, carried, found, matching, project_of, ref
from nubila.api.noun.operation import operation_shown
from nubila.api.noun.shown import one_shown
from nubila.api.route import Answer
from nubila.intent import snapshot as snapshots
from nubila.intent import volume as verbs
from nubila.intent.asking import Asking, Outcome
from nubila.intent.carry import Done
from nubila.intent.volume_create import VolumeCreate, create
from nubila.model.ids import parse, text

Verb = Callable[[dict[str, Any], Asking], Outcome]


async def _shown(call: ApiCall, done: Done) -> dict[str, Any]:
    """What a verb answers: the object, and the operation that follows the wish."""
    out: dict[str, Any] = {}
    for kind in ("volume", "snapshot"):
        if (object_id := done.refers.get(kind)) is not None:
            out[kind] = await one_shown(call, kind, object_id)
    if (op_id := done.refers.get("operation")) is not None:
        op = await call.context.resources.one("operation", object_id=op_id)
        out["operation"] = None if op is None else operation_shown(call, op)
    return out


async def create_volume(call: ApiCall) -> Answer:
    """Create a volume: empty, from an image, or as a copy of another volume."""
    c, body = call.context, call.body
    assert isinstance(body, VolumeCreate)
    project_id = call.principal.project_id
    assert project_id is not None

    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        view = await c.volumes.create_view(
            project_id, body.name, _ref("image", body.image), _ref("volume", body.source), _ref("vm", body.for_vm)
        )
        seed = c.random_int(32)
        outcome = create(body, view, await c.fleet.snapshot(), asking(view["now"]), seed=seed)
        if isinstance(outcome, errors.NoCapacity):
            outcome = create(body, view, await c.fleet.snapshot(fresh=True), asking(view["now"]), seed=seed)
        return outcome

    return await carried(call, "volume.create", attempt, _shown)


def _ref(kind: str, value: str | None) -> tuple[str | None, UUID | None]:
    return value, None if value is None else parse(kind, value)


async def _view(call: ApiCall, value: str) -> dict[str, Any]:
    volume_id, name = ref("volume", value)
    view = await call.context.volumes.one_view(project_of(call), volume_id, name or "")
    if view is None:
        raise errors.NotFound(f"There is no volume '{value[:80]}'.", fix="See 'nubila volume list'.")
    matching(call, view["volume"])
    return view


async def _verb(call: ApiCall, permission: str, verb: Verb) -> Answer:
    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        view = await _view(call, call.params["volume"])
        return verb(view, asking(view["now"]))

    return await carried(call, permission, attempt, _shown)


async def change_volume(call: ApiCall) -> Answer:
    """Change a volume: enlarge it, limit it, choose its cache mode, rename or relabel it."""
    return await _verb(call, "volume.change", lambda view, asking: verbs.change(call.body, view, asking))


async def remove_volume(call: ApiCall) -> Answer:
    """Remove a volume with its bytes; refused while a VM has it, or snapshots or copies need it."""
    return await _verb(call, "volume.remove", verbs.remove)


async def attach_volume(call: ApiCall) -> Answer:
    """Attach a volume to a VM: at once when it runs, otherwise for its next start."""

    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        view = await _view(call, call.params["volume"])
        vm_id, name = ref("vm", call.body.vm)
        machine = await call.context.vms.one_view(UUID(view["volume"]["project_id"]), vm_id, name or "")
        return verbs.attach(call.body, view, machine, asking(view["now"]))

    return await carried(call, "volume.attach", attempt, _shown)


async def detach_volume(call: ApiCall) -> Answer:
    """Detach a volume from its VM; done when the VM provably cannot write it any more."""
    return await _verb(call, "volume.detach", verbs.detach)


async def roll_back_volume(call: ApiCall) -> Answer:
    """Bring back the bytes of a snapshot; what was written since is lost."""
    return await _verb(call, "volume.roll-back", lambda view, asking: verbs.roll_back(call.body, view, asking))


async def create_snapshot(call: ApiCall) -> Answer:
    """Keep the bytes that a volume has now, also while a VM writes it."""
    return await _verb(call, "snapshot.create", lambda view, asking: snapshots.create(call.body, view, asking))


async def remove_snapshot(call: ApiCall) -> Answer:
    """Remove a snapshot; its volume stays as it is."""

    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        row = await found(call, "snapshot", call.params["snapshot"], project_id=project_of(call))
        matching(call, row)
        view = await call.context.volumes.one_view(project_of(call), UUID(row["volume_id"]), "")
        if view is None:
            raise errors.NotFound(f"There is no snapshot '{text('snapshot', UUID(row['id']))}'.")
        return snapshots.remove(view, row, asking(view["now"]))

    return await carried(call, "snapshot.remove", attempt, _shown)
