"""VMs: reset, suspend, resume, hold, and reading back what was given at create."""

from __future__ import annotations

from typing import Any

import msgspec

from nubila import errors
from nubila.api.context import ApiCall
from nubila.api.noun.vm import seen_vm, verb_on
from nubila.api.route import Answer
from nubila.intent import vm_hold, vm_power
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
