"""Images: registered first, filled once, never changed afterwards. Pure."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import msgspec

from nubila import errors
from nubila.intent.asking import Asking, Outcome, builtins
from nubila.model import image
from nubila.model.draft import Drafted, Effect, Row
from nubila.model.fields import Labels, Name
from nubila.model.ids import text


class ImageCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Register an image; its content is uploaded next."""

    name: Name
    format: image.Format
    public: bool = True
    os: Annotated[str, msgspec.Meta(max_length=63)] = "linux"
    login: Annotated[
        str,
        msgspec.Meta(
            max_length=32,
            pattern=r"^[a-z_][a-z0-9_-]*$",
            description="an account's name: lower-case letters, digits, '_' and '-', not beginning with a digit or '-'",
        ),
    ] = "root"
    min_disk_gib: Annotated[int, msgspec.Meta(ge=0, le=1024 * 1024)] = 0
    min_memory_mib: Annotated[int, msgspec.Meta(ge=0, le=16 * 1024 * 1024)] = 0
    labels: Labels = {}


def create(body: ImageCreate, asking: Asking) -> Outcome:
    spec = image.Spec(
        format=body.format,
        public=body.public,
        os=body.os,
        login=body.login,
        min_disk_gib=body.min_disk_gib,
        min_memory_mib=body.min_memory_mib,
    )
    draft = asking.draft()
    row = draft.inserts(
        "image",
        id=asking.mint(),
        project_id=asking.project_id,
        name=body.name,
        labels=body.labels,
        spec=builtins(spec),
        generation=1,
        state=image.State.PENDING.value,
        sha256=None,
    )
    effect = Effect(
        action="create",
        kind="image",
        id=text("image", row["id"]),
        name=body.name,
        details={"format": body.format.value},
    )
    return Drafted(draft=draft, status=201, refers={"image": row["id"]}, effects=[effect])


def fill(row: Row, asking: Asking, *, sha256: str, size_bytes: int, virtual_bytes: int) -> Outcome:
    """The content is stored and its header was checked: from here on the image is these bytes."""
    object_id = UUID(row["id"])
    draft = asking.draft()
    if row["state"] == image.State.READY:
        if row["sha256"] == sha256:
            return Drafted(draft=draft, status=200, refers={"image": object_id})
        return errors.Conflict(
            f"Image '{row['name']}' has its content already; an image never changes.", fix="Register a new image."
        )
    need = -(-virtual_bytes // (1 << 30))
    spec = {**row["spec"], "min_disk_gib": max(row["spec"]["min_disk_gib"], need)}
    status = image.Status(sha256=sha256, size_bytes=size_bytes, virtual_bytes=virtual_bytes)
    generation = row["generation"] + 1
    draft.changes(
        "image",
        row,
        spec=spec,
        generation=generation,
        status=builtins(status),
        observed_generation=generation,
        sha256=sha256,
        state=image.State.READY.value,
    )
    effect = Effect(
        action="change", kind="image", id=text("image", object_id), name=row["name"], details={"sha256": sha256}
    )
    return Drafted(draft=draft, status=200, refers={"image": object_id}, effects=[effect])
