"""The bytes of an image as they come in and go out: resumable uploads by one writer at a time, whole uploads, downloads.

What has come of an upload is a fact of the image store, so any process can say it and go on. A lease keeps a second
writer out; should one slip through a pause, the store's own lock or the lease's fence keeps its bytes out.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec

from nubila import errors
from nubila.api.context import ApiCall, carried, found, matching, project_of
from nubila.api.noun.simple import showing
from nubila.api.route import Answer
from nubila.drivers import DriverError, Full, Occupied, WrongOffset
from nubila.drivers.image_store import header
from nubila.drivers.image_store.base import Check, Stored
from nubila.intent import image as intent
from nubila.intent.asking import Asking, Outcome
from nubila.model import image
from nubila.model.draft import Row
from nubila.model.ids import text
from nubila.reconcile import image_lease
from nubila.reconcile.image_lease import Writer


class ContentQuery(msgspec.Struct, frozen=True):
    """Where the sent bytes begin, and how many there are of the whole."""

    offset: Annotated[int, msgspec.Meta(ge=0, le=image.MAX_BYTES, description="a number of bytes")]
    size_bytes: Annotated[int, msgspec.Meta(ge=1, le=image.MAX_BYTES, description="bytes of the whole image")]


async def own_image(call: ApiCall) -> Row:
    """The image for a change: a project changes only its own. Raises NotFound, Forbidden."""
    row = await found(call, "image", call.params["image"], project_id=project_of(call))
    mine = project_of(call)
    if mine is not None and row["project_id"] != str(mine):
        raise errors.Forbidden(
            f"Image '{row['name']}' is offered to your project and belongs to others.",
            fix="Change only images of your project.",
        )
    return row


async def upload_state(call: ApiCall) -> Answer:
    """What has come of an image's content: where an upload goes on."""
    row = await own_image(call)
    status = row["status"] or {}
    if row["state"] == image.State.READY:
        return Answer(body=_state(row, status["size_bytes"], status["size_bytes"]))
    with told():
        received = await call.context.images.received(text("image", UUID(row["id"])))
    return Answer(body=_state(row, received, row["spec"].get("size_bytes")))


async def append_content(call: ApiCall) -> Answer:
    """Send a part of an image's content, from the offset on up to which it has come; with its last byte it is checked."""
    query: ContentQuery = call.query
    row = await _fillable(call)
    announced = row["spec"].get("size_bytes")
    if announced is not None and announced != query.size_bytes:
        raise errors.Invalid(
            f"size_bytes is {query.size_bytes}; {announced} were announced.", field="size_bytes", where="query"
        )
    store, upload_id = call.context.images, text("image", UUID(row["id"]))
    async with writing(call, upload_id) as writer:
        with told():
            pieces = bounded(call, query.offset, query.size_bytes)
            received = await store.append(upload_id, query.offset, pieces, writer.fence)
        if received < query.size_bytes:
            return Answer(body=_state(row, received, query.size_bytes), status=202)
        return await _fill(call, row, writer, lambda check: store.finish(upload_id, check))


async def upload_image(call: ApiCall) -> Answer:
    """Upload the whole content of a registered image at once. It is checked, and never changes afterwards."""
    row = await _fillable(call)
    store, upload_id = call.context.images, text("image", UUID(row["id"]))
    async with writing(call, upload_id) as writer:
        with told():
            await store.discard(upload_id)
        return await _fill(call, row, writer, lambda check: store.put(call.stream(), check))


async def download_image(call: ApiCall) -> Answer:
    """Download an image's content."""
    row = await found(call, "image", call.params["image"], project_id=project_of(call))
    size = None if row["sha256"] is None else await call.context.images.size(row["sha256"])
    if size is None:
        raise errors.Conflict(f"Image '{row['name']}' has no content yet.", fix="Wait until it is ready.")
    body = call.context.images.get(row["sha256"])
    return Answer(body=body, length=size, media="application/octet-stream", headers={"x-sha256": row["sha256"]})


