"""Images: registered, filled by one upload, removed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

from nubila import errors
from nubila.api.context import ApiCall, carried, drafting, found, matching, project_of
from nubila.api.noun.simple import showing
from nubila.api.route import Answer
from nubila.drivers import DriverError
from nubila.drivers.image_store import header
from nubila.intent import catalog
from nubila.intent import image as intent
from nubila.intent.asking import Asking, Outcome


async def create_image(call: ApiCall) -> Answer:
    """Register an image; upload its content next."""
    return await carried(call, "image.create", drafting(call, lambda a: intent.create(call.body, a)), showing("image"))


async def upload_image(call: ApiCall) -> Answer:
    """Upload the content of a registered image. It is checked, and never changes afterwards."""
    row = await found(call, "image", call.params["image"], project_id=project_of(call))
    store = call.context.images
    try:
        stored = await store.put(call.stream())
    except DriverError as e:
        raise errors.Transient(f"The content could not be stored: {e.reason}.", inside=str(e)) from e
    try:
        virtual = header.inspect(stored.head, row["spec"]["format"], stored.size_bytes).virtual_bytes
    except header.BadImage as e:
        await asyncio.shield(_drop(call, stored.sha256))
        raise errors.Invalid(
            f"The content is not an acceptable {row['spec']['format']} image: {e}.", field="content"
        ) from e

    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        fresh = await found(call, "image", call.params["image"], project_id=project_of(call))
        matching(call, fresh)
        return intent.fill(
            fresh,
            asking(await call.context.accounts.now()),
            sha256=stored.sha256,
            size_bytes=stored.size_bytes,
            virtual_bytes=virtual,
        )

    return await carried(call, "image.upload", attempt, showing("image"))


async def remove_image(call: ApiCall) -> Answer:
    """Remove an image; refused while a VM or volume is based on it."""

    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        row = await found(call, "image", call.params["image"], project_id=project_of(call))
        matching(call, row)
        return catalog.remove("image", row, asking(await call.context.accounts.now()))

    answer = await carried(call, "image.remove", attempt, showing("image"))
    return answer


async def _drop(call: ApiCall, sha256: str) -> None:
    """Bytes that became no image are removed, unless an image of the same content exists."""
    if not await call.context.resources.image_uses(sha256):
        await call.context.images.remove(sha256)
