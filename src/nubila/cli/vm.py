"""`nubila vm`: create, look at, and change VMs. Console and ssh are in `vm_inside`."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from cyclopts import Parameter

from nubila.cli import flow, history, values, vm_more
from nubila.cli.options import Either, Listing, Write, WriteEither, named, noun, source, verb
from nubila.cli.session import Session
from nubila.cli.vm_inside import console, ssh
from nubila.client.calls import How

app = noun("vm", "Virtual machines.")

Vm = Annotated[str, named("vm")]


@verb(
    app,
    "create",
    "nubila vm create web --flavor tiny --image nubila-mini --key first",
    "nubila vm create web --flavor tiny --image nubila-mini --plan",
    "nubila vm create db --flavor small --image nubila-mini --network default --label tier=db --user-data init.yaml",
)
def create(
    name: str,
    /,
    *,
    flavor: Annotated[str, named("flavor", "Cores, memory and disk: `nubila flavor list`.")],
    image: Annotated[str, named("image", "What its disk begins as: `nubila image list`.")],
    network: Annotated[
        list[str] | None, named("network", "Network to join; repeatable. The default one if not given.")
    ] = None,
    security_group: Annotated[
        list[str] | None, named("security-group", "Group its ports are in; repeatable. 'default' if not given.")
    ] = None,
    key: Annotated[list[str] | None, named("keypair", "Key pair that may log in; repeatable.")] = None,
    user_data: Annotated[str | None, source("File with user data for the guest, or '-'.")] = None,
    boot_string: Annotated[str | None, Parameter(help="Opaque string for the guest.")] = None,
    hostname: Annotated[str | None, Parameter(help="The guest's host name, if not the VM's name.")] = None,
    disk_gib: Annotated[int | None, Parameter(help="Size of its disk in GiB, if not the flavor's.")] = None,
    label: Annotated[list[str] | None, Parameter(negative="", help="KEY=VALUE; repeatable.")] = None,
    power: Annotated[Literal["on", "off"] | None, Parameter(help="'off' leaves it stopped.")] = None,
    virt_method: Annotated[str | None, Parameter(help="kvm, qemu, ...; chosen if not given.")] = None,
    on_crash: Annotated[
        Literal["restart", "stop", "preserve"] | None, Parameter(help="What follows when it crashes.")
    ] = None,
    protected: Annotated[bool | None, Parameter(negative="", help="It cannot be deleted until unprotected.")] = None,
    zone: Annotated[str | None, Parameter(help="Only on a host of this zone; on any if not given.")] = None,
    options: Write = Write(),
) -> int:
    """Create a VM, and wait until it runs."""
    body = values.given(
        name=name,
        flavor=flavor,
        image=image,
        networks=network,
        security_groups=security_group,
        keys=key,
        user_data=None if user_data is None else values.text(user_data, "user data"),
        boot_string=boot_string,
        hostname=hostname,
        disk_gib=disk_gib,
        labels=values.labels(label),
        power=power,
        virt_method=virt_method,
        on_crash=on_crash,
        protected=protected,
        zone=zone,
    )
    session = Session(options)
    return flow.change(lambda how: session.user.create_vm(body, how), options, session, "created")


@verb(
    app,
    "list",
    "nubila vm list",
    "nubila vm list --label tier=web -o wide",
    "nubila vm list --as operator --node host1",
)
def list_(
    *,
    node: Annotated[str | None, named("node", "Only VMs on this node (operators).")] = None,
    options: Listing = Listing(),
) -> int:
    """List VMs."""
    session = Session(options)
    plane = session.plane(options.as_)
    find = replace(options.find(), more=(("node", node),))
    return flow.listing("vm", lambda: session.either(plane).vms(find), options, plane)


@verb(app, "show", "nubila vm show web", "nubila vm show web --json")
def show(vm: Vm, /, *, options: Either = Either()) -> int:
    """Show a VM with all that is known of it."""
    return flow.one(Session(options).either(options.as_).vm(vm), options)


@verb(app, "start", "nubila vm start web")
def start(vm: Vm, /, *, options: WriteEither = WriteEither()) -> int:
    """Start a stopped VM."""
    session = Session(options)
    plane = session.plane(options.as_)
    api = session.either(plane)
    return flow.change(lambda how: api.start_vm(vm, how), options, session, "started", plane=plane)


@verb(app, "stop", "nubila vm stop web", "nubila vm stop web --shutdown-timeout 20", "nubila vm stop web --hard")
def stop(
    vm: Vm,
    /,
    *,
    hard: Annotated[bool, Parameter(negative="", show_default=False, help="Cut the power at once.")] = False,
    shutdown_timeout_s: Annotated[
        float | None,
        Parameter(name="--shutdown-timeout", help="Seconds for the guest before the power is cut, if not 60."),
    ] = None,
    options: WriteEither = WriteEither(),
) -> int:
    """Stop a VM: ask the guest's agent, then press its power button, then cut the power."""
    session = Session(options)
    plane = session.plane(options.as_)
    mode = "hard" if hard else "clean"

    def call(how: How) -> flow.Json:
        return session.either(plane).stop_vm(vm, mode=mode, timeout_s=shutdown_timeout_s, how=how)

    return flow.change(call, options, session, "stopped", plane=plane)


