"""The content of an image as a node sends it that made it of a volume: resumable, and checked against the hash that the
node took of the whole. Only the node of the image's own volume may."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec

from nubila import errors, protocol
from nubila.api.context import ApiCall
from nubila.api.noun.image_content import arrived, bounded, collect, told, writing
from nubila.api.route import Answer
from nubila.drivers.image_store.base import Stored
from nubila.intent import image as intent
from nubila.intent import image_from
from nubila.intent.asking import Asking, Outcome
from nubila.intent.carry import Caller
from nubila.model import image
from nubila.model.draft import Row
from nubila.model.ids import parse, text
from nubila.reconcile.image_lease import Writer


class SendQuery(msgspec.Struct, frozen=True):
    """Where the sent bytes begin, how many the whole has, and its hash."""

    offset: Annotated[int, msgspec.Meta(ge=0, le=image.MAX_BYTES)]
    size_bytes: Annotated[int, msgspec.Meta(ge=1, le=1 << 53)]
    sha256: image.Sha256


async def sending(call: ApiCall) -> Answer:
    """What has come of an image's content: where this node goes on."""
    row = await _mine(call)
    with told():
        received = await call.context.images.received(text("image", UUID(row["id"])))
    return Answer(body=protocol.Received(received_bytes=received))


async def send(call: ApiCall) -> Answer:
    """Send a part of an image's content, from the offset on up to which it has come; with its last byte it is checked."""
    query: SendQuery = call.query
    row = await _mine(call)
    if query.size_bytes > image.MAX_BYTES:
        raise errors.TooLarge(
            f"The image would have {query.size_bytes >> 30} GiB; {image.MAX_BYTES >> 30} GiB are the most."
        )
    store, upload_id = call.context.images, text("image", UUID(row["id"]))
    async with writing(call, upload_id) as writer:
        with told():
            pieces = bounded(call, query.offset, query.size_bytes)
            received = await store.append(upload_id, query.offset, pieces, writer.fence)
        if received >= query.size_bytes:
            await _fill(call, row, writer, query.sha256)
        return Answer(body=protocol.Received(received_bytes=received))


async def _mine(call: ApiCall) -> Row:
    """An image that waits for content of this node. Raises NotFound, Conflict."""
    image_id = parse("image", call.params["image"])
    row = None if image_id is None else await call.context.resources.whole("image", object_id=image_id)
    source = None if row is None else await call.context.image_rows.source(row)
    if row is None or source is None or source["node_id"] != str(call.principal.node_id):
        raise errors.NotFound("No image is made from a volume of this node under that id.")
    refusal = intent.waits_for_content(row, image.Origin.VOLUME)
    if refusal is not None:
        raise refusal
    return row


async def _fill(call: ApiCall, row: Row, writer: Writer, sha256: str) -> None:
    c, upload_id = call.context, text("image", UUID(row["id"]))
    spec = msgspec.convert(row["spec"], image.Spec)
    judged: list[intent.Arrived] = []

    async def check(stored: Stored) -> None:
        if stored.sha256 != sha256:
            raise errors.Invalid(f"The content's SHA-256 is {stored.sha256}; {sha256} was announced.", field="content")
        judged.append(arrived(spec, stored))
        await writer.holds(stored.sha256)

    with told():
        await c.images.finish(upload_id, check)

    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        fresh = await _mine(call)
        operations = await c.image_rows.operations(UUID(row["id"]))
        outcome = intent.fill(fresh, asking(await c.accounts.now()), judged[0], operations)
        if not isinstance(outcome, errors.NubilaError):
            outcome.hints += image_from.let_go(outcome.draft, await c.image_rows.source(fresh), upload_id)
        return outcome

    caller = Caller(actor=call.principal.actor, request=call.request_id, action="image.send", operator=True)
    try:
        await c.carrier.carry(caller, attempt)
    except errors.Terminal:
        await writer.end()
        await asyncio.shield(collect(call, sha256))
        raise
