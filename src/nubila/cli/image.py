"""`nubila image`: what disks begin as. Operators upload them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated, Any, Literal

from cyclopts import Parameter

from nubila.cli import exits, flow, history, progress, table, values
from nubila.cli.exits import Failure
from nubila.cli.options import Common, Either, Listing, Write, named, noun, verb
from nubila.cli.session import Session
from nubila.client.answers import ConnectionFailed

app = noun("image", "What disks begin as.")

PIECE_BYTES = 1 << 18


@verb(app, "list", "nubila image list", "nubila image list -o wide")
def list_(*, options: Listing = Listing()) -> int:
    """List images."""
    session = Session(options)
    items = session.either(options.as_).images(options.find())
    return flow.listing("image", items, options, session.plane(options.as_))


@verb(app, "show", "nubila image show nubila-mini")
def show(image: Annotated[str, named("image")], /, *, options: Either = Either()) -> int:
    """Show an image."""
    return flow.one(Session(options).either(options.as_).image(image), options)


@verb(
    app,
    "upload",
    "nubila image upload debian-12.qcow2 --name debian-12 --format qcow2 --login debian --min-disk-gib 3 --public",
    "nubila image upload debian-12.qcow2 --into debian-12",
)
def upload(
    file: Path,
    /,
    *,
    name: Annotated[str | None, Parameter(help="Name of the new image.")] = None,
    format: Annotated[Literal["qcow2", "raw"] | None, Parameter(help="What the file is.")] = None,
    into: Annotated[
        str | None, named("image", "Send the file into this image, made before, whose content never came.")
    ] = None,
    public: Annotated[bool | None, Parameter(help="Whether every project may use it.")] = None,
    os: Annotated[str | None, Parameter(help="What runs in it.")] = None,
    login: Annotated[str | None, Parameter(help="The account that gets the SSH keys.")] = None,
    min_disk_gib: int | None = None,
    min_memory_mib: int | None = None,
    label: Annotated[list[str] | None, Parameter(negative="", help="KEY=VALUE; repeatable.")] = None,
    options: Common = Common(),
) -> int:
    """Create an image and send its content (operators)."""
    if (into is None) == (name is None) or (name is not None and format is None):
        raise Failure("Give --name and --format, or --into alone.", code=exits.USAGE)
    session = Session(options)
    with _opened(file) as source:
        image = into or ""
        if into is None:
            body = values.given(
                name=name,
                format=format,
                public=public,
                os=os,
                login=login,
                min_disk_gib=min_disk_gib,
                min_memory_mib=min_memory_mib,
                labels=values.labels(label),
            )
            made = flow.subject(session.operator.create_image(body))
            image = str(made["id"])
        answer = _send(session, image, file, source)
    return _report(answer, options)


@verb(app, "delete", "nubila image delete debian-12")
def delete(image: Annotated[str, named("image")], /, *, options: Write = Write()) -> int:
    """Delete an image (operators). Disks made from it stay."""
    session = Session(options)
    return flow.change(
        lambda how: session.operator.delete_image(image, how), options, session, "deleted", plane="operator"
    )


def _send(session: Session, image: str, file: Path, source: IO[bytes]) -> flow.Json:
    """Send the file and compare what arrived by its hash."""
    size = file.stat().st_size
    line = progress.Line()
    digest = hashlib.sha256()
    shown = _Share(file.name, size, line)
    try:
        answer = session.operator.upload_image(image, _hashed(source, digest), length=size, progress=shown)
    except ConnectionFailed as e:
        raise Failure(
            e.detail,
            fix=f"`nubila image upload {file} --into {image}{session.again()}` sends the content again.",
            code=exits.UNAVAILABLE,
        ) from None
    finally:
        line.end()
    stored = table.pick(flow.subject(answer), "sha256")
    if stored and stored != digest.hexdigest():
        raise Failure(
            f"The stored content has the SHA-256 {stored}, the file {digest.hexdigest()}.",
            fix=f"`nubila image delete {image}{session.again()}`, then upload it again.",
        )
    return answer


class _Share:
    """Tells the line which share is sent, at each whole tenth (on a terminal: each hundredth)."""

    def __init__(self, name: str, size: int, line: progress.Line) -> None:
        self._name, self._size, self._line, self._last = name, size, line, -1

    def __call__(self, sent: int) -> None:
        step = 100 * sent // max(self._size, 1) // (1 if self._line.tty else 10)
        if step != self._last:
            self._last = step
            self._line.show(f"{self._name}: {100 * sent // max(self._size, 1)} % of {self._size / (1 << 20):.1f} MiB")


def _report(answer: flow.Json, options: Common) -> int:
    if options.json:
        flow.print_json(answer)
    else:
        print(flow.summary(answer, "uploaded"))
    return exits.OK


def _opened(file: Path) -> IO[bytes]:
    try:
        return file.expanduser().open("rb")
    except OSError as e:
        raise Failure(f"{file} cannot be read: {e.strerror}.", code=exits.USAGE) from None


def _hashed(source: IO[bytes], digest: Any) -> Iterator[bytes]:
    while piece := source.read(PIECE_BYTES):
        digest.update(piece)
        yield piece


history.of(app, "image", "images")