@verb(app, "reboot", "nubila vm reboot web")
def reboot(vm: Vm, /, *, options: WriteEither = WriteEither()) -> int:
    """Reboot a VM."""
    session = Session(options)
    plane = session.plane(options.as_)
    api = session.either(plane)
    return flow.change(lambda how: api.reboot_vm(vm, how), options, session, "rebooted", plane=plane)


@verb(app, "rename", "nubila vm rename web www")
def rename(vm: Vm, name: str, /, *, options: Write = Write()) -> int:
    """Give a VM another name. Its host name inside stays as it is."""
    session = Session(options)
    return flow.change(lambda how: session.user.change_vm(vm, {"name": name}, how), options, session, "renamed")


@verb(app, "label", "nubila vm label web tier=front owner-")
def label(
    vm: Vm, /, *changes: Annotated[str, Parameter(help="KEY=VALUE sets, KEY- removes.")], options: Write = Write()
) -> int:
    """Set and remove labels of a VM."""
    session = Session(options)
    found, etag = session.user.tagged(f"/v1/vms/{flow.segment(vm)}")
    body = {"labels": values.relabelled(found.get("labels") or {}, changes)}

    def call(how: How) -> flow.Json:
        # All labels are sent, so nobody else's change may lie between reading and writing them.
        own = How(plan=how.plan, key=how.key, if_match=how.if_match or etag)
        return session.user.change_vm(vm, body, own)

    return flow.change(call, options, session, "labelled")


@verb(app, "delete", "nubila vm delete web", "nubila vm delete web --plan", "nubila vm delete vm-01k... --as operator")
def delete(vm: Vm, /, *, options: WriteEither = WriteEither()) -> int:
    """Delete a VM and its own disk."""
    session = Session(options)
    plane = session.plane(options.as_)
    api = session.either(plane)
    return flow.change(lambda how: api.delete_vm(vm, how), options, session, "deleted", plane=plane)


@verb(app, "placement", "nubila vm placement web")
def placement(vm: Vm, /, *, options: Either = Either()) -> int:
    """Show why a VM is where it is, and what was refused."""
    return flow.one(Session(options).either(options.as_).vm_placement(vm), options)


verb(app, "reset", "nubila vm reset web")(vm_more.reset)
verb(app, "suspend", "nubila vm suspend web")(vm_more.suspend)
verb(app, "resume", "nubila vm resume web")(vm_more.resume)
verb(app, "set", "nubila vm set web --on-crash stop", "nubila vm set web --cores 2 --memory-mib 1024 --plan")(
    vm_more.set_
)
verb(app, "insert", "nubila vm insert web debian-13-netinst")(vm_more.insert)
verb(app, "eject", "nubila vm eject web")(vm_more.eject)
verb(app, "rescue", "nubila vm rescue web grml")(vm_more.rescue)
verb(app, "unrescue", "nubila vm unrescue web")(vm_more.unrescue)
verb(app, "protect", "nubila vm protect web")(vm_more.protect)
verb(app, "unprotect", "nubila vm unprotect web")(vm_more.unprotect)
verb(app, "hold", "nubila vm hold web --why 'evidence, ask Ann'")(vm_more.hold)
verb(app, "unhold", "nubila vm unhold web", "nubila vm unhold vm-01k... --as operator")(vm_more.unhold)
verb(app, "boot-string", "nubila vm boot-string web")(vm_more.boot_string)
verb(app, "user-data", "nubila vm user-data web")(vm_more.user_data)
verb(app, "console", "nubila vm console web", "nubila vm console web --bytes 2000")(console)
verb(app, "ssh", "nubila vm ssh web", "nubila vm ssh web -- uname -a", "nubila vm ssh web --print")(ssh)

history.of(app, "vm", "vms")
