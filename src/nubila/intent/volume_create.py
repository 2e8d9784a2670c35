"""Create a volume on its own: empty, from an image, or as a copy of another one. Pure."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec

from nubila import errors
from nubila.intent.asking import Asking, Outcome, builtins, wish
from nubila.intent.refusing import over_quota
from nubila.model import image, operation, volume
from nubila.model.draft import Draft, Drafted, Effect, Row
from nubila.model.fields import Labels, Name, Reference, SizeGib
from nubila.model.ids import text
from nubila.placement.decide import Refusal, decide
from nubila.placement.nodes import Nodes, Request

View = dict[str, Any]


class VolumeCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Create a volume: empty, from an image, or as a copy of another volume. `for_vm` places it beside that VM."""

    name: Name
    size_gib: SizeGib | None = None
    format: volume.Format | None = None
    image: Reference | None = None
    source: Reference | None = None
    for_vm: Reference | None = None
    cache: volume.Cache = volume.Cache.DEFAULT
    limits: volume.Limits = volume.Limits()
    labels: Labels = {}


class Place(msgspec.Struct, frozen=True):
    node_id: UUID
    node_name: str


def create(body: VolumeCreate, view: View, nodes: Nodes, asking: Asking, *, seed: int) -> Outcome:
    assert asking.project_id is not None
    size_gib = _check(body, view)
    if isinstance(size_gib, errors.NubilaError):
        return size_gib
    needs = {"volumes": 1, "disk_gib": size_gib}
    over = over_quota(needs, view["quota"] or {}, "volume")
    if over is not None:
        return over
    place = _place(size_gib, view, nodes, asking, seed)
    if isinstance(place, errors.NubilaError):
        return place
    draft = asking.draft()
    draft.rests_on("project", view["project"])
    row = _rows(body, view, draft, asking, size_gib, place)
    for class_, amount in needs.items():
        draft.takes_quota(asking.project_id, class_, amount)
    op = wish(asking, draft, operation.Verb.CREATE, kind="volume", row=row, generation=1, deadline_s=_deadline_s(body))
    holds(draft, asking, row, epoch=1, operation_id=op["id"])
    draft.wakes(place.node_id, row["id"], "volume")
    effect = Effect(
        action="create",
        kind="volume",
        id=text("volume", row["id"]),
        name=body.name,
        details={"size_gib": size_gib, "format": row["spec"]["format"], "pool": row["spec"]["pool"]}
        | ({"image": view["image"]["name"]} if body.image else {})
        | ({"copy_of": view["source"]["name"]} if body.source else {}),
        operator_details={"node": place.node_name},
    )
    return Drafted(
        draft=draft,
        status=201,
        refers={"volume": row["id"], "operation": op["id"]},
        effects=[effect],
        hints=[f"node:{place.node_id}"],
    )


def holds(draft: Draft, asking: Asking, row: Row, *, epoch: int, operation_id: UUID) -> None:
    """Whoever writes holds an epoch, jobs too: this one ends with the node's word that the job is done."""
    draft.inserts(
        "attachment",
        id=asking.mint(),
        project_id=row["project_id"],
        volume_id=row["id"],
        operation_id=operation_id,
        node_id=row["node_id"],
        epoch=epoch,
        index=0,
        state="active",
    )


def _deadline_s(body: VolumeCreate) -> float:
    return 3600.0 if body.source or body.image else operation.DEADLINE_S[operation.Verb.CREATE]


def _check(body: VolumeCreate, view: View) -> int | errors.NubilaError:
    """The size, or what is wrong."""
    if view["project"] is None:
        return errors.NotFound("Your project does not exist any more.")
    if view["project"]["spec"]["suspended"]:
        return errors.Forbidden("The project is suspended: it keeps what it has, and nothing new can be made.")
    if view["taken"]:
        return errors.NameTaken(f"A volume named '{body.name}' exists in this project.", kind="volume")
    if body.image is not None and body.source is not None:
        return errors.Invalid("A volume is made from an image or from another volume, not from both.", field="source")
    fault = volume.limits_fault(body.limits)
    if fault is not None:
        return errors.Invalid(f"limits: {fault}.", field="limits")
    if body.for_vm is not None and view["vm"] is None:
        return errors.Invalid(f"There is no VM '{body.for_vm}'.", field="for_vm", fix="See 'nubila vm list'.")
    if body.image is not None:
        return _from_image(body, view["image"])
    if body.source is not None:
        return _from_volume(body, view)
    if body.size_gib is None:
        return errors.Invalid("An empty volume needs a size.", field="size_gib")
    return body.size_gib


