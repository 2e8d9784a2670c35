"""Images: registered, changed, shared, removed. Their bytes are in image_content.py."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

from nubila import errors
from nubila.api.context import ApiCall, carried, found, is_operator, matching, project_of, ref
from nubila.api.noun.image_content import collect, own_image
from nubila.api.noun.shown import one_shown
from nubila.api.noun.simple import showing
from nubila.api.route import Answer
from nubila.intent import image as intent
from nubila.intent import image_from
from nubila.intent.asking import Asking, Outcome
from nubila.intent.carry import Done
from nubila.intent.catalog import new_in
from nubila.model.draft import Row
from nubila.model.ids import parse, text


async def create_image(call: ApiCall) -> Answer:
    """Register an image; upload its content next, or let Nubila bring it: from an address, or from a disk."""
    c, body = call.context, call.body
    if body.volume is not None or body.vm is not None:
        return await _create_from(call)
    sealed = None
    if body.url is not None:
        secret_id = c.carrier.mint()
        nonce, box = c.vault.seal(str(secret_id), body.url.encode(), c.random_bytes(12))
        sealed = intent.Sealed(secret_id, nonce.hex(), box.hex())

    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        outcome = intent.create(body, asking(await c.accounts.now()), sealed)
        if is_operator(call):
            return outcome
        project = await c.resources.whole("project", object_id=call.principal.project_id)
        if project is None:
            raise errors.NotFound("Your project does not exist any more.")
        return new_in(project, outcome)

    return await carried(call, "image.create", attempt, _made)


async def _create_from(call: ApiCall) -> Answer:
    if (wrong := image_from.check(call.body)) is not None:
        raise wrong

    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        view = await _source(call)
        outcome = image_from.create(call.body, view, asking(view["now"]))
        return outcome if view["project"] is None else new_in(view["project"], outcome)

    return await carried(call, "image.create", attempt, _made)


async def _source(call: ApiCall) -> dict[str, Any]:
    """The volume that the image is made from, as its verbs take it. A VM stands for its boot disk."""
    c, body, project_id = call.context, call.body, project_of(call)
    volume_id, name = (None, "") if body.volume is None else ref("volume", body.volume)
    if body.vm is not None:
        vm_id, vm_name = ref("vm", body.vm)
        machine = await c.vms.one_view(project_id, vm_id, vm_name or "")
        boot = next((a for a in machine["attachments"] if a["index"] == 0), None) if machine is not None else None
        if boot is None:
            raise errors.Invalid(f"There is no VM '{body.vm}' with a disk.", field="vm", fix="See 'nubila vm list'.")
        volume_id = UUID(boot["volume_id"])
    view = await c.volumes.one_view(project_id, volume_id, name or "")
    if view is None:
        raise errors.Invalid(f"There is no volume '{body.volume}'.", field="volume", fix="See 'nubila volume list'.")
    return view


async def _made(call: ApiCall, done: Done) -> dict[str, Any]:
    """The image; one that is fetched also with its operation."""
    shown: dict[str, Any] = await showing("image")(call, done)
    operation_id = done.refers.get("operation")
    if operation_id is None:
        return shown
    return {"image": shown, "operation": await one_shown(call, "operation", operation_id)}


async def remove_image(call: ApiCall) -> Answer:
    """Remove an image; refused while a VM or volume is based on it."""
    c = call.context
    gone: list[Row] = []

    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        row = await own_image(call)
        matching(call, row)
        gone[:] = [row]
        image_id = UUID(row["id"])
        users = [intent.User(**dict(r)) for r in await c.image_rows.users(image_id)]
        shares = [r["project_id"] for r in await c.image_rows.shares(image_id)]
        operations = await c.image_rows.operations(image_id)
        outcome = intent.remove(row, users, shares, operations, asking(await c.accounts.now()))
        if not isinstance(outcome, errors.NubilaError):
            outcome.hints += image_from.let_go(outcome.draft, await c.image_rows.source(row), text("image", image_id))
        return outcome

    answer = await carried(call, "image.remove", attempt, showing("image"))
    if gone and not call.plan:
        if gone[0]["sha256"] is not None:
            await collect(call, gone[0]["sha256"])
        await c.images.discard(text("image", UUID(gone[0]["id"])))
    return answer


async def list_shares(call: ApiCall) -> Answer:
    """With which projects an image is shared."""
    row = await own_image(call)
    return Answer(body={"items": await _shares(call, row), "next": None})


async def share_image(call: ApiCall) -> Answer:
    """Share an image with a project: it may make VMs from it."""

    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        row = await own_image(call)
        project = await _other(call)
        present = {r["project_id"] for r in await call.context.image_rows.shares(UUID(row["id"]))}
        shared = UUID(project["id"]) in present
        return intent.share(call.body, row, project, shared, asking(await call.context.accounts.now()))

    return await carried(call, "image.share", attempt, _shown_shares)


async def unshare_image(call: ApiCall) -> Answer:
    """Share an image with a project no longer. What the project made from it stays."""

    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        row = await own_image(call)
        present = {r["project_id"] for r in await call.context.image_rows.shares(UUID(row["id"]))}
        project_id = UUID((await _other(call))["id"])
        now = await call.context.accounts.now()
        return intent.unshare(row, project_id, project_id in present, asking(now))

    return await carried(call, "image.share", attempt, _shown_shares)


async def _other(call: ApiCall) -> Row:
    """The project that is shared with. Tenants say its id: names of other projects cannot be tried out."""
    value = call.params["project"]
    if not is_operator(call) and parse("project", value) is None:
        raise errors.NotFound(f"There is no project '{value[:80]}'.", fix="Ask the other project for its id, prj-...")
    return await found(call, "project", value)


async def _shown_shares(call: ApiCall, done: Done) -> dict[str, Any]:
    image_id = done.refers["image"]
    assert image_id is not None
    row = await found(call, "image", text("image", image_id), project_id=project_of(call))
    return {"image": text("image", image_id), "shares": await _shares(call, row)}


async def _shares(call: ApiCall, row: Row) -> list[dict[str, Any]]:
    """Tenants see the id that they said, and no name of another project."""
    rows = await call.context.image_rows.shares(UUID(row["id"]))
    names = is_operator(call)
    return [
        {"project_id": text("project", r["project_id"]), "right": r["right"]}
        | ({"project": r["name"]} if names else {})
        for r in rows
    ]
