"""Images: registered first, filled once, never changed afterwards; shared with projects; removed when unused. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import urlsplit
from uuid import UUID

import msgspec

from nubila import errors
from nubila.intent import catalog
from nubila.intent.asking import Asking, Outcome, builtins, wish
from nubila.intent.cancelling import taken_back
from nubila.model import image, operation
from nubila.model.catalog import QuotaClass
from nubila.model.draft import Draft, Drafted, Effect, Row
from nubila.model.fields import Labels, Name, Reference
from nubila.model.ids import text

FETCH_DEADLINE_S = 3600.0
CANCELLING = "The content is not brought any more; the image stays, failed, until it is deleted."
Url = Annotated[str, msgspec.Meta(min_length=8, max_length=4096, description="an http or https address")]


class ImageCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Register an image; its content is uploaded next, or brought by Nubila: from `url`, from the disk that `volume` is,
    or from the boot disk of `vm`."""

    name: Name
    format: image.Format
    public: bool | None = None  # an operator's is, unless said otherwise; a project's never is
    os: Annotated[str, msgspec.Meta(max_length=63)] = "linux"
    login: Annotated[
        str,
        msgspec.Meta(
            max_length=32,
            pattern=r"^[a-z_][a-z0-9_-]*$(?!\n)",
            description="an account's name: lower-case letters, digits, '_' and '-', not beginning with a digit or '-'",
        ),
    ] = "root"
    min_disk_gib: Annotated[int, msgspec.Meta(ge=0, le=1024 * 1024)] = 0
    min_memory_mib: Annotated[int, msgspec.Meta(ge=0, le=16 * 1024 * 1024)] = 0
    labels: Labels = {}
    url: Url | None = None
    volume: Reference | None = None
    vm: Reference | None = None
    size_bytes: image.SizeBytes | None = None
    sha256: image.Sha256 | None = None


class Sealed(msgspec.Struct, frozen=True):
    """The whole address, encrypted by the caller before the draft is made: its query may hold a secret."""

    id: UUID
    nonce: str
    sealed: str


def create(body: ImageCreate, asking: Asking, sealed: Sealed | None = None) -> Outcome:
    operators = asking.project_id is None
    public = operators if body.public is None else body.public
    if public and not operators:
        return errors.Forbidden(
            "Only operators offer images to all projects.", fix="Leave 'public' out, and share it with chosen projects."
        )
    shown = None if body.url is None else _address(body.url)
    if isinstance(shown, errors.Invalid):
        return shown
    origin = image.Origin.UPLOAD if body.url is None else image.Origin.URL
    draft = asking.draft()
    row = registered(body, draft, asking, public=public, origin=origin, url=shown)
    refers: dict[str, UUID | None] = {"image": row["id"]}
    details: dict[str, str] = {"format": body.format.value}
    if shown is not None and sealed is not None:
        row["fetch_secret"] = sealed.id
        draft.inserts("secret", id=sealed.id, nonce=sealed.nonce, sealed=sealed.sealed)
        op = wish(
            asking, draft, operation.Verb.CREATE, kind="image", row={**row, "node_id": None}, generation=1,
            deadline_s=FETCH_DEADLINE_S,
        )  # fmt: skip
        refers["operation"] = op["id"]
        details["from"] = shown
    effect = Effect(action="create", kind="image", id=text("image", row["id"]), name=body.name, details=details)
    return Drafted(draft=draft, status=201, refers=refers, effects=[effect])


def registered(body: ImageCreate, draft: Draft, asking: Asking, **more: Any) -> Row:
    """The row of an image whose content has not come yet, with its claim. `more`: fields of its spec."""
    spec = image.Spec(
        format=body.format,
        os=body.os,
        login=body.login,
        min_disk_gib=body.min_disk_gib,
        min_memory_mib=body.min_memory_mib,
        size_bytes=body.size_bytes,
        sha256=body.sha256,
        **more,
    )
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
    if asking.project_id is not None:
        draft.takes_quota(asking.project_id, QuotaClass.IMAGES.value, 1)
    return row


def _address(url: str) -> str | errors.Invalid:
    """The address without its query, or why it cannot be one. Where it leads is looked at when it is fetched."""
    fix = "Give an http or https address of a file, without user and password."
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return errors.Invalid("url is not an address.", field="url", fix=fix)
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        return errors.Invalid("url must begin with http:// or https:// and name a host.", field="url", fix=fix)
    if "@" in parts.netloc:
        return errors.Invalid("url holds a user or a password.", field="url", fix=fix)
    if not url.isascii() or not url.isprintable() or " " in url:
        return errors.Invalid("url holds characters that must be written with %.", field="url", fix=fix)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


