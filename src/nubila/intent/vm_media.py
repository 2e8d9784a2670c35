"""What is in a vm's drive, and booting it from there for rescue. Pure."""

from __future__ import annotations

from uuid import UUID

import msgspec

from nubila import errors
from nubila.intent.asking import Asking, Outcome, next_number
from nubila.intent.vm import View, barred, driveless, opened, wished
from nubila.model import image, operation, vm
from nubila.model.draft import Drafted, Row
from nubila.model.fields import Reference
from nubila.model.ids import text


class VmInsert(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Put an ISO into a VM's drive, also while it runs; what is in it goes out."""

    image: Reference


class VmRescue(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Start a stopped VM from an ISO, its disks attached."""

    image: Reference


def insert(body: VmInsert, picture: Row | None, view: View, asking: Asking) -> Outcome:
    row, spec = opened(view)
    if (no := barred(row, spec) or driveless(view, spec)) is not None:
        return no
    found = _medium(body.image, picture)
    if isinstance(found, errors.NubilaError):
        return found
    assert picture is not None
    if spec.media == found:
        return errors.Conflict(f"'{found.name}' is in the drive of VM '{row['name']}' already.", state=row["state"])
    return _changed(view, asking, row, spec, found, operation.Verb.INSERT, picture)


def eject(view: View, asking: Asking) -> Outcome:
    row, spec = opened(view)
    if (no := barred(row, spec)) is not None:
        return no
    if spec.media is None:
        return errors.Conflict(f"The drive of VM '{row['name']}' is empty.", state=row["state"])
    if spec.rescue:
        return errors.Conflict(
            f"VM '{row['name']}' is in rescue from '{spec.media.name}'.",
            state=row["state"],
            fix="Stop it, then unrescue it.",
        )
    return _changed(view, asking, row, spec, None, operation.Verb.EJECT, None)


def rescue(body: VmRescue, picture: Row | None, view: View, asking: Asking) -> Outcome:
    row, spec = opened(view)
    if (no := barred(row, spec) or driveless(view, spec) or _running(row, spec)) is not None:
        return no
    found = _medium(body.image, picture)
    if isinstance(found, errors.NubilaError):
        return found
    starts = next_number(spec.starts, row, "starts")
    wish = msgspec.structs.replace(
        spec, media=found, rescue=True, power=vm.Power.ON, suspended=False, starts=starts,
        repairs=next_number(spec.repairs, row, "repairs"),
    )  # fmt: skip
    columns = {"media_image_id": UUID(picture["id"])} if picture is not None else {}
    outcome = wished(view, asking, row, wish, operation.Verb.RESCUE, count=starts, columns=columns)
    if isinstance(outcome, Drafted) and picture is not None:
        outcome.draft.rests_on("image", picture)
    return outcome


def unrescue(view: View, asking: Asking) -> Outcome:
    """Its next start is from its disk again, with an empty drive."""
    row, spec = opened(view)
    if (no := barred(row, spec)) is not None:
        return no
    if not spec.rescue:
        return errors.Conflict(f"VM '{row['name']}' is not in rescue.", state=row["state"])
    if (no := _running(row, spec)) is not None:
        return no
    return _changed(view, asking, row, msgspec.structs.replace(spec, rescue=False), None, operation.Verb.EJECT, None)


def _running(row: Row, spec: vm.Spec) -> errors.NubilaError | None:
    if row["state"] == vm.State.STOPPED and spec.power is vm.Power.OFF:
        return None
    return errors.Conflict(
        f"VM '{row['name']}' is {row['state']}; what it boots from is decided when it is started.",
        state=row["state"],
        fix="Stop it first.",
    )


def _medium(named: str, picture: Row | None) -> vm.Media | errors.NubilaError:
    if picture is None:
        return errors.Invalid(f"There is no image '{named}'.", field="image", fix="See 'nubila image list'.")
    if picture["spec"]["format"] != image.Format.ISO:
        return errors.Invalid(
            f"Image '{picture['name']}' is {picture['spec']['format']}, not an ISO.",
            field="image",
            fix="Name an image of format iso.",
        )
    if picture["state"] != image.State.READY:
        return errors.Conflict(f"Image '{picture['name']}' has no content yet.", fix="Upload its content first.")
    return vm.Media(image_id=text("image", UUID(picture["id"])), sha256=picture["sha256"], name=picture["name"])


def _changed(
    view: View,
    asking: Asking,
    row: Row,
    spec: vm.Spec,
    media: vm.Media | None,
    verb: operation.Verb,
    picture: Row | None,
) -> Outcome:
    """By the counter under which the node makes a domain as it is wished."""
    repairs = next_number(spec.repairs, row, "repairs")
    wish = msgspec.structs.replace(spec, media=media, repairs=repairs)
    columns = {"media_image_id": None if picture is None else UUID(picture["id"])}
    outcome = wished(view, asking, row, wish, verb, count=repairs, columns=columns)
    if isinstance(outcome, Drafted) and picture is not None:
        outcome.draft.rests_on("image", picture)
    return outcome