async def collect(call: ApiCall, sha256: str) -> None:
    """Bytes that no image has any more are removed; when that fails now, the background loop does it later."""
    c = call.context
    with contextlib.suppress(errors.NubilaError, DriverError):
        await image_lease.collect(c.work, c.image_rows, c.images, sha256)


def arrived(spec: image.Spec, stored: Stored) -> intent.Arrived:
    """What the bytes are, by our own reader of headers and the stated format. Raises Invalid."""
    try:
        virtual = header.inspect(stored.head, spec.format.value, stored.size_bytes).virtual_bytes
    except header.BadImage as e:
        raise errors.Invalid(
            f"The content is not an acceptable {spec.format.value} image: {e}.", field="content"
        ) from e
    came = intent.Arrived(sha256=stored.sha256, size_bytes=stored.size_bytes, virtual_bytes=virtual)
    if (wrong := intent.unexpected(spec, came)) is not None:
        raise wrong
    return came


@asynccontextmanager
async def writing(call: ApiCall, upload_id: str) -> AsyncIterator[Writer]:
    """Be the image's one writer. Raises Conflict while somebody else is."""
    async with image_lease.writing(call.context.work, upload_id) as writer:
        if writer is None:
            raise _occupied()
        yield writer


@contextlib.contextmanager
def told() -> Iterator[None]:
    """What an image store says, in the API's words."""
    try:
        yield
    except WrongOffset as e:
        raise errors.Conflict(
            f"{e.received} bytes have come; the next part must begin there.",
            fix=f"Send what follows, with offset={e.received}.",
            received_bytes=e.received,
        ) from e
    except Occupied as e:
        raise _occupied() from e
    except Full as e:
        raise errors.StoreFull(f"The content could not be stored: {e.reason}.", inside=str(e)) from e
    except DriverError as e:
        if not e.again:
            raise errors.TooLarge(f"The content could not be stored: {e.reason}.") from e
        raise errors.Transient(f"The content could not be stored: {e.reason}.", inside=str(e)) from e


# --- within


def _occupied() -> errors.Conflict:
    return errors.Conflict(
        "Somebody else is sending this image's content just now.",
        fix="Wait until that has ended or was silent for a minute; GET .../upload says what has come.",
    )


def _state(row: Row, received: int, size: int | None) -> dict[str, object]:
    image_id = text("image", UUID(row["id"]))
    return {"image": image_id, "state": row["state"], "received_bytes": received, "size_bytes": size}


async def _fillable(call: ApiCall) -> Row:
    row = await own_image(call)
    matching(call, row)
    refusal = intent.waits_for_content(row, image.Origin.UPLOAD)
    if refusal is not None:
        raise refusal
    return row


async def bounded(call: ApiCall, offset: int, size_bytes: int) -> AsyncIterator[bytes]:
    async for piece in call.stream():
        offset += len(piece)
        if offset > size_bytes:
            raise errors.Invalid(f"More than the announced {size_bytes} bytes came.", field="content")
        yield piece


async def _fill(call: ApiCall, row: Row, writer: Writer, store: Callable[[Check], Awaitable[Stored]]) -> Answer:
    """Store with a check of header, size and hash; what fails it never becomes visible. Then the image is these bytes."""
    spec = msgspec.convert(row["spec"], image.Spec)
    judged: list[intent.Arrived] = []

    async def check(stored: Stored) -> None:
        judged.append(arrived(spec, stored))
        await writer.holds(stored.sha256)

    with told():
        stored = await store(check)

    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        fresh = await own_image(call)
        matching(call, fresh)
        return intent.fill(fresh, asking(await call.context.accounts.now()), judged[0])

    try:
        return await carried(call, "image.upload", attempt, showing("image"))
    except errors.Terminal:
        await writer.end()
        await asyncio.shield(collect(call, stored.sha256))
        raise