def _from_image(body: VolumeCreate, picture: Row | None) -> int | errors.NubilaError:
    if picture is None:
        return errors.Invalid(f"There is no image '{body.image}'.", field="image", fix="See 'nubila image list'.")
    if picture["state"] != image.State.READY:
        return errors.Conflict(f"Image '{picture['name']}' has no content yet.", field="image")
    if picture["spec"]["format"] not in ("qcow2", "raw"):
        return errors.Invalid(
            f"Image '{picture['name']}' is of format {picture['spec']['format']}; no disk is made of that.",
            field="image",
        )
    least = int(picture["spec"]["min_disk_gib"])
    if body.size_gib is not None and body.size_gib < least:
        return errors.Invalid(
            f"size_gib is {body.size_gib}; image '{picture['name']}' needs at least {least} GiB.", field="size_gib"
        )
    return body.size_gib or least


def _from_volume(body: VolumeCreate, view: View) -> int | errors.NubilaError:
    source = view["source"]
    if source is None:
        return errors.Invalid(f"There is no volume '{body.source}'.", field="source", fix="See 'nubila volume list'.")
    if source["state"] != volume.State.READY:
        return errors.Conflict(
            f"Volume '{source['name']}' is {source['state']}; only a ready one can be copied.", state=source["state"]
        )
    if not (source["hypervisor"] or {}).get("live_copies", True):
        return errors.Unsupported(
            f"The hypervisor of the VM that has volume '{source['name']}' cannot copy it while it runs.",
            fix="Stop the VM first.",
        )
    size_gib = int(source["spec"]["size_gib"])
    if body.size_gib is not None and body.size_gib < size_gib:
        return errors.Invalid(
            f"size_gib is {body.size_gib}; a copy of '{source['name']}' needs at least {size_gib} GiB.",
            field="size_gib",
        )
    if view["vm"] is not None and view["vm"]["node_id"] != source["node_id"]:
        return errors.Conflict(
            f"Volume '{source['name']}' lies on another host than VM '{view['vm']['name']}', and its pool is local.",
            fix="Leave 'for_vm' out: the copy is made beside its source.",
        )
    return body.size_gib or size_gib


def _place(size_gib: int, view: View, nodes: Nodes, asking: Asking, seed: int) -> Place | errors.NubilaError:
    """Beside what it is copied from or made for; otherwise where there is room."""
    beside = view["source"] or view["vm"]
    if beside is not None:
        place = Place(UUID(beside["node_id"]), beside["node_name"])
        free = {n.id: int(nodes.free_disk_gib[i]) for i, n in enumerate(nodes.rows)}.get(place.node_id, 0)
        if free < size_gib:
            what = "its source" if view["source"] else f"VM '{beside['name']}'"
            return errors.NoCapacity(
                f"The pool beside {what} has too little room for {size_gib} GiB.",
                fix="Ask for less, remove volumes there, or ask your operator for more capacity.",
            )
        return place
    decision = decide(Request(cores=0, memory_mib=0, disk_gib=size_gib, seed=seed), nodes)
    if isinstance(decision, Refusal):
        worst = "; ".join(f"{k} by {v}" for k, v in (decision.nearest.short if decision.nearest else {}).items())
        change = decision.would_fit.get("disk_gib")
        return errors.NoCapacity(
            (f"No pool can hold this volume: the nearest falls short in {worst}." if worst else "There is no pool.")
            + (f" It would fit with size_gib = {change}." if change else ""),
            would_fit={"size_gib": change} if change else {},
        )
    node = nodes.rows[decision.choices[0].index]
    return Place(node.id, node.name)


def _rows(body: VolumeCreate, view: View, draft: Draft, asking: Asking, size_gib: int, place: Place) -> Row:
    picture = view["image"] if body.image else None
    source = view["source"] if body.source else None
    format_ = body.format or (volume.Format(source["spec"]["format"]) if source else volume.Format.QCOW2)
    spec = volume.Spec(
        size_gib=size_gib,
        format=format_,
        cache=body.cache,
        limits=body.limits,
        image_id=None if picture is None else text("image", UUID(picture["id"])),
        image_sha256=None if picture is None else picture["sha256"],
        image_format=None if picture is None else picture["spec"]["format"],
        source_volume_id=None if source is None else text("volume", UUID(source["id"])),
    )
    if picture is not None:
        draft.rests_on("image", picture)
    if source is not None:
        draft.rests_on("volume", source)
    if view["vm"] is not None:
        draft.rests_on("vm", view["vm"], compare=False)
    row = draft.inserts(
        "volume",
        id=asking.mint(),
        project_id=asking.project_id,
        name=body.name,
        labels=body.labels,
        spec=builtins(spec),
        generation=1,
        state=volume.State.PENDING.value,
        node_id=place.node_id,
        image_id=None if picture is None else picture["id"],
        source_id=None if source is None else source["id"],
    )
    draft.inserts("allocation", holder_id=row["id"], **{"class": "disk_gib"}, node_id=place.node_id, amount=size_gib)
    draft.takes_capacity(place.node_id, "disk_gib", size_gib)
    return row
