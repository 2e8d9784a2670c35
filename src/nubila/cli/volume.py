"""`nubila volume` and `nubila snapshot`: disks of a project, and the bytes they once had."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from nubila.cli import flow, history, values
from nubila.cli.options import Either, Listing, Write, named, noun, verb
from nubila.cli.session import Session

app = noun("volume", "Disks.")
snapshot = noun("snapshot", "What disks once held.")

Volume = Annotated[str, named("volume")]
Snapshot = Annotated[str, named("snapshot")]
Cache = Literal["default", "none", "writethrough", "writeback", "directsync", "unsafe"]
LIMIT = (
    "KEY=NUMBER per second, KEY one of read_iops, write_iops, read_bytes, write_bytes, each also with _burst, "
    "and burst_s; repeatable."
)
Limits = Annotated[list[str] | None, Parameter(name="--limit", negative="", help=LIMIT)]


@verb(app, "list", "nubila volume list", "nubila volume list -o json")
def list_(*, options: Listing = Listing()) -> int:
    """List volumes."""
    session = Session(options)
    return flow.listing(
        "volume", lambda: session.either(options.as_).volumes(options.find()), options, session.plane(options.as_)
    )


@verb(app, "show", "nubila volume show data")
def show(volume: Volume, /, *, options: Either = Either()) -> int:
    """Show a volume with all that is known of it."""
    return flow.one(Session(options).either(options.as_).volume(volume), options)


@verb(
    app,
    "create",
    "nubila volume create data --size-gib 20 --for-vm db",
    "nubila volume create copy --source data",
    "nubila volume create root2 --image debian-12 --size-gib 10 --plan",
)
def create(
    name: str,
    /,
    *,
    size_gib: Annotated[int | None, Parameter(help="Size in GiB; that of its source if not given.")] = None,
    format: Annotated[Literal["qcow2", "raw"] | None, Parameter(help="How it is kept; qcow2 if not given.")] = None,
    image: Annotated[str | None, named("image", "What it begins as.")] = None,
    source: Annotated[str | None, named("volume", "Begin as a copy of this volume.")] = None,
    for_vm: Annotated[str | None, named("vm", "Make it where this VM is, so that it can be attached there.")] = None,
    cache: Annotated[Cache | None, Parameter(help="Cache mode.")] = None,
    limit: Limits = None,
    label: Annotated[list[str] | None, Parameter(negative="", help="KEY=VALUE; repeatable.")] = None,
    options: Write = Write(),
) -> int:
    """Create a volume: empty, from an image, or as a copy of another one."""
    body = values.given(
        name=name,
        size_gib=size_gib,
        format=format,
        image=image,
        source=source,
        for_vm=for_vm,
        cache=cache,
        limits=values.amounts(limit) if limit else None,
        labels=values.labels(label),
    )
    session = Session(options)
    return flow.change(lambda how: session.user.create_volume(body, how), options, session, "created")


@verb(app, "attach", "nubila volume attach data db", "nubila volume attach data db --plan")
def attach(volume: Volume, vm: Annotated[str, named("vm")], /, *, options: Write = Write()) -> int:
    """Attach a volume to a VM: at once when it runs."""
    session = Session(options)
    return flow.change(lambda how: session.user.attach_volume(volume, vm, how), options, session, "attached")


@verb(app, "detach", "nubila volume detach data")
def detach(volume: Volume, /, *, options: Write = Write()) -> int:
    """Detach a volume from its VM; done when that provably cannot write it any more."""
    session = Session(options)
    return flow.change(lambda how: session.user.detach_volume(volume, how), options, session, "detached")


@verb(app, "resize", "nubila volume resize data 40", "nubila volume resize data 40 --plan")
def resize(volume: Volume, size_gib: int, /, *, options: Write = Write()) -> int:
    """Enlarge a volume, in use or not. The file system inside is the guest's to enlarge."""
    session = Session(options)
    return flow.change(
        lambda how: session.user.change_volume(volume, {"size_gib": size_gib}, how), options, session, "resized"
    )


@verb(
    app,
    "change",
    "nubila volume change data --limit write_iops=500 --limit write_iops_burst=2000 --limit burst_s=10",
    "nubila volume change data --cache writeback --name archive",
)
def change(
    volume: Volume,
    /,
    *,
    name: Annotated[str | None, Parameter(help="Another name.")] = None,
    limit: Limits = None,
    cache: Annotated[Cache | None, Parameter(help="Cache mode, from the VM's next start.")] = None,
    remove_with_vm: Annotated[bool | None, Parameter(help="Whether it goes when its VM is deleted.")] = None,
    options: Write = Write(),
) -> int:
    """Limit a volume (what is not named is not limited), choose its cache mode, rename it."""
    body = values.given(
        name=name,
        limits=values.amounts(limit) if limit else None,
        cache=cache,
        remove_with_vm=remove_with_vm,
    )
    session = Session(options)
    return flow.change(lambda how: session.user.change_volume(volume, body, how), options, session, "changed")


@verb(app, "roll-back", "nubila volume roll-back data before-upgrade --plan")
def roll_back(volume: Volume, snapshot: Snapshot, /, *, options: Write = Write()) -> int:
    """Bring back the bytes of a snapshot. What was written since is lost."""
    session = Session(options)
    return flow.change(
        lambda how: session.user.roll_back_volume(volume, snapshot, how), options, session, "rolled back"
    )


@verb(app, "delete", "nubila volume delete data", "nubila volume delete data --plan")
def delete(volume: Volume, /, *, options: Write = Write()) -> int:
    """Delete a volume with its bytes."""
    session = Session(options)
    return flow.change(lambda how: session.user.delete_volume(volume, how), options, session, "deleted")


@verb(snapshot, "create", "nubila snapshot create before-upgrade --volume data")
def create_snapshot(
    name: str,
    /,
    *,
    volume: Annotated[str, named("volume", "The volume whose bytes are kept.")],
    label: Annotated[list[str] | None, Parameter(negative="", help="KEY=VALUE; repeatable.")] = None,
    options: Write = Write(),
) -> int:
    """Keep the bytes that a volume has now, also while a VM writes it."""
    body = values.given(name=name, labels=values.labels(label))
    session = Session(options)
    return flow.change(lambda how: session.user.create_snapshot(volume, body, how), options, session, "created")


@verb(snapshot, "list", "nubila snapshot list")
def list_snapshots(*, options: Listing = Listing()) -> int:
    """List snapshots."""
    session = Session(options)
    return flow.listing(
        "snapshot", lambda: session.either(options.as_).snapshots(options.find()), options, session.plane(options.as_)
    )


@verb(snapshot, "show", "nubila snapshot show before-upgrade")
def show_snapshot(snapshot: Snapshot, /, *, options: Either = Either()) -> int:
    """Show a snapshot."""
    return flow.one(Session(options).either(options.as_).snapshot(snapshot), options)


@verb(snapshot, "delete", "nubila snapshot delete before-upgrade")
def delete_snapshot(snapshot: Snapshot, /, *, options: Write = Write()) -> int:
    """Delete a snapshot. Its volume stays as it is."""
    session = Session(options)
    return flow.change(lambda how: session.user.delete_snapshot(snapshot, how), options, session, "deleted")


history.of(app, "volume", "volumes")
history.of(snapshot, "snapshot", "snapshots")
