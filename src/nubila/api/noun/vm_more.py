"""VMs: reset, suspend, resume, hold, and reading back what was given at create."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec

from nubila import errors
from nubila.api.context import ApiCall, carried, project_of, ref
from nubila.api.noun.vm import seen_vm, shown_vm, verb_on, viewed
from nubila.api.route import Answer
from nubila.intent import vm_hold, vm_media, vm_power
from nubila.intent.asking import Asking, Outcome
from nubila.intent.vm import View
from nubila.model.draft import Row
from nubila.model.ids import text


async def reset_vm(call: ApiCall) -> Answer:
    """Reset a VM at once, as its reset button would; at most once."""
    return await verb_on(call, "vm.reset", vm_power.reset)


async def suspend_vm(call: ApiCall) -> Answer:
    """Stop a VM's virtual CPUs and keep its memory, until it is resumed or its node goes down."""
    return await verb_on(call, "vm.suspend", vm_power.suspend)


async def resume_vm(call: ApiCall) -> Answer:
    """Let a suspended VM go on."""
    return await verb_on(call, "vm.resume", vm_power.resume)


async def insert_iso(call: ApiCall) -> Answer:
    """Put an ISO into a VM's drive, also while it runs."""
    return await _with_image(call, "vm.insert", vm_media.insert)


async def eject_iso(call: ApiCall) -> Answer:
    """Take the ISO out of a VM's drive, also while it runs."""
    return await verb_on(call, "vm.eject", vm_media.eject)


async def rescue_vm(call: ApiCall) -> Answer:
    """Start a stopped VM from an ISO, its disks attached."""
    return await _with_image(call, "vm.rescue", vm_media.rescue)


async def unrescue_vm(call: ApiCall) -> Answer:
    """End the rescue of a stopped VM: its next start is from its disk."""
    return await verb_on(call, "vm.unrescue", vm_media.unrescue)


async def _with_image(
    call: ApiCall, permission: str, verb: Callable[[Any, Row | None, View, Asking], Outcome]
) -> Answer:
    """The verb on the vm with the image that the body names, as far as the project may use it."""

    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        view = await viewed(call)
        image_id, name = ref("image", call.body.image)
        project_id = project_of(call)
        picture = await call.context.resources.whole("image", project_id=project_id, object_id=image_id, name=name)
        return verb(call.body, picture, view, asking(view["now"]))

    return await carried(call, permission, attempt, shown_vm)


async def hold_vm(call: ApiCall) -> Answer:
    """Hold a VM with a reason: until it is lifted, every other change is refused with it."""
    return await verb_on(call, "vm.hold", lambda view, asking: vm_hold.hold(call.body, view, asking))


async def unhold_vm(call: ApiCall) -> Answer:
    """Lift a hold. Operators' holds are lifted by operators only."""
    return await verb_on(call, "vm.unhold", vm_hold.unhold)


async def boot_string(call: ApiCall) -> Answer:
    """The boot string that the VM was given."""
    row = await seen_vm(call)
    spec: dict[str, Any] = msgspec.json.decode(row["spec"])
    return Answer(body={"vm_id": text("vm", row["id"]), "boot_string": spec.get("boot_string", "")})


async def user_data(call: ApiCall) -> Answer:
    """The user data that the VM was given: a secret, so each reading of it is kept with the calls."""
    row = await seen_vm(call)
    c = call.context
    secret_id = await c.vms.user_data_secret(row["id"])
    sealed = None if secret_id is None else await c.accounts.secret(secret_id)
    if secret_id is None or sealed is None:
        raise errors.NotFound(f"VM '{row['name']}' was given no user data.")
    await c.carrier.ledger.call(
        c.carrier.mint(),
        actor=call.principal.actor,
        project_id=call.principal.project_id,
        request=call.request_id,
        action="vm.read_user_data",
        outcome="read-secret",
        kind="vm",
        object_id=row["id"],
    )
    plain = c.vault.unseal(str(secret_id), bytes.fromhex(sealed["nonce"]), bytes.fromhex(sealed["sealed"])).decode()
    headers = {"cache-control": "no-store"}
    return Answer(body={"vm_id": text("vm", row["id"]), "user_data": plain}, headers=headers)
