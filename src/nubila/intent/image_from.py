"""An image made from a volume: wished of the volume, whose node sends its bytes, until the image has them. Pure.

The wish stands in the volume's spec. Whatever ends the bringing of the content takes it out again, in the same draft.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec

from nubila import errors, protocol
from nubila.intent.asking import Asking, Outcome, builtins, wish
from nubila.intent.image import FETCH_DEADLINE_S, ImageCreate, progress, registered
from nubila.intent.volume_refuse import busy, not_ready
from nubila.intent.volume_wish import Change, begin, wake
from nubila.model import image, operation, volume
from nubila.model.draft import Draft, Drafted, Effect, Row
from nubila.model.ids import text

FORMATS = (image.Format.QCOW2, image.Format.RAW)
EXPORTS_MAX = 4  # of one volume at a time
BYTES_PER_S = 10 << 20  # what a node manages at least; the deadline is made of it


def check(body: ImageCreate) -> errors.Invalid | None:
    """What no view is needed for. Exactly one source is given."""
    given = [f for f in ("url", "volume", "vm") if getattr(body, f) is not None]
    if len(given) > 1:
        return errors.Invalid(f"An image has one source, not both {' and '.join(given)}.", field=given[1])
    for field in ("size_bytes", "sha256"):
        if getattr(body, field) is not None:
            return errors.Invalid(
                f"{field} is not known before a volume was copied.", field=field, fix="Leave it out: Nubila checks it."
            )
    if body.format not in FORMATS:
        return errors.Invalid(
            f"A disk becomes no image of format {body.format.value}.", field="format", fix="Choose qcow2 or raw."
        )
    return None


def create(body: ImageCreate, view: dict[str, Any], asking: Asking) -> Outcome:
    """`view`: of the volume, as its own verbs take it."""
    if asking.project_id is None:
        return errors.Forbidden(
            "An image is made from a volume by its project.", fix="Let a member of the project make it, and share it."
        )
    if body.public:
        return errors.Forbidden(
            "Only operators offer images to all projects.", fix="Leave 'public' out, and share it with chosen projects."
        )
    found = begin(view, asking)
    if isinstance(found, errors.NubilaError):
        return found
    if (fault := check(body) or not_ready(found.row, view) or busy(view) or _unfit(found)) is not None:
        return fault
    draft, volume_id = found.draft, text("volume", UUID(found.row["id"]))
    draft.rests_on("project", view["project"], compare=False)
    row = registered(body, draft, asking, origin=image.Origin.VOLUME, volume_id=volume_id)
    image_id = text("image", row["id"])
    export = volume.Export(image_id=image_id, format=volume.Format(body.format.value))
    spec = msgspec.structs.replace(found.spec, exports=(*found.spec.exports, export))
    draft.changes("volume", found.row, spec=builtins(spec), generation=found.generation)
    op = wish(
        asking, draft, operation.Verb.CREATE, kind="image", row={**row, "node_id": UUID(found.row["node_id"])},
        generation=1, deadline_s=FETCH_DEADLINE_S + spec.size_gib * (1 << 30) / BYTES_PER_S,
    )  # fmt: skip
    wake(found)
    details = {"format": body.format.value, "volume": found.row["name"], "bytes": _taken(view)}
    return Drafted(
        draft=draft,
        status=201,
        refers={"image": row["id"], "operation": op["id"]},
        effects=[Effect(action="create", kind="image", id=image_id, name=body.name, details=details)],
        hints=[f"node:{found.row['node_id']}"],
    )


def _unfit(found: Change) -> errors.NubilaError | None:
    if found.spec.image_format == image.Format.TAR:
        return errors.Unsupported(
            f"Volume '{found.row['name']}' is a container's root: no VM boots from an image of it.",
            fix="Pack the files inside of the container with tar, and upload that.",
        )
    if len(found.spec.exports) >= EXPORTS_MAX:
        return errors.Conflict(
            f"{len(found.spec.exports)} images are being made of volume '{found.row['name']}', and {EXPORTS_MAX} at a "
            "time are the most.",
            fix="Wait until one of them is ready.",
        )
    return None


def told(
    draft: Draft,
    row: Row,
    source: Row | None,
    operations: Sequence[Row],
    export: protocol.ExportReport,
    asking: Asking,
) -> None:
    """What the node says of its work at an image that waits for content."""
    if row["state"] != image.State.PENDING:
        return
    was = image.Status() if row["status"] is None else msgspec.convert(row["status"], image.Status)
    if export.hopeless:
        now = image.Status(failed=True, reason=export.reason)
        let_go(draft, source, export.image_id)
    else:
        now = image.Status(doing=export.doing, progress=export.progress, reason=export.reason)
    if now != was:
        progress(row, asking, now, operations, draft)


def let_go(draft: Draft, source: Row | None, image_id: str) -> list[str]:
    """The volume's node need not bring this image any more; returns the hints for after the commit."""
    if source is None or source["spec"]["gone"]:
        return []
    spec = msgspec.convert(source["spec"], volume.Spec)
    left = tuple([e for e in spec.exports if e.image_id != image_id])
    if left == spec.exports:
        return []
    spec = msgspec.structs.replace(spec, exports=left)
    draft.changes("volume", source, spec=builtins(spec), generation=source["generation"] + 1)
    draft.wakes(UUID(source["node_id"]), UUID(source["id"]), "volume")
    return [f"node:{source['node_id']}"]


def _taken(view: dict[str, Any]) -> str:
    """Which bytes these will be, for the plan."""
    for a in view["attachments"]:
        if a["vm"] is not None and (a["vm"]["status"] or {}).get("power") == "on":
            return (
                f"as they are at one moment while VM '{a['vm']['name']}' runs, as after a power cut; stop it first for "
                "what it has not written yet"
            )
    return "as they are: nothing writes them"
