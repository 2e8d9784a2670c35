"""Further verbs of `nubila vm`: reset, suspend, change, protect, hold, and reading back what it was given."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from nubila.cli import flow, values
from nubila.cli.options import Common, Write, WriteEither, named
from nubila.cli.session import Session

Vm = Annotated[str, named("vm")]


def reset(vm: Vm, /, *, options: Write = Write()) -> int:
    """Reset a VM at once, without asking its guest."""
    session = Session(options)
    return flow.change(lambda how: session.user.reset_vm(vm, how), options, session, "reset")


def suspend(vm: Vm, /, *, options: Write = Write()) -> int:
    """Stop a VM's virtual CPUs and keep its memory."""
    session = Session(options)
    return flow.change(lambda how: session.user.suspend_vm(vm, how), options, session, "suspended")


def resume(vm: Vm, /, *, options: Write = Write()) -> int:
    """Let a suspended VM go on."""
    session = Session(options)
    return flow.change(lambda how: session.user.resume_vm(vm, how), options, session, "resumed")


def set_(
    vm: Vm,
    /,
    *,
    on_crash: Annotated[
        Literal["restart", "stop", "preserve"] | None, Parameter(help="What follows when it crashes.")
    ] = None,
    cores: Annotated[int | None, Parameter(help="Virtual cores.")] = None,
    memory_mib: Annotated[int | None, Parameter(help="Memory in MiB.")] = None,
    flavor: Annotated[str | None, named("flavor", "Cores and memory of this flavor.")] = None,
    boot: Annotated[str | None, Parameter(help="Boot order, as `cdrom,disk`; from its next start on.")] = None,
    options: Write = Write(),
) -> int:
    """Change settings of a VM. What cannot change while it runs is said by --plan, and changes at its next start."""
    session = Session(options)
    body = values.given(
        on_crash=on_crash, cores=cores, memory_mib=memory_mib, flavor=flavor, boot=boot.split(",") if boot else None
    )
    return flow.change(lambda how: session.user.change_vm(vm, body, how), options, session, "changed")


def insert(
    vm: Vm, /, image: Annotated[str, named("image", "An image of format iso.")], *, options: Write = Write()
) -> int:
    """Put an ISO into a VM's drive, also while it runs."""
    session = Session(options)
    return flow.change(lambda how: session.user.insert_iso(vm, image, how), options, session, "given the ISO")


def eject(vm: Vm, /, *, options: Write = Write()) -> int:
    """Take the ISO out of a VM's drive, also while it runs."""
    session = Session(options)
    return flow.change(lambda how: session.user.eject_iso(vm, how), options, session, "without an ISO")


def rescue(
    vm: Vm, /, image: Annotated[str, named("image", "An image of format iso.")], *, options: Write = Write()
) -> int:
    """Start a stopped VM from an ISO, its disks attached."""
    session = Session(options)
    return flow.change(lambda how: session.user.rescue_vm(vm, image, how), options, session, "in rescue")


def unrescue(vm: Vm, /, *, options: Write = Write()) -> int:
    """End the rescue of a stopped VM: its next start is from its disk."""
    session = Session(options)
    return flow.change(lambda how: session.user.unrescue_vm(vm, how), options, session, "out of rescue")


def protect(vm: Vm, /, *, options: Write = Write()) -> int:
    """Protect a VM against removal."""
    session = Session(options)
    return flow.change(lambda how: session.user.change_vm(vm, {"protected": True}, how), options, session, "protected")


def unprotect(vm: Vm, /, *, options: Write = Write()) -> int:
    """Take a VM's protection against removal away."""
    session = Session(options)
    body = {"protected": False}
    return flow.change(lambda how: session.user.change_vm(vm, body, how), options, session, "unprotected")


def hold(
    vm: Vm,
    /,
    *,
    why: Annotated[str, Parameter(help="What whoever tries to change it is told.")],
    options: WriteEither = WriteEither(),
) -> int:
    """Hold a VM: every change but lifting the hold is refused, with the reason."""
    session = Session(options)
    api = session.either(options.as_)
    return flow.change(
        lambda how: api.hold_vm(vm, why, how), options, session, "held", plane=session.plane(options.as_)
    )


def unhold(vm: Vm, /, *, options: WriteEither = WriteEither()) -> int:
    """Lift a hold. Operators' holds are lifted by operators."""
    session = Session(options)
    api = session.either(options.as_)
    return flow.change(
        lambda how: api.unhold_vm(vm, how), options, session, "no longer held", plane=session.plane(options.as_)
    )


def boot_string(vm: Vm, /, *, options: Common = Common()) -> int:
    """Print the boot string that a VM was given."""
    return flow.one(Session(options).user.vm_boot_string(vm), options, lambda found: str(found.get("boot_string", "")))


def user_data(vm: Vm, /, *, options: Common = Common()) -> int:
    """Print the user data that a VM was given. It may hold secrets: each reading is recorded."""
    return flow.one(Session(options).user.vm_user_data(vm), options, lambda found: str(found.get("user_data", "")))