class Arrived(msgspec.Struct, frozen=True, kw_only=True):
    """What was stored and checked."""

    sha256: str
    size_bytes: int
    virtual_bytes: int


def unexpected(spec: image.Spec, arrived: Arrived) -> errors.Invalid | None:
    """Why this content is not what was announced, or is more than any image may be."""
    if spec.size_bytes is not None and arrived.size_bytes != spec.size_bytes:
        return errors.Invalid(f"{arrived.size_bytes} bytes came; {spec.size_bytes} were announced.", field="content")
    if spec.sha256 is not None and arrived.sha256 != spec.sha256:
        return errors.Invalid(
            f"The content's SHA-256 is {arrived.sha256}; {spec.sha256} was announced.",
            field="content",
            fix="Look whether the file is whole, and send it again from its beginning.",
        )
    if arrived.virtual_bytes > image.MAX_VIRTUAL_BYTES:
        return errors.Invalid(
            f"The image's disk would have {arrived.virtual_bytes >> 30} GiB; at most {image.MAX_VIRTUAL_BYTES >> 30} are "
            "accepted.",
            field="content",
            fix="Make the image's disk smaller.",
        )
    return None


def fill(row: Row, asking: Asking, arrived: Arrived, operations: Sequence[Row] = ()) -> Outcome:
    """The content is stored and its header was checked: from here on the image is these bytes."""
    object_id = UUID(row["id"])
    draft = asking.draft()
    if row["state"] == image.State.READY and row["sha256"] == arrived.sha256:
        return Drafted(draft=draft, status=200, refers={"image": object_id})
    if (refusal := waits_for_content(row)) is not None:
        return refusal
    spec = msgspec.convert(row["spec"], image.Spec)
    if (wrong := unexpected(spec, arrived)) is not None:
        return wrong
    # A medium is put into a drive and needs no disk of its size.
    need = 0 if spec.format is image.Format.ISO else -(-arrived.virtual_bytes // (1 << 30))
    spec = msgspec.structs.replace(spec, min_disk_gib=max(spec.min_disk_gib, need))
    status = image.Status(sha256=arrived.sha256, size_bytes=arrived.size_bytes, virtual_bytes=arrived.virtual_bytes)
    generation = row["generation"] + 1
    draft.changes(
        "image",
        row,
        spec=builtins(spec),
        generation=generation,
        status=builtins(status),
        observed_generation=generation,
        sha256=arrived.sha256,
        state=image.state(spec, status, was=image.State(row["state"])).value,
    )
    hints = _end_operations(asking, draft, operations, operation.State.DONE, None)
    effect = Effect(
        action="change",
        kind="image",
        id=text("image", object_id),
        name=row["name"],
        details={"sha256": arrived.sha256},
    )
    return Drafted(draft=draft, status=200, refers={"image": object_id}, effects=[effect], hints=hints)


def waits_for_content(row: Row, origin: image.Origin | None = None) -> errors.Conflict | None:
    """Why no content can come into this image, or None. `origin`: who wants to bring it."""
    if row["state"] == image.State.FAILED:
        reason = (row["status"] or {}).get("reason")
        return errors.Conflict(f"Image '{row['name']}' has failed: {reason}.", fix="Delete it and make a new one.")
    if row["state"] != image.State.PENDING:
        return errors.Conflict(
            f"Image '{row['name']}' has its content already; an image never changes.", fix="Register a new image."
        )
    if origin is not None and row["spec"].get("origin", image.Origin.UPLOAD.value) != origin:
        return errors.Conflict(
            f"The content of image '{row['name']}' is not uploaded: Nubila brings it.",
            fix="Wait for it, or delete the image and register one without a source.",
        )
    return None


def progress(
    row: Row, asking: Asking, status: image.Status, operations: Sequence[Row], draft: Draft | None = None
) -> Draft:
    """What the bringing of the content has come to: seen in the image and in its operation."""
    spec = msgspec.convert(row["spec"], image.Spec)
    draft = asking.draft() if draft is None else draft
    became = image.state(spec, status, was=image.State(row["state"]))
    draft.changes("image", row, version=True, status=builtins(status), state=became.value)
    if became is image.State.FAILED:
        _end_operations(asking, draft, operations, operation.State.CANCELLED, f"gave up: {status.reason}")
        return draft
    for op in operations:
        was = operation.Status() if op["status"] is None else msgspec.convert(op["status"], operation.Status)
        now = msgspec.structs.replace(was, doing=status.doing, progress=status.progress, reason=status.reason)
        draft.changes("operation", op, version=True, status=builtins(now), state=operation.State.RUNNING.value)
    return draft


def cancel(row: Row, op: Row, asking: Asking) -> Drafted:
    """The bringing of an image's content is given up; what came of it is dropped."""
    status = image.Status(failed=True, reason="cancelled on request")
    draft = asking.draft()
    draft.changes("image", row, version=True, status=builtins(status), state=image.State.FAILED.value)
    hints = _end_operations(asking, draft, [op], operation.State.CANCELLED, "cancelled on request")
    return taken_back(op, draft, CANCELLING, hints)


def _end_operations(
    asking: Asking, draft: Draft, operations: Sequence[Row], state: operation.State, reason: str | None
) -> list[str]:
    for op in operations:
        status = {**(op["status"] or {}), "reason": reason, "doing": None}
        draft.changes("operation", op, version=True, state=state.value, status=status, ended_at=asking.now)
    return [f"op:{op['id']}" for op in operations]


# --- sharing


class Sharing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Share an image with a project: it may make VMs from it."""

    right: image.Right = image.Right.USE


def share(body: Sharing, row: Row, project: Row, present: bool, asking: Asking) -> Outcome:
    draft = asking.draft()
    refers: dict[str, UUID | None] = {"image": UUID(row["id"])}
    if project["id"] == row["project_id"]:
        return errors.Conflict(f"Image '{row['name']}' belongs to that project.", fix="Name another project.")
    if present:
        return Drafted(draft=draft, status=200, refers=refers)
    draft.rests_on("project", project, compare=False)
    draft.rests_on("image", row, compare=False)
    draft.inserts("share", kind="image", object_id=row["id"], project_id=project["id"], right=body.right.value)
    return Drafted(draft=draft, status=200, refers=refers, effects=[_shared("create", row, project["id"], body.right)])


def unshare(row: Row, project_id: UUID, present: bool, asking: Asking) -> Outcome:
    """What the project made from the image stays as it is."""
    draft = asking.draft()
    refers: dict[str, UUID | None] = {"image": UUID(row["id"])}
    if not present:
        return Drafted(draft=draft, status=200, refers=refers)
    draft.rests_on("image", row, compare=False)
    draft.deletes("share", kind="image", object_id=row["id"], project_id=project_id)
    return Drafted(
        draft=draft, status=200, refers=refers, effects=[_shared("remove", row, project_id, image.Right.USE)]
    )


def _shared(action: str, row: Row, project_id: UUID | str, right: image.Right) -> Effect:
    with_whom = text("project", project_id if isinstance(project_id, UUID) else UUID(project_id))
    return Effect(
        action=action,
        kind="share",
        id=text("image", UUID(row["id"])),
        name=row["name"],
        details={"project": with_whom, "right": right.value},
    )


# --- removal


class User(msgspec.Struct, frozen=True, kw_only=True):
    """Something made from an image."""

    kind: str
    id: UUID
    name: str
    project_id: UUID


def remove(
    row: Row, users: Sequence[User], shares: Sequence[UUID], operations: Sequence[Row], asking: Asking
) -> Outcome:
    """Refused while anything is made from it; the own ones are named, those of other projects are counted."""
    if users:
        seen = [u for u in users if asking.operator or u.project_id == asking.project_id]
        named = [f"{u.kind} {u.name}" for u in seen]
        others = len(users) - len(seen)
        if others:
            named.append("something of another project" if others == 1 else f"{others} things of other projects")
        return errors.InUse(
            f"Image '{row['name']}' is used by {', '.join(named[:5])}{' and more' if len(named) > 5 else ''}.",
            users=[{"kind": u.kind, "id": text(u.kind, u.id), "name": u.name} for u in seen],
            others=others,
        )
    outcome = catalog.remove(
        "image", row, asking, counted=None if row["project_id"] is None else QuotaClass.IMAGES.value
    )
    assert isinstance(outcome, Drafted)
    for project_id in shares:
        outcome.draft.deletes("share", kind="image", object_id=row["id"], project_id=project_id)
    if row["fetch_secret"] is not None:
        outcome.draft.deletes("secret", id=row["fetch_secret"])
    outcome.hints += _end_operations(
        asking, outcome.draft, operations, operation.State.OVERTAKEN, "the image was deleted"
    )
    return outcome
